"""`file = { path = "servers.json" }`: a JSON file that is watched, in the form of Prometheus'
file_sd.

    [{"targets": ["10.0.1.10:8000", "10.0.1.11:8000"], "labels": {"weight": "2"}}]

Labels: `name` (of a single target), `weight`, `backup` and `drain` ("true"), `server_name`; others
are ignored, as other readers of the file have labels of their own. The file is read whenever its
stamp has changed, in a thread: on a slow file system only the discovery waits. Replace it by
`rename`, which is atomic; a file that can't be read or parsed changes nothing.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pydantic import Field

from hermes_lb.discovery.sources.base import (
    Answer,
    DiscoveryFailed,
    Endpoint,
    Source,
    SourceOptions,
)
from hermes_lb.discovery.sources.names import name_of_address, server_name
from hermes_lb.options.units import PositiveDuration, parse_address, parse_server_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from random import Random

MOST_BYTES = 4 * 1024 * 1024
"""Some 50,000 targets. The parser of JSON holds the interpreter for 10 ms a megabyte."""

_FLAGS = {"true": True, "false": False, True: True, False: False}


class FileOptions(SourceOptions):
    """`[backends.NAME.discovery.file]`."""

    path: str = Field(min_length=1)
    interval: PositiveDuration = 1.0


class FileSource(Source):
    options = FileOptions

    def __init__(self, options: FileOptions, rng: Random) -> None:
        self._options = options

    async def answers(self) -> AsyncIterator[Answer]:
        import asyncio  # not to validate a configuration

        path = self._options.path
        seen: object = None
        while True:
            try:
                stamp, text = await asyncio.to_thread(_read, path, seen)
                found = None if text is None else await asyncio.to_thread(parse, text, path)
            except DiscoveryFailed as error:
                error.retry_after = self._options.interval  # a look is cheap
                raise
            seen = stamp
            yield Answer({}, is_complete=False) if found is None else Answer(found)
            await asyncio.sleep(self._options.interval)


def _read(path: str, seen: object) -> tuple[object, bytes | None]:
    """The file's stamp, and its content if the stamp is not `seen`. Raises DiscoveryFailed."""
    try:
        with open(path, "rb", opener=_without_blocking) as file:
            status = os.fstat(file.fileno())
            stamp = status.st_ino, status.st_size, status.st_mtime_ns
            if stamp == seen:
                return stamp, None
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DiscoveryFailed(f"can't read {path}: {error.strerror}") from None
    if text is None or len(text) > MOST_BYTES:  # None: a FIFO without a writer
        raise DiscoveryFailed(f"{path} has more than {MOST_BYTES >> 20} MiB, or is no plain file")
    return stamp, text


def _without_blocking(path: str, flags: int) -> int:
    """A FIFO would block the thread for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def parse(text: bytes, path: str) -> dict[str, Endpoint]:
    """The servers of a file. Raises DiscoveryFailed with the first mistake."""
    try:
        groups = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DiscoveryFailed(f"{path} is no JSON: {error}") from None
    if not isinstance(groups, list):
        raise DiscoveryFailed(f'{path} is no list of groups {{"targets": [...]}}')
    found: dict[str, Endpoint] = {}
    for place, group in enumerate(groups):
        try:
            for name, endpoint in _servers(group):
                if found.setdefault(name, endpoint) != endpoint:
                    raise ValueError(f"two different servers have the name {name}")
        except ValueError as error:
            raise DiscoveryFailed(f"{path}, group {place}: {error}") from None
    return found


def _servers(group: Any) -> Iterator[tuple[str, Endpoint]]:
    if not isinstance(group, dict) or not isinstance(targets := group.get("targets"), list):
        raise ValueError('it has no list "targets"')
    labels = group.get("labels", {})
    if not isinstance(labels, dict):
        raise ValueError('"labels" is no table')
    given = labels.get("name")
    if given is not None and len(targets) > 1:
        raise ValueError("the label name is for a group with one target")
    weight = _weight(labels.get("weight"))
    for target in targets:
        address = parse_address(target)
        if not address.port:
            raise ValueError(f"{target} has the port 0")
        name = name_of_address(*address) if given is None else server_name(given)
        if name is None:
            raise ValueError(f"{ascii(given)[:100]} is no name of a server")
        tls_name = labels.get("server_name")
        yield (
            name,
            Endpoint(
                address,
                weight or None,
                is_backup=_flag(labels, "backup"),
                leaves=_flag(labels, "drain") or weight == 0,
                server_name=None if tls_name is None else parse_server_name(tls_name),
            ),
        )


def _weight(given: Any) -> int | None:
    """0 stands for a drain, as in HAProxy. Prometheus' labels are strings."""
    if given is None:
        return None
    text = str(given)
    if isinstance(given, bool) or not (text.isascii() and text.isdecimal() and len(text) <= 5):
        raise ValueError(f"the weight {ascii(given)[:20]} is not a number from 0 to 65535")
    if int(text) > 65_535:
        raise ValueError(f"the weight {text} is above 65535")
    return int(text)


def _flag(labels: dict[str, Any], name: str) -> bool:
    given = labels.get(name, False)
    if not isinstance(given, str | bool) or given not in _FLAGS:
        raise ValueError(f'the label {name} is "true" or "false"')
    return _FLAGS[given]
