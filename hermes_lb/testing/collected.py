"""Waiting in tests: for items of a list, and for conditions."""

from __future__ import annotations

import asyncio
import inspect
import textwrap
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 10.0  # seconds until a wait fails the test

T = TypeVar("T")


class Collected(Generic[T]):
    """A list that grows. `what` names its items in the error of a failed wait."""

    def __init__(self, what: str) -> None:
        self.items: list[T] = []
        self._what = what
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self.items)

    def add(self, item: T) -> None:
        self.items.append(item)
        self._arrived.set()

    async def wait(self, count: int) -> list[T]:
        """All items, once there are `count`. Raises AssertionError after `PATIENCE`."""
        try:
            async with asyncio.timeout(PATIENCE):
                while len(self.items) < count:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            raise AssertionError(
                f"{count} {self._what} were awaited, {len(self.items)} came: {self.items}"
            ) from None
        return list(self.items)


async def eventually(condition: Callable[[], object], what: str = "") -> None:
    """Wait until `condition()` is true. Raises AssertionError after `PATIENCE`.

    The error names `what`, or shows the condition's source. Polls every 2 ms: prefer something to
    await, such as `Server.asked` or `WatchedBalancer.served`.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - what is awaited is not ours to instrument
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"never came true: {what or _source_of(condition)}") from None


def _source_of(condition: Callable[[], object]) -> str:
    """As it is written; its `repr` if the source is not available."""
    try:
        return textwrap.dedent(inspect.getsource(condition)).strip()
    except (OSError, TypeError):
        return repr(condition)
