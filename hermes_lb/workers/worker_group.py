"""Questions to several workers, and which worker is alone.

A worker that is alone shares nothing (`workers.sharing`). It has to stop that before another one
starts, or both would take the last place on a server.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hermes_lb.workers.channel import Message
    from hermes_lb.workers.child import Child

# Seconds for an answer. The message arrives in any case once the worker reads again.
_ANSWER_TAKES = 5.0
# The same for one that is draining or does not answer. It may be hung; it takes no new clients, and
# no other worker does until the next one starts.
_ENDING_TAKES = 0.2


class WorkerGroup:
    """The workers in `children`, a list that the caller maintains; `slots` of them serve."""

    def __init__(self, children: Sequence[Child], slots: int) -> None:
        self._children = children
        self._slots = slots
        self._coming = 0  # starts in progress
        self._asking = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<WorkerGroup of {len(self._children)}, {self._coming} more to come>"

    @contextmanager
    def starting(self) -> Iterator[None]:
        """A start in progress: no worker is declared alone until it ends."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            self.announce_alone()

    async def end_alone(self) -> None:
        """Called by a start: return when all workers know that they are not alone.

        Workers of older code ignore the field, but answer.
        """
        async with self._asking:  # concurrent starts wait for the same answers
            news = [child for child in self._children if child.is_alone is not False]
            for child in news:
                child.is_alone = False
            asked = [
                child.channel.ask(_that(is_alone=False), timeout=_patience(child)) for child in news
            ]
            await asyncio.gather(*asked, return_exceptions=True)

    def is_only(self, child: Child) -> bool:
        """Called by its own start: there is no other worker, and no other start."""
        return self._slots == 1 and self._coming == 1 and [*self._children] == [child]

    def announce_alone(self) -> None:
        """Tell the last worker that serves that it is alone."""
        if self._slots != 1 or self._coming or len(self._children) != 1:
            return
        [child] = self._children
        if child.serves and not child.is_alone:
            child.is_alone = True
            child.channel.send(_that(is_alone=True))


async def ask_each(
    children: Iterable[Child], message: Message, timeout: float
) -> list[Message | BaseException]:
    """Each answer, in order; or ChannelClosed, or TimeoutError after `timeout` seconds."""
    asked = [child.channel.ask(message, timeout=timeout) for child in children]
    return await asyncio.gather(*asked, return_exceptions=True)


def _patience(child: Child) -> float:
    return _ENDING_TAKES if child.is_retired or child.is_silent else _ANSWER_TAKES


def _that(*, is_alone: bool) -> Message:
    return {"do": "servers", "servers": [], "is_alone": is_alone}
