"""Follows one turn to its end on any worker, and takes it over if its worker died.

    held      a worker runs it: its events are read from the log
    free      no worker holds it, or its holder has been silent for too long: it is taken over
    over      its last event is `done` or `error`, or it ended without one; an earlier `error` is
              that of an attempt that the client repeated, and is left out

Followers read the log even if the turn runs on their own worker, so that all of them see the same
events with the same ids. Of several followers, one gets the turn.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_worker.backoff import Backoff
from agent_worker.errors import AgentError, StoreUnavailable
from agent_worker.runtime.admission import TurnRequest
from agent_worker.runtime.events import ERROR, HANDOVER, discard, unfinished, unlogged
from agent_worker.sessions import NotTaken
from agent_worker.sessions.event_log import channel, is_full
from agent_worker.tasks import cancel_and_wait, spawn

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator

    from agent_worker.runtime.notifier import Notifier
    from agent_worker.runtime.turns import Turns
    from agent_worker.sessions import Event, SessionStore, TurnPage

log = logging.getLogger(__name__)

# Seconds between two reads of the log, at most and at least. Notifications may be missed, and a
# dead worker sends none.
_LOOK_S, _PAUSE_S = 2.0, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowRequest(TurnRequest):
    """`turn` is the fence of the turn's begin; `after` the last event that the client has."""

    content: None = None
    turn: str
    after: str | None


@dataclass(eq=False)
class TurnTakeover:
    store: SessionStore
    turns: Turns
    notifier: Notifier

    async def check(self, request: FollowRequest) -> None:
        """Raises SessionNotFound or EventsGone if the turn cannot be followed from there."""
        await self._page(request, request.after)

    async def follow(self, request: FollowRequest) -> AsyncGenerator[Event | None, None]:
        """The turn's events to its end, or to `handover` if this worker shuts down.

        Yields None after each interval without events. Closing the generator frees a turn that was
        taken over here. While Redis is away it waits for as long as a turn would; then it yields
        `handover` to a client that accepts it, and raises StoreUnavailable otherwise. Raises what
        else the store raises, and EventsGone.
        """
        after = request.after
        running: asyncio.Task[None] | None = None
        backoff = Backoff(self.store.lease_s)
        async with self.notifier.listen(channel(request.session_id)) as wakeup:
            try:
                while True:
                    is_ours = running is not None and not running.done()
                    try:
                        page = await self._page(request, after)
                    except StoreUnavailable as error:
                        if is_ours:
                            # The turn itself bounds its wait, and ends.
                            backoff.reset()
                        elif self.turns.is_leaving:
                            raise
                        await wakeup.wait(backoff.next_pause_s(error))  # set when Redis is back
                        yield None
                        continue
                    backoff.reset()
                    after = page.after
                    for event in page.events:
                        if event.name == ERROR and event.id != page.ended_by:
                            # Of an earlier attempt: the client would take it for the end.
                            continue
                        yield event
                        if event.id == page.ended_by:
                            return
                    if page.events:
                        after = page.events[-1].id
                    if is_full(page):
                        continue
                    if page.state in {"ended", "lost"}:
                        if page.state == "lost":
                            yield unfinished()
                        return
                    is_ours = running is not None and not running.done()
                    if self.turns.is_leaving and not is_ours:
                        if request.accepts_handover:
                            yield unlogged(HANDOVER, {"turn": request.turn})
                        return
                    wait_s = 0.0
                    if page.state == "held" and not is_ours:
                        wait_s = await self.turns.holders.wait_s(page.holder, page.silent_s)
                    is_free = not wait_s
                    if is_free and not is_ours:
                        running = spawn(self._take_over(request), name="turn of another worker")
                        running.add_done_callback(lambda _: wakeup.set())
                    pause = min(_LOOK_S, max(wait_s, _PAUSE_S))
                    if not await wakeup.wait(pause if not is_free else _LOOK_S):
                        yield None
            except StoreUnavailable:
                if not request.accepts_handover:
                    raise
                yield unlogged(HANDOVER, {"turn": request.turn})
            finally:
                if running is not None:
                    await cancel_and_wait(running)

    async def _page(self, request: FollowRequest, after: str | None) -> TurnPage:
        return await self.store.events.of_turn(
            request.session_id, request.principal, request.turn, after
        )

    async def _take_over(self, request: FollowRequest) -> None:
        """Run the turn to its end, unless another worker holds it; its events go to the log."""
        session_id = request.session_id
        try:
            async with self.turns.take_over(request, request.turn) as turn:
                if not isinstance(turn, NotTaken):
                    log.info("session %s: took over turn %s", session_id, request.turn)
                    await turn.run(discard)
        except AgentError as error:
            # Followers read it from the log.
            log.info("session %s: turn %s: %s", session_id, request.turn, error)
