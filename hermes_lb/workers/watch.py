"""Watches files for changes, by polling them once a second."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

_EVERY = 1.0  # seconds

# Identifies a version of a file: modification time, inode, size.
_Version = tuple[int, int, int]


async def changes(
    file: Path, *, is_used: Callable[[], bool], every: float = _EVERY
) -> AsyncIterator[None]:
    """Yields once for each change, when the file has been stable for `every` seconds.

    So a file that is being written, or replaced in two steps (Kubernetes' ConfigMaps, editors), is
    read when it is complete. It may be missing for a while. `is_used` is called first: False if the
    file has changed since the configuration was read.
    """
    used = seen = _version(file)
    if not is_used():
        used = None
    while True:
        await asyncio.sleep(every)
        before, seen = seen, _version(file)
        if seen is not None and seen == before and seen != used:
            used = seen
            yield


async def changes_of(
    files: Callable[[], Iterable[Path]], *, every: float = _EVERY
) -> AsyncIterator[None]:
    """The same for several files, which may be others each time, and may be missing."""

    def look() -> dict[Path, _Version | None]:
        return {file: _version(file) for file in files()}

    used = seen = look()
    while True:
        await asyncio.sleep(every)
        before, seen = seen, look()
        if seen == before and seen != used:
            # Those that a reload has added were read by it.
            is_news = any(used[file] != version for file, version in seen.items() if file in used)
            used = seen
            if is_news:
                yield


def _version(file: Path) -> _Version | None:
    try:
        at = os.stat(file)
    except OSError:
        return None
    return at.st_mtime_ns, at.st_ino, at.st_size
