"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

from hermes_lb.testing import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["PATIENCE", "eventually", "turns", "until"]


async def turns(count: int = 5) -> None:
    """Run some loop iterations, so that sent bytes are seen."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object | Awaitable[object]]) -> None:
    """Wait until `condition` (a function, plain or async) is true; the test's timeout bounds it.

    For what may take longer than `PATIENCE`, such as the start of a process or a failover.
    """
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return
        await asyncio.sleep(0.005)
