"""All formats, each recognised by the first line of a file. A new one is a file and an entry."""

from __future__ import annotations

import gzip
import zlib
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from hermes_lb.lab.traces import access_log, agent_sessions, azure_llm, mooncake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from hermes_lb.lab.recording import Recording

_GZIP: Final = b"\x1f\x8b"


class Format(NamedTuple):
    name: str
    is_first: Callable[[str], bool]  # whether the file's first line is one of this format
    read: Callable[[Iterable[str]], Recording]


FORMATS: Final = (
    Format("agent_sessions", agent_sessions.is_first, agent_sessions.read),
    Format("azure_llm", azure_llm.is_first, azure_llm.read),
    Format("mooncake", mooncake.is_first, mooncake.read),
)


def read(path: Path, most: int | None = None, backend: str | None = None) -> Recording:
    """The file, which may be packed by gzip: a published format, or else an access log.

    `most`: only this number of requests; `backend`: only its requests, of an access log. Raises
    OSError, or ValueError if there is no request in it or it is damaged.
    """
    with _opened(path) as lines:
        first = next(lines, "")
        whole = chain([first], lines)
        for one in FORMATS:
            if one.is_first(first):
                if backend is not None:
                    raise ValueError(f"--backend is for access logs; this is {one.name}")
                return one.read(whole).first(most)
        return access_log.read(whole, most, backend)


def read_log(path: Path, backend: str | None = None) -> access_log.Log:
    """An access log, request by request."""
    with _opened(path) as lines:
        return access_log.parse(lines, None, backend)


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[str]]:
    """Its lines."""
    with path.open("rb") as raw:
        is_packed = raw.peek(len(_GZIP))[: len(_GZIP)] == _GZIP
        try:
            with gzip.open(raw) if is_packed else nullcontext(raw) as plain:
                yield (line.decode(errors="replace") for line in plain)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
