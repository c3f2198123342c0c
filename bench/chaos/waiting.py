"""Waiting by polling, for another process's state."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

# Seconds. Generous, since it only bounds a hang: a machine may be busy with other things.
PATIENCE = 20.0


class NeverCame(Exception):
    """The condition did not become true in time."""


async def until(
    condition: Callable[[], Awaitable[T]], what: str, *, patience: float = PATIENCE
) -> T:
    """Ask again and again until the answer is true, and return it."""
    deadline = time.monotonic() + patience
    while True:
        if found := await condition():
            return found
        if time.monotonic() > deadline:
            raise NeverCame(f"not within {patience:g} s: {what}")
        await asyncio.sleep(0.01)
