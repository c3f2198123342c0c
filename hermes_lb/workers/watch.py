"""Has the configuration's file changed? Asked of the file system once a second."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

_EVERY = 1.0  # seconds

# What another version of a file has different: when and where it was written, and its size.
_Version = tuple[int, int, int]


async def changes(
    file: Path, *, is_used: Callable[[], bool], every: float = _EVERY
) -> AsyncIterator[None]:
    """Yields once for each change, when the file has stayed as it is for `every` seconds.

    `is_used` is asked at first, whether what the file says is in use: it was read some time ago.

    So a file that is being written, or replaced in two steps (Kubernetes' ConfigMaps, editors), is
    read when it is whole. It may be away for a while.
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


def _version(file: Path) -> _Version | None:
    try:
        at = os.stat(file)
    except OSError:
        return None
    return at.st_mtime_ns, at.st_ino, at.st_size
