"""What workers are asked together; and whether one of them is alone.

A worker that is alone shares nothing (`workers.sharing`): it is told when it is not any more. That
has to hold before another one begins, or the two would take the last place of a server twice.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hermes_lb.workers.channel import Message
    from hermes_lb.workers.child import Child

# Seconds that one may take to answer. It is told in any case, as soon as it listens again.
_ANSWER_TAKES = 5.0
# The same for one that finishes, or does not answer: it may be past listening, and takes no new
# clients, nor does anybody else until the next one begins.
_ENDING_TAKES = 0.2


class Company:
    """Of the workers in `children`, a list that others keep; `seats` of them serve at a time."""

    def __init__(self, children: Sequence[Child], seats: int) -> None:
        self._children = children
        self._seats = seats
        self._coming = 0  # starts that go on
        self._asking = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Company of {len(self._children)}, {self._coming} more to come>"

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """For a start: nobody is told to be alone as long as it goes on."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            self.tell_who_is_alone()

    async def know(self) -> None:
        """To be called in a start: those that do not know yet that they are not alone do then.

        Workers of older code do not listen to that, but answer.
        """
        async with self._asking:  # another start waits for the same answers
            news = [child for child in self._children if child.is_alone is not False]
            for child in news:
                child.is_alone = False
            asked = [
                child.channel.ask(_that(is_alone=False), timeout=_patience(child)) for child in news
            ]
            await asyncio.gather(*asked, return_exceptions=True)

    def is_all(self, child: Child) -> bool:
        """There is no other one, and none is about to come. To be called in a start of its own."""
        return self._seats == 1 and self._coming == 1 and [*self._children] == [child]

    def tell_who_is_alone(self) -> None:
        """The last one, once it serves."""
        if self._seats != 1 or self._coming or len(self._children) != 1:
            return
        [child] = self._children
        if child.serves and not child.is_alone:
            child.is_alone = True
            child.channel.send(_that(is_alone=True))


async def ask_each(
    children: Iterable[Child], message: Message, timeout: float
) -> list[Message | BaseException]:
    """In order, the answer of each; or ChannelClosed, or TimeoutError after `timeout` seconds."""
    asked = [child.channel.ask(message, timeout=timeout) for child in children]
    return await asyncio.gather(*asked, return_exceptions=True)


def _patience(child: Child) -> float:
    return _ENDING_TAKES if child.is_retired or child.is_silent else _ANSWER_TAKES


def _that(*, is_alone: bool) -> Message:
    return {"do": "servers", "servers": [], "is_alone": is_alone}
