"""OpenAI's API over the agent: chat completions, and the list of models.

Without `X-Hermes-Session-Id` the client's messages are the whole conversation, and nothing is kept.
With it the conversation is that session's history, and only the last messages of the user are new.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from aiohttp import web

from agent_worker.api.bodies import idempotency_key_of, json_object
from agent_worker.api.chat_chunks import ChunkStream, Completion
from agent_worker.api.chat_errors import (
    PREFIX,
    ModelNotFound,
    Unsupported,
    allow_retry,
    forbid_retry,
)
from agent_worker.api.chat_requests import chat_request_of
from agent_worker.api.chat_resume import Resumable, resume_headers
from agent_worker.api.ephemeral import EPHEMERAL_HEADERS
from agent_worker.api.headers import SESSION_HEADER, accepts_handover
from agent_worker.api.sessions import principal_of
from agent_worker.errors import BadRequest, TurnBusy
from agent_worker.runtime import EphemeralRequest, TurnRequest
from agent_worker.runtime.conversation import tokens_in
from agent_worker.runtime.events import discard
from agent_worker.sessions import Queued
from agent_worker.storage.base import StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from agent_worker.api.chat_requests import ChatRequest
    from agent_worker.api.principals import Principals
    from agent_worker.runtime import EphemeralTurns, ReplayedTurn, Turn, Turns
    from agent_worker.sessions import Message, SessionStore

#: The id of the model on every worker, with any engine.
MODEL = "hermes-agent"
#: In place of a session's id: create one.
NEW = "new"


class ChatEndpoints:
    """`models` are further ids of this worker's model, besides `MODEL`."""

    def __init__(
        self,
        store: SessionStore,
        turns: Turns,
        ephemeral: EphemeralTurns,
        principals: Principals,
        models: Sequence[str],
    ) -> None:
        self._store = store
        self._turns = turns
        self._ephemeral = ephemeral
        self._principals = principals
        # Without duplicates, in this order.
        self._models = dict.fromkeys([MODEL, *filter(None, models)])

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(PREFIX + "/chat/completions", self.complete),
            web.get(PREFIX + "/models", self.list_models, allow_head=False),
            # An id can have slashes: org/model.
            web.get(PREFIX + "/models/{model:.+}", self.read_model, allow_head=False),
        ]

    async def list_models(self, request: web.Request) -> web.Response:
        principal_of(request, self._principals)
        models = [_model(model) for model in self._models]
        return web.json_response({"object": "list", "data": models})

    async def read_model(self, request: web.Request) -> web.Response:
        principal_of(request, self._principals)
        model = request.match_info["model"]
        if model not in self._models:
            raise ModelNotFound(model)
        return web.json_response(_model(model))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """One completion, whole or with `"stream": true` in chunks."""
        principal = principal_of(request, self._principals)
        chat = chat_request_of(await json_object(request), self._models)
        session_id = _session_id_of(request)
        if session_id is None:
            return await self._complete_ephemeral(request, chat, principal)
        return await self._complete_kept(request, chat, principal, session_id)

    async def _complete_ephemeral(
        self, request: web.Request, chat: ChatRequest, principal: str
    ) -> web.StreamResponse:
        chat.messages.check_end()
        asked = EphemeralRequest(
            principal=principal,
            messages=chat.messages.messages,
            instructions=chat.messages.instructions,
            client_tools=chat.tools if chat.may_call_tools else [],
            is_resumable=chat.is_stream and accepts_handover(request),
            accepts_rewind=True,
        )
        async with self._ephemeral.open(asked) as opened:
            completion = _completion(chat, opened.prompt_tokens)
            if not chat.is_stream:
                return await _whole(opened.turn, completion, EPHEMERAL_HEADERS)
            journal, turn = opened.journal, opened.turn
            there = Resumable(completion, journal.session_id, turn.name, is_journal=True)
            headers = EPHEMERAL_HEADERS | resume_headers(there)
            stream = ChunkStream(
                request, headers, completion, turn.name, is_kept=lambda: journal.is_kept
            )
            return await stream.run(turn)

    async def _complete_kept(
        self, request: web.Request, chat: ChatRequest, principal: str, session_id: str
    ) -> web.StreamResponse:
        if chat.tools is not None:
            raise Unsupported(
                "tools", message="A kept session has the worker's tools, and no others."
            )
        if not chat.may_call_tools:
            raise Unsupported(
                "tool_choice", message='In a kept session "tool_choice" is always "auto".'
            )
        content = chat.messages.new_content()
        key = idempotency_key_of(request)
        if session_id == NEW:
            session_id = await self._store.create(principal, {})
        asked = TurnRequest(
            session_id,
            principal,
            content,
            key,
            accepts_handover=chat.is_stream and accepts_handover(request),
        )
        async with self._opened(request, asked) as turn:
            headers = {SESSION_HEADER: session_id}
            if turn.is_replay:
                headers["Idempotency-Replayed"] = "true"
            message: Message = {"role": "user", "content": content}
            completion = _completion(chat, tokens_in([message]))
            if not chat.is_stream:
                return await _whole(turn, completion, headers)
            headers |= resume_headers(Resumable(completion, session_id, turn.name))
            return await ChunkStream(request, headers, completion, turn.name).run(turn)

    @contextlib.asynccontextmanager
    async def _opened(
        self, request: web.Request, asked: TurnRequest
    ) -> AsyncIterator[Turn | ReplayedTurn]:
        """`Turns.open`. Without a key, a message that may be in the history must not be retried.

        Whether it is there is unknown if a reply of Redis was lost or late.
        """
        async with contextlib.AsyncExitStack() as stack:
            if asked.idempotency_key is None:
                forbid_retry(request)
            try:
                turn = await stack.enter_async_context(self._turns.open(asked))
            except (TurnBusy, StorageUnavailable):
                # Refused before anything was written, and a retry may succeed.
                allow_retry(request)
                raise
            assert not isinstance(turn, Queued), "only another policy queues"
            yield turn


def _completion(chat: ChatRequest, prompt_tokens: int) -> Completion:
    return Completion.new(chat.model, prompt_tokens, includes_usage=chat.includes_usage)


async def _whole(
    turn: Turn | ReplayedTurn, completion: Completion, headers: Mapping[str, str]
) -> web.Response:
    answer = await turn.run(discard)
    return web.json_response(completion.whole(answer), headers=headers)


def _session_id_of(request: web.Request) -> str | None:
    """None: no session. Raises BadRequest."""
    given = request.headers.getall(SESSION_HEADER, [])
    if not given:
        return None
    if len(given) > 1 or not given[0]:
        raise BadRequest(f"{SESSION_HEADER} must be the id of one session, or {NEW!r}.")
    return given[0]


def _model(model: str) -> dict[str, Any]:
    # The time of its creation is unknown.
    return {"id": model, "object": "model", "created": 0, "owned_by": "hermes"}
