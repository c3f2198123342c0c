"""A hermes-agent with its HTTP API server (its file `gateway/platforms/api_server.py`).

It is an agent itself: it runs its own tools, and with `X-Hermes-Session-Id` it takes the history
from its own store, and only the last user message from us. So no tools are offered, and only texts
are sent. Its stream is that of chat completions, with additional events (`hermes.tool.progress`)
and a comment every 30 s.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from agent_worker.errors import EngineFailed
from agent_worker.models.base import TextDelta
from agent_worker.models.chat import ChatClient, ServerTraits
from agent_worker.models.chat_messages import spoken_messages
from agent_worker.models.openai import summary_by

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from agent_worker.models.base import EngineOptions, StepRequest, ToolCall
    from agent_worker.sessions import Message

_TRAITS = ServerTraits(
    name="hermes",
    # Nothing has begun: too many runs, or not ready yet.
    retry_statuses=frozenset({429, 503}),
    # Its tools may have had effects.
    may_resend=False,
    comments_count=True,
)


class HermesEngine:
    """Each step is a turn of the hermes-agent."""

    can_continue = False

    def __init__(self, options: EngineOptions) -> None:
        self._client = ChatClient(_TRAITS, options)

    def __repr__(self) -> str:
        return f"HermesEngine({self._client!r})"

    async def step(self, request: StepRequest) -> AsyncGenerator[TextDelta | ToolCall, None]:
        headers = {"X-Hermes-Session-Id": request.session_id} if request.session_id else {}
        has_spoken = False
        answer = self._client.answer(spoken_messages(request.messages), headers=headers)
        async with contextlib.aclosing(answer) as pieces:
            async for piece in pieces:
                if isinstance(piece, TextDelta):
                    has_spoken = True
                    yield piece
        if not has_spoken:
            # A run whose model was unreachable ends with "stop" and without text.
            raise EngineFailed

    async def summarise(self, messages: Sequence[Message]) -> str:
        """Requested outside of the session, so that it is not a turn of it."""
        return await summary_by(self._client, messages)

    async def close(self) -> None:
        await self._client.close()
