"""Reload: read the configuration file, check that it can be applied, describe the changes."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.config import Config, load_config
from hermes_lb.config.changes import describe_changes, hold_back, is_same_store, refuse_fixed
from hermes_lb.config.secret_files import refreshed
from hermes_lb.listen import check_files
from hermes_lb.observe.sinks import try_sink
from hermes_lb.observe.spans import check_exporter
from hermes_lb.turns.store.url import read_url

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hermes_lb.tls.certificates import TlsFiles
    from hermes_lb.workers.layout import Layout

_INSTEAD = "upgrade or restart"


class Accepted(NamedTuple):
    """The configuration, its certificates by frontend, and the changes as text."""

    config: Config
    files: Mapping[str, TlsFiles]
    changes: list[str]


async def accepted(file: Path | None, before: Config, layout: Layout) -> Accepted:
    """Read the file, for a balancer that runs with `before`. None: only the files that `before`
    names for secrets. Another store of turns waits.

    Raises ConfigError with every problem, OSError, or ValueError if there are too few rows.
    """
    read = refreshed(before) if file is None else _load(file)
    new, waiting = hold_back(before, read, instead=_INSTEAD)
    if file is None and not is_same_store(before, new):
        new = new.model_copy(update={"store": before.store})
        waiting = [*waiting, f"store.url: changed (waits for: {_INSTEAD})"]
    refuse_fixed(before, new, str(file), instead=_INSTEAD)
    if new.store.url is not None and new.store.url != before.store.url:
        read_url(new.store.url)
    changes = describe_changes(before, new) + waiting
    files = check_files(new)
    layout.check(new)
    if new.log != before.log:
        await asyncio.to_thread(try_sink, new.log)
        if new.log.otlp is not None:
            check_exporter()
    return Accepted(new, files, changes)


def read_only_once(file: Path) -> str:
    """The reason why a second open would block for ever; empty if the file can be reread."""
    return f"{file} is a FIFO, which is read only once" if file.is_fifo() else ""


def _load(file: Path) -> Config:
    if why := read_only_once(file):
        raise OSError(errno.ESPIPE, why)
    return load_config(file)
