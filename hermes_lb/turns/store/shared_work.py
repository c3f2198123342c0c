"""The same work for many callers, once: thousands of clients may follow one turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from hermes_lb.turns.ports import StoreAway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from hermes_lb.tasks import Tasks

Result = TypeVar("Result")


class SharedWork(Generic[Result]):
    """`do` it: all that ask for a key in one loop iteration have the same result.

    It begins after the last of them has asked, so it is as new as if each had done it. Followers
    that a message wakes, or a look that is due, ask in the same iteration.
    """

    __slots__ = ("_asked", "_tasks")

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._asked: dict[Hashable, asyncio.Task[Result | StoreAway]] = {}

    async def do(self, key: Hashable, work: Callable[[], Awaitable[Result]]) -> Result:
        """Raises StoreAway. A caller that is cancelled ends the work of no other."""
        asked = self._asked.get(key)
        if asked is None:
            asked = self._tasks.spawn(self._work(key, work), name="shared reading of the store")
            self._asked[key] = asked
        result = await asyncio.shield(asked)
        if isinstance(result, StoreAway):
            raise StoreAway(*result.args)
        return result

    async def _work(
        self, key: Hashable, work: Callable[[], Awaitable[Result]]
    ) -> Result | StoreAway:
        # It begins in the iteration after the first call of `do`.
        del self._asked[key]
        try:
            return await work()
        except StoreAway as error:
            return error
