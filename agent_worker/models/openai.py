"""Any server of OpenAI's chat completions API: OpenAI, vLLM, llama.cpp, Ollama, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_worker.errors import EngineFailed
from agent_worker.models.chat import ChatClient, ServerTraits
from agent_worker.models.chat_messages import chat_messages, function_specs, summary_request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from agent_worker.models.base import EngineOptions, StepRequest, TextDelta, ToolCall
    from agent_worker.sessions import Message

_TRAITS = ServerTraits(
    name="openai",
    # Those that OpenAI's own library repeats: timeout, lock, rate, and the server's own failures.
    retry_statuses=frozenset({408, 409, 429, *range(500, 600)}),
    # A completion has no effect but its cost.
    may_resend=True,
    # Proxies send comments for as long as they wait for a model, also one that hangs.
    comments_count=False,
)


class OpenAIEngine:
    """The model gets our tools and the whole conversation with each step."""

    can_continue = False

    def __init__(self, options: EngineOptions) -> None:
        self._client = ChatClient(_TRAITS, options)

    def __repr__(self) -> str:
        return f"OpenAIEngine({self._client!r})"

    def step(self, request: StepRequest) -> AsyncGenerator[TextDelta | ToolCall, None]:
        return self._client.answer(
            chat_messages(request.messages), tools=function_specs(request.tools)
        )

    async def summarise(self, messages: Sequence[Message]) -> str:
        return await summary_by(self._client, messages)

    async def close(self) -> None:
        await self._client.close()


async def summary_by(client: ChatClient, messages: Sequence[Message]) -> str:
    """What the server's model makes of `messages`. Raises EngineFailed, also for nothing."""
    summary = (await client.text(summary_request(messages))).strip()
    if not summary:
        raise EngineFailed
    return summary
