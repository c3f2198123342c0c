"""Follow one turn to its end, wherever it runs; and go on with it here if its worker died.

    held      somebody runs it: its events come through the log
    free      nobody does, or nothing was heard of its worker for a while: it is taken over
    over      its last event was `done` or `error`, or there will be none; an `error` that was not
              the last is of a try that failed and that its client has repeated: it is left out

Whoever follows gets the events of its own worker through the log as well, so that each has the
same ones under the same ids. Several may follow: one of them gets the turn.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_worker.errors import AgentError, StoreUnavailable
from agent_worker.runtime.events import ERROR, HANDOVER, nobody, unfinished, unlogged
from agent_worker.runtime.outage import Outage
from agent_worker.runtime.turns import TurnRequest
from agent_worker.sessions import NotTaken
from agent_worker.sessions.event_log import channel
from agent_worker.tasks import cancel_and_wait, spawn

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from agent_worker.runtime.bells import Bells
    from agent_worker.runtime.loop import AgentLoop
    from agent_worker.runtime.turns import Turns
    from agent_worker.sessions import Event, SessionStore, TurnPage

log = logging.getLogger(__name__)

# Seconds. A bell can be missed, and a worker that died rings none: look at least this often, and
# not more often than that.
_LOOK_S, _PAUSE_S = 2.0, 0.05


@dataclass(frozen=True, slots=True)
class FollowRequest:
    """`turn` is the fence with which it began; `after` the last event that was seen, if any."""

    session_id: str
    principal: str
    turn: str
    after: str | None
    #: Whether the client goes on elsewhere when it is told `handover`.
    accepts_handover: bool = False
    #: As in `TurnRequest`.
    loop: AgentLoop | None = None


class Succession:
    def __init__(self, store: SessionStore, turns: Turns, bells: Bells) -> None:
        self._store = store
        self._turns = turns
        self._bells = bells

    async def check(self, request: FollowRequest) -> None:
        """Raise SessionNotFound or EventsGone if the turn cannot be followed from there."""
        await self._page(request, request.after)

    async def follow(self, request: FollowRequest) -> AsyncGenerator[Event | None, None]:
        """The turn's events to its end; `handover` in its place if this worker shuts down.

        None in between says that there was nothing for a while. Whoever leaves takes along the
        turn that it has taken over here: it is free again. While Redis is away it waits for as
        long as a turn would; then a client that goes on elsewhere is told `handover`, and for any
        other StoreUnavailable is raised. Raises what else the store does, EventsGone.
        """
        after = request.after
        running: asyncio.Task[None] | None = None
        outage = Outage(self._store.lease_s)
        async with self._bells.listen(channel(request.session_id)) as bell:
            try:
                while True:
                    is_ours = running is not None and not running.done()
                    try:
                        page = await self._page(request, after)
                    except StoreUnavailable as error:
                        if is_ours:
                            # The turn itself knows how long it can wait, and ends then.
                            outage.over()
                        elif self._turns.is_leaving:
                            raise
                        await asyncio.sleep(outage.pause_s(error))
                        yield None
                        continue
                    outage.over()
                    after = page.after
                    for event in page.events:
                        if event.name == ERROR and event.id != page.ended_by:
                            # Of a try that another has followed: the client would stop at it.
                            continue
                        yield event
                        if event.id == page.ended_by:
                            return
                    if page.events:
                        after = page.events[-1].id
                        continue
                    if page.state in {"told", "untold"}:
                        if page.state == "untold":
                            yield unfinished()
                        return
                    is_ours = running is not None and not running.done()
                    if self._turns.is_leaving and not is_ours:
                        if request.accepts_handover:
                            yield unlogged(HANDOVER, {"turn": request.turn})
                        return
                    wait_s = 0.0
                    if page.state == "held":
                        wait_s = await self._turns.holders.wait_s(page.holder, page.silent_s)
                    is_free = not wait_s
                    if is_free and not is_ours:
                        running = spawn(self._go_on(request), name="turn of another worker")
                        running.add_done_callback(lambda _: bell.ring(""))
                    pause = min(_LOOK_S, max(wait_s, _PAUSE_S))
                    if not await bell.wait(pause if not is_free else _LOOK_S):
                        yield None
            except StoreUnavailable:
                if not request.accepts_handover:
                    raise
                yield unlogged(HANDOVER, {"turn": request.turn})
            finally:
                if running is not None:
                    await cancel_and_wait(running)

    async def _page(self, request: FollowRequest, after: str | None) -> TurnPage:
        return await self._store.events.of_turn(
            request.session_id, request.principal, request.turn, after
        )

    async def _go_on(self, request: FollowRequest) -> None:
        """Run the turn to its end, if nobody else has come before; its events go to the log."""
        asked = TurnRequest(
            request.session_id,
            request.principal,
            None,
            accepts_handover=request.accepts_handover,
            loop=request.loop,
        )
        taking = self._turns.take_over(asked, request.turn)
        try:
            async with taking as turn:
                if not isinstance(turn, NotTaken):
                    log.info("session %s: turn %s goes on here", asked.session_id, request.turn)
                    await turn.run(nobody)
        except AgentError as error:
            # What its followers have to know of that is in the log.
            log.info("session %s: turn %s: %s", asked.session_id, request.turn, error)
