"""`GET .../events`: a session's events after an id, then live ones, on any worker.

With `?turn=` those of one turn, to its end; the turn is taken over if its worker died.
"""

from __future__ import annotations

import re
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from agent_worker.api.headers import RESUME_HEADER, accepts_handover
from agent_worker.api.sessions import PREFIX, principal_of, resume_path
from agent_worker.api.sse import EventStream
from agent_worker.errors import AgentError, BadRequest, Draining
from agent_worker.runtime import FollowRequest
from agent_worker.runtime.events import DONE, ERROR, error_event
from agent_worker.sessions.event_log import is_event_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from agent_worker.api.principals import Principals
    from agent_worker.metrics import Metrics
    from agent_worker.runtime import Tail, Turns, TurnTakeover
    from agent_worker.sessions import Event, SessionStore

# A turn's name: the fence of its begin.
_TURN = re.compile(r"[1-9][0-9]{0,14}")
# Intervals of `Tail.follow` without events, some 15 s, after which a comment is sent.
_SILENCES = 7


@dataclass(eq=False)
class EventEndpoint:
    store: SessionStore
    turns: Turns
    tail: Tail
    takeover: TurnTakeover
    principals: Principals
    metrics: Metrics
    _is_draining: bool = field(default=False, init=False)

    def routes(self) -> list[web.RouteDef]:
        return [web.get(PREFIX + "/{session_id}/events", self.follow, allow_head=False)]

    def drain(self) -> None:
        """End the streams within seconds: their clients continue on another worker."""
        self._is_draining = True

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """The events after `Last-Event-ID`; without one, of the running turn. Then live ones.

        `?until=done` ends the stream after the next `done` or `error`; `?turn=<fence>` follows that
        turn to its end, and takes it over if necessary.
        """
        session_id = request.match_info["session_id"]
        principal = principal_of(request, self.principals)
        after = last_event_id_of(request)
        if (turn := request.query.get("turn")) is not None:
            return await self._follow_turn(request, session_id, principal, turn, after)
        until_done = request.query.get("until") == "done"
        if self._is_draining:
            raise Draining
        await self.store.check(session_id, principal)
        events = self.tail.follow(session_id, principal, after)
        events = self._until(events, until_done=until_done)
        return await answer_with(EventStream(request, {}), events, self.metrics)

    async def _follow_turn(
        self, request: web.Request, session_id: str, principal: str, turn: str, after: str | None
    ) -> web.StreamResponse:
        if not _TURN.fullmatch(turn):
            raise BadRequest('"turn" must be the number of a turn, as in X-Hermes-Resume.')
        if self.turns.is_leaving:
            raise Draining
        asked = FollowRequest(
            session_id=session_id,
            principal=principal,
            turn=turn,
            after=after,
            accepts_handover=accepts_handover(request),
        )
        await self.takeover.check(asked)
        headers = {RESUME_HEADER: resume_path(session_id, turn)}
        stream = EventStream(request, headers)
        return await answer_with(stream, self.takeover.follow(asked), self.metrics)

    async def _until(
        self, events: AsyncGenerator[Event | None, None], *, until_done: bool
    ) -> AsyncGenerator[Event | None, None]:
        """`events` until the worker drains, or until the end of a turn."""
        async with aclosing(events):
            async for event in events:
                yield event
                if self._is_draining or (
                    until_done and event is not None and event.name in {DONE, ERROR}
                ):
                    return


def last_event_id_of(request: web.Request) -> str | None:
    """From the header or the query. Raises BadRequest."""
    after = request.headers.get("Last-Event-ID", request.query.get("last_event_id"))
    if after is not None and not is_event_id(after):
        raise BadRequest("Last-Event-ID must be the id of an event of this session.")
    return after


async def answer_with(
    stream: EventStream, events: AsyncGenerator[Event | None, None], metrics: Metrics
) -> web.StreamResponse:
    """Send `events` to their end, and a comment after `_SILENCES` times None."""
    await stream.prepare()
    metrics.active_sessions.inc()
    silences = 0
    try:
        async with aclosing(events):
            async for event in events:
                if event is not None:
                    await stream.send(event)
                    continue
                silences += 1
                if silences % _SILENCES == 0:
                    await stream.keep_alive()
    except AgentError as error:
        # The response has begun: the error is an event, and the client resumes after its last id.
        await stream.send(error_event(error))
    finally:
        metrics.active_sessions.dec()
    return await stream.finish()
