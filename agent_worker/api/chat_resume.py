"""`GET /v1/chat/completions/<id>/events`: continues a stream of chunks, on any worker.

The URL, which the stream's `X-Hermes-Resume` gives, has everything that is not in the turn's
events. The events are in the session, or in the journal of a chat without a session.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from aiohttp import web

from agent_worker.api.chat_chunks import ChunkStream, Completion, event_before, is_chunk_id
from agent_worker.api.chat_errors import PREFIX
from agent_worker.api.ephemeral import EPHEMERAL_HEADERS
from agent_worker.api.events import answer_with
from agent_worker.api.headers import RESUME_HEADER, SESSION_HEADER, accepts_handover
from agent_worker.api.sessions import principal_of
from agent_worker.errors import BadRequest, Draining, EventsGone
from agent_worker.runtime import FollowRequest

if TYPE_CHECKING:
    from agent_worker.api.principals import Principals
    from agent_worker.metrics import Metrics
    from agent_worker.runtime import EphemeralTurns, Turns, TurnTakeover
    from agent_worker.runtime.journal import Journals

_FORMS = {
    "session": r"[A-Za-z0-9_-]{16,64}",
    "turn": r"[1-9][0-9]{0,14}",
    "created": r"[0-9]{1,12}",
    "prompt": r"[0-9]{1,9}",
    "model": r"[^\x00-\x1f]{1,256}",
}


@dataclass(frozen=True, slots=True)
class Resumable:
    """A stream that can be resumed. `is_journal`: `session_id` is that of a journal."""

    completion: Completion
    session_id: str
    #: The fence of the turn's begin; empty: the stream cannot be resumed.
    turn: str
    is_journal: bool = False

    @property
    def path(self) -> str:
        completion = self.completion
        query = {
            "session": self.session_id,
            "turn": self.turn,
            "created": completion.created,
            "prompt": completion.prompt_tokens,
            "model": completion.model,
        }
        flags = {"usage": completion.includes_usage, "journal": self.is_journal}
        query |= {name: "1" for name, is_set in flags.items() if is_set}
        return f"{PREFIX}/chat/completions/{completion.id}/events?{urlencode(query)}"

    @classmethod
    def of(cls, request: web.Request) -> Resumable:
        """Raises BadRequest."""
        given = {name: request.query.get(name, "") for name in _FORMS}
        for name, form in _FORMS.items():
            if not re.fullmatch(form, given[name]):
                raise BadRequest(f'"{name}" must be as in X-Hermes-Resume.')
        completion = Completion(
            request.match_info["completion"],
            int(given["created"]),
            given["model"],
            int(given["prompt"]),
            includes_usage="usage" in request.query,
        )
        is_journal = "journal" in request.query
        return cls(completion, given["session"], given["turn"], is_journal)


def resume_headers(stream: Resumable) -> dict[str, str]:
    return {RESUME_HEADER: stream.path} if stream.turn else {}


@dataclass(eq=False)
class ChatResumeEndpoint:
    """`sessions` follows the turns of sessions, `chats` those that have a journal."""

    sessions: TurnTakeover
    chats: TurnTakeover
    journals: Journals
    ephemeral: EphemeralTurns
    turns: Turns
    principals: Principals
    metrics: Metrics

    def routes(self) -> list[web.RouteDef]:
        path = PREFIX + r"/chat/completions/{completion:chatcmpl-[0-9a-f]{32}}/events"
        return [web.get(path, self.follow, allow_head=False)]

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """The chunks after `Last-Event-ID`; without one, all. Then live ones, to the end."""
        principal = principal_of(request, self.principals)
        there = Resumable.of(request)
        behind = request.headers.get("Last-Event-ID")
        if behind is not None and not is_chunk_id(behind):
            # In particular `unkept`.
            raise EventsGone
        if self.turns.is_leaving:
            raise Draining
        takeover, loop = self.sessions, None
        if there.is_journal:
            takeover = self.chats
            loop = self.ephemeral.loop_of(await self.journals.spec_of(there.session_id, principal))
        asked = FollowRequest(
            session_id=there.session_id,
            principal=principal,
            turn=there.turn,
            after=None,
            accepts_handover=accepts_handover(request),
            loop=loop,
        )
        try:
            await takeover.check(asked)
        except EventsGone:
            # The turn's beginning has expired; what the client lacks may still be there.
            if behind is None:
                raise
            asked = replace(asked, after=event_before(behind))
            await takeover.check(asked)
        headers = resume_headers(there)
        headers |= EPHEMERAL_HEADERS if there.is_journal else {SESSION_HEADER: there.session_id}
        stream = ChunkStream(
            request, headers, there.completion, there.turn, behind=behind, after=asked.after
        )
        return await answer_with(stream, takeover.follow(asked), self.metrics)
