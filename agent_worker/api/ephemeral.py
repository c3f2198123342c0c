"""`POST /api/agent/ephemeral`: a turn on the client's own history, without Redis."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import web

from agent_worker.api.bodies import accepts_event_stream, content_of, json_object
from agent_worker.api.chat_messages import messages_of
from agent_worker.api.sessions import principal_of
from agent_worker.api.sse import EventStream
from agent_worker.runtime import EphemeralRequest
from agent_worker.runtime.events import discard

if TYPE_CHECKING:
    from agent_worker.api.principals import Principals
    from agent_worker.runtime import EphemeralTurns
    from agent_worker.sessions import Event, Message

#: Of every response to a turn without a session.
EPHEMERAL_HEADERS = {"X-Session-Durability": "ephemeral"}


class EphemeralEndpoint:
    def __init__(self, turns: EphemeralTurns, principals: Principals) -> None:
        self._turns = turns
        self._principals = principals

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/api/agent/ephemeral", self.send_message)]

    async def send_message(self, request: web.Request) -> web.StreamResponse:
        """`{"content", "history": [{"role", "content"}, ...]}` -> as for a session's message.

        The events have no ids, and the answer's `session_id` is empty.
        """
        principal = principal_of(request, self._principals)
        body = await json_object(request)
        message: Message = {"role": "user", "content": content_of(body)}
        history = messages_of(body.get("history", []), "history")
        asked = EphemeralRequest(principal, [*history.messages, message], history.instructions)
        async with self._turns.open(asked) as opened:
            if accepts_event_stream(request):
                return await _WithoutIds(request, dict(EPHEMERAL_HEADERS)).run(opened.turn)
            answer = await opened.turn.run(discard)
        return web.json_response(answer.as_json(), headers=EPHEMERAL_HEADERS)


class _WithoutIds(EventStream):
    async def send(self, event: Event) -> None:
        # There is no log, so an id would be useless.
        await super().send(replace(event, id=""))
