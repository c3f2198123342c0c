"""Waiting in tests: for what comes one by one, and for what comes true."""

from __future__ import annotations

import asyncio
import inspect
import textwrap
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 10.0  # seconds; a test that waits longer has failed

T = TypeVar("T")


class Collected(Generic[T]):
    """Things that come one by one. `what` names them in the error of a wait in vain."""

    def __init__(self, what: str) -> None:
        self.items: list[T] = []
        self._what = what
        self._came = asyncio.Event()

    def __len__(self) -> int:
        return len(self.items)

    def add(self, item: T) -> None:
        self.items.append(item)
        self._came.set()

    async def wait(self, count: int) -> list[T]:
        """All that came, once there are `count`. Raises AssertionError after `PATIENCE`."""
        try:
            async with asyncio.timeout(PATIENCE):
                while len(self.items) < count:
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            raise AssertionError(
                f"{count} {self._what} were awaited, {len(self.items)} came: {self.items}"
            ) from None
        return list(self.items)


async def eventually(condition: Callable[[], object], what: str = "") -> None:
    """Wait until `condition()` is true. Raises AssertionError after `PATIENCE`.

    The error says `what`, or the condition's source. It asks every 2 ms. Where there is something
    to await, such as `Server.asked` or `WatchedBalancer.served`, await that.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - what is awaited is not ours to instrument
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"never came true: {what or _source_of(condition)}") from None


def _source_of(condition: Callable[[], object]) -> str:
    """As it is written; its `repr` where that cannot be had."""
    try:
        return textwrap.dedent(inspect.getsource(condition)).strip()
    except (OSError, TypeError):
        return repr(condition)
