"""Sessions over HTTP: create, read, delete, and turns as JSON or as an event stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from agent_worker.api.bodies import (
    accepts_event_stream,
    content_of,
    idempotency_key_of,
    json_object,
    metadata_of,
    number_of,
    policy_of,
)
from agent_worker.api.headers import RESUME_HEADER, SESSION_HEADER, accepts_handover
from agent_worker.api.sse import EventStream
from agent_worker.errors import BadRequest, SessionNotFound
from agent_worker.runtime import TurnRequest
from agent_worker.runtime.events import discard
from agent_worker.runtime.paging import MAX_MESSAGES, read_from
from agent_worker.sessions import Queued
from agent_worker.storage.base import BlobMissing

if TYPE_CHECKING:
    from agent_worker.api.principals import Principals
    from agent_worker.runtime import Turns
    from agent_worker.sessions import SessionStore
    from agent_worker.storage.base import BlobStore

PREFIX = "/api/agent/sessions"


def principal_of(request: web.Request, principals: Principals) -> str:
    """Raises Unauthorized."""
    return principals.identify(request.headers.get("Authorization"))


def resume_path(session_id: str, turn: str) -> str:
    return f"{PREFIX}/{session_id}/events?turn={turn}"


@dataclass(eq=False)
class SessionEndpoints:
    store: SessionStore
    turns: Turns
    principals: Principals
    blobs: BlobStore | None

    def routes(self) -> list[web.RouteDef]:
        one = PREFIX + "/{session_id}"
        return [
            web.post(PREFIX, self.create),
            web.get(one, self.read, allow_head=False),
            web.delete(one, self.delete),
            web.post(one + "/messages", self.send_message),
            web.get(one + "/blobs/{blob:.+}", self.read_blob, allow_head=False),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """`{"metadata": {...}}`, `{}` or nothing -> 201 `{"session_id"}`."""
        principal = principal_of(request, self.principals)
        metadata = metadata_of(await json_object(request))
        session_id = await self.store.create(principal, metadata)
        headers = {SESSION_HEADER: session_id, "Location": f"{PREFIX}/{session_id}"}
        return web.json_response({"session_id": session_id}, status=201, headers=headers)

    async def read(self, request: web.Request) -> web.Response:
        """-> `{"session_id", "step", "status", "messages", "metadata", "total", "waiting"}`.

        `?first=100&count=50` selects messages. A response has 1,000 messages or 1 MiB at most, so
        it may have fewer than requested; `total` is the number of all messages.
        """
        principal = principal_of(request, self.principals)
        first, count = number_of(request, "first", 0), number_of(request, "count", MAX_MESSAGES)
        if count == 0:
            raise BadRequest('"count" must be at least 1.')
        session_id = request.match_info["session_id"]
        session = await read_from(
            self.store, session_id, principal, first=first, count=min(count, MAX_MESSAGES)
        )
        return web.json_response(session.as_json())

    async def delete(self, request: web.Request) -> web.Response:
        """-> 204. Its blobs are deleted first: without the session they could not be found."""
        principal = principal_of(request, self.principals)
        session_id = request.match_info["session_id"]
        await self.store.check(session_id, principal)
        if self.blobs is not None:
            await self.blobs.delete_session(session_id)
        await self.store.delete(session_id, principal)
        await self.turns.announce(session_id)
        return web.Response(status=204)

    async def read_blob(self, request: web.Request) -> web.Response:
        """A text that was too large for the history.

        Its name is that in a message's `blob`, `<session_id>/<sha256>`, or the hash alone.
        """
        principal = principal_of(request, self.principals)
        session_id = request.match_info["session_id"]
        await self.store.check(session_id, principal)
        digest = request.match_info["blob"].removeprefix(f"{session_id}/")
        if self.blobs is None or "/" in digest:
            raise SessionNotFound
        try:
            data = await self.blobs.get(f"{session_id}/{digest}")
        except BlobMissing:
            raise SessionNotFound from None
        return web.Response(body=data, content_type="text/plain", charset="utf-8")

    async def send_message(self, request: web.Request) -> web.StreamResponse:
        """One turn: `{"content"}` -> the answer, or its events if the client accepts those.

        `"policy": "enqueue"` while another turn runs -> 202 `{"session_id", "status", "waiting"}`.
        """
        principal = principal_of(request, self.principals)
        body = await json_object(request)
        turn_request = TurnRequest(
            session_id=request.match_info["session_id"],
            principal=principal,
            idempotency_key=idempotency_key_of(request),
            content=content_of(body),
            policy=policy_of(body),
            accepts_handover=accepts_event_stream(request) and accepts_handover(request),
        )
        async with self.turns.open(turn_request) as turn:
            if isinstance(turn, Queued):
                return _queued(turn_request.session_id, turn)
            headers = {"Idempotency-Replayed": "true"} if turn.is_replay else {}
            if turn.name:
                headers[RESUME_HEADER] = resume_path(turn_request.session_id, turn.name)
            if accepts_event_stream(request):
                return await EventStream(request, headers).run(turn)
            answer = await turn.run(discard)
        return web.json_response(answer.as_json(), headers=headers)


def _queued(session_id: str, queued: Queued) -> web.Response:
    body = {"session_id": session_id, "status": "queued", "waiting": queued.waiting}
    headers = {"Location": f"{PREFIX}/{session_id}/events"}
    return web.json_response(body, status=202, headers=headers)
