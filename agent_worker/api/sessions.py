"""Sessions over HTTP: create, read, delete, and turns as JSON or as an event stream."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from aiohttp import web

from agent_worker.api.bodies import (
    accepts_event_stream,
    content_of,
    idempotency_key_of,
    json_object,
    metadata_of,
)
from agent_worker.api.headers import SESSION_HEADER
from agent_worker.api.sse import EventStream
from agent_worker.errors import AgentError
from agent_worker.runtime import TurnRequest

if TYPE_CHECKING:
    from agent_worker.api.principals import Principals
    from agent_worker.runtime import Event, ReplayedTurn, Turn, Turns
    from agent_worker.sessions import SessionStore

PREFIX = "/api/agent/sessions"


def principal_of(request: web.Request, principals: Principals) -> str:
    """Raises Unauthorized."""
    return principals.identify(request.headers.get("Authorization"))


class SessionEndpoints:
    def __init__(self, store: SessionStore, turns: Turns, principals: Principals) -> None:
        self._store = store
        self._turns = turns
        self._principals = principals

    def routes(self) -> list[web.RouteDef]:
        one = PREFIX + "/{session_id}"
        return [
            web.post(PREFIX, self.create),
            web.get(one, self.read, allow_head=False),
            web.delete(one, self.delete),
            web.post(one + "/messages", self.send_message),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """`{"metadata": {...}}`, `{}` or nothing -> 201 `{"session_id"}`."""
        principal = principal_of(request, self._principals)
        metadata = metadata_of(await json_object(request))
        session_id = await self._store.create(principal, metadata)
        headers = {SESSION_HEADER: session_id, "Location": f"{PREFIX}/{session_id}"}
        return web.json_response({"session_id": session_id}, status=201, headers=headers)

    async def read(self, request: web.Request) -> web.Response:
        """-> `{"session_id", "step", "status", "messages", "metadata"}`."""
        principal = principal_of(request, self._principals)
        session = await self._store.read(request.match_info["session_id"], principal)
        return web.json_response(session.as_json())

    async def delete(self, request: web.Request) -> web.Response:
        """-> 204."""
        principal = principal_of(request, self._principals)
        await self._store.delete(request.match_info["session_id"], principal)
        return web.Response(status=204)

    async def send_message(self, request: web.Request) -> web.StreamResponse:
        """One turn: `{"content"}` -> the answer, or its events if the client accepts those."""
        turn_request = TurnRequest(
            session_id=request.match_info["session_id"],
            principal=principal_of(request, self._principals),
            idempotency_key=idempotency_key_of(request),
            content=content_of(await json_object(request)),
        )
        async with self._turns.open(turn_request) as turn:
            headers = {"Idempotency-Replayed": "true"} if turn.is_replay else {}
            if accepts_event_stream(request):
                return await _stream(turn, EventStream(request, headers))
            answer = await turn.run(_ignore)
        return web.json_response(answer.as_json(), headers=headers)


async def _stream(turn: Turn | ReplayedTurn, stream: EventStream) -> web.StreamResponse:
    await stream.prepare()
    # An error is the stream's last event, sent by the turn: the head is out already.
    with contextlib.suppress(AgentError):
        await turn.run(stream.send)
    return await stream.finish()


async def _ignore(event: Event) -> None:
    """The events of a client that waits for the answer as a whole."""
