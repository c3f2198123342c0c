"""`GET .../events`: a session's events from an id on, then live, on any worker."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from aiohttp import web

from agent_worker.api.sessions import PREFIX, principal_of
from agent_worker.api.sse import EventStream
from agent_worker.errors import AgentError, BadRequest, Draining
from agent_worker.runtime.events import DONE, ERROR, unlogged
from agent_worker.sessions.event_log import is_event_id

if TYPE_CHECKING:
    from agent_worker.api.principals import Principals
    from agent_worker.metrics import Metrics
    from agent_worker.runtime import Tail
    from agent_worker.sessions import SessionStore

# Every so many silences of the tail a comment goes out: some 15 s.
_SILENCES = 7


class EventEndpoint:
    def __init__(
        self, store: SessionStore, tail: Tail, principals: Principals, metrics: Metrics
    ) -> None:
        self._store = store
        self._tail = tail
        self._principals = principals
        self._metrics = metrics
        self._is_draining = False

    def routes(self) -> list[web.RouteDef]:
        return [web.get(PREFIX + "/{session_id}/events", self.follow, allow_head=False)]

    def drain(self) -> None:
        """End the streams within seconds: their clients go on from another worker."""
        self._is_draining = True

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """The events behind `Last-Event-ID`; without one, those of the turn that runs. Then live.

        `?until=done` ends the stream behind the next `done` or `error`.
        """
        session_id = request.match_info["session_id"]
        principal = principal_of(request, self._principals)
        after = request.headers.get("Last-Event-ID", request.query.get("last_event_id"))
        if after is not None and not is_event_id(after):
            raise BadRequest("Last-Event-ID must be an id of this session's events.")
        until_done = request.query.get("until") == "done"
        if self._is_draining:
            raise Draining
        await self._store.check(session_id, principal)
        stream = EventStream(request, {})
        await stream.prepare()
        self._metrics.active_sessions.inc()
        try:
            await self._stream(stream, session_id, principal, after, until_done=until_done)
        except AgentError as error:
            # The head is out: the client is told in the stream, and comes back with its last id.
            await stream.send(unlogged(ERROR, {"code": error.code, "message": str(error)}))
        finally:
            self._metrics.active_sessions.dec()
        return await stream.finish()

    async def _stream(
        self,
        stream: EventStream,
        session_id: str,
        principal: str,
        after: str | None,
        *,
        until_done: bool,
    ) -> None:
        silences = 0
        async with aclosing(self._tail.follow(session_id, principal, after)) as events:
            async for event in events:
                if event is None:
                    silences += 1
                    if silences % _SILENCES == 0:
                        await stream.keep_alive()
                else:
                    await stream.send(event)
                    if until_done and event.name in {DONE, ERROR}:
                        return
                if self._is_draining:
                    return
