"""A worker that is alone shares nothing (`workers.sharing`): it is told when it is not any more.

That has to hold before another one begins, or the two would take the last place of a server twice.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.workers.channel import Message
    from hermes_lb.workers.child import Child

# Seconds that one may take to answer. It is told in any case, as soon as it listens again.
_ANSWER_TAKES = 5.0


async def not_alone(children: Sequence[Child]) -> None:
    """Another one is about to come: those that do not know yet that they are not alone do then.

    Workers of older code do not listen to that, but answer.
    """
    news = [child for child in children if child.is_alone is not False]
    for child in news:
        child.is_alone = False
    asked = [child.channel.ask(_that(is_alone=False), timeout=_ANSWER_TAKES) for child in news]
    await asyncio.gather(*asked, return_exceptions=True)


def tell_who_is_alone(children: Sequence[Child]) -> None:
    """The last one, once it serves."""
    if len(children) == 1 and children[0].serves and not children[0].is_alone:
        children[0].is_alone = True
        children[0].channel.send(_that(is_alone=True))


def _that(*, is_alone: bool) -> Message:
    return {"do": "servers", "servers": [], "is_alone": is_alone}
