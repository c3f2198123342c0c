"""One turn at a time of each session, in the order of `begin` over all balancers.

The queue is in the store. A turn that ends grants the session to the next one, whose process is
notified, and has 5 s to take it; since notifications get lost, each waiter also asks every 2 s. A
waiter observes the processes before it, so that the entries of dead ones are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from hermes_lb.turns.ports import StoreAway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hermes_lb.turns.store.control import Control
    from hermes_lb.turns.store.keys import TurnName
    from hermes_lb.turns.store.observer import Observer
    from hermes_lb.turns.store.timing import Timing

# Seconds. The times of the store's clock are rounded to milliseconds.
_SHORTEST: Final = 0.01


class SessionQueue:
    """`bury`: find a turn whose owner is dead, so that it is lost or released."""

    def __init__(
        self,
        control: Control,
        observer: Observer,
        timing: Timing,
        bury: Callable[[str, str], Awaitable[object]],
    ) -> None:
        self._control = control
        self._observer = observer
        self._timing = timing
        self._bury = bury

    async def granted(
        self, turn: TurnName, incarnation: Callable[[], str], woken: asyncio.Event
    ) -> int:
        """Wait until it has its session -> its fence. `woken` is set when there may be a grant.

        An outage of the store is waited out. Raises Fenced.
        """
        watched: list[str] = []
        holder = ""
        while True:
            woken.clear()
            later = self._timing.poll
            try:
                dead = [each for each in watched if self._observer.is_dead(each)]
                if dead and holder:
                    await self._bury(turn.principal, holder)
                outcome, *rest = await self._control.grant(turn, incarnation(), dead, holder)
                if outcome == b"GRANTED":
                    return int(rest[0])
                later_ms, holder_bytes, incarnations = rest
                holder = holder_bytes.decode()
                watched = [each.decode() for each in incarnations]
                if int(later_ms):
                    later = min(later, int(later_ms) / 1000 + _SHORTEST)
                for each in watched:
                    self._observer.is_dead(each)  # the first question starts the observation
            except StoreAway:
                pass
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(later):
                    await woken.wait()
