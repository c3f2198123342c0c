"""Any server of OpenAI's chat completions API: OpenAI, vLLM, llama.cpp, Ollama, ..."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent_worker.errors import CannotContinue, EngineFailed
from agent_worker.models.chat import ChatClient, Refused, ServerTraits
from agent_worker.models.chat_messages import chat_messages, function_specs, summary_request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from agent_worker.models.base import EngineOptions, StepRequest, TextDelta, ToolCall
    from agent_worker.sessions import Message

_TRAITS = ServerTraits(
    name="openai",
    # Those that OpenAI's own library retries: timeout, lock, rate limit, failures of the server.
    retry_statuses=frozenset({408, 409, 429, *range(500, 600)}),
    # A completion has no effect but its cost.
    may_resend=True,
    # Proxies send comments while they wait for a model, even if it hangs.
    comments_count=False,
)


@dataclass(frozen=True, slots=True)
class _Continuation:
    """Fields that make a server continue a last message of the assistant."""

    of_message: Mapping[str, Any] = field(default_factory=dict)
    of_request: Mapping[str, Any] = field(default_factory=dict)


#: As documented by the servers. A server that ignores the fields would answer from the start.
CONTINUATIONS: Mapping[str, _Continuation] = {
    "none": _Continuation(),
    # vLLM, SGLang.
    "continue_final_message": _Continuation(
        of_request={"continue_final_message": True, "add_generation_prompt": False}
    ),
    # DeepSeek ("chat prefix completion").
    "prefix": _Continuation(of_message={"prefix": True}),
    # A last message of the assistant is enough: llama.cpp's server, OpenRouter.
    "prefill": _Continuation(),
}


class OpenAIEngine:
    """Each step sends the worker's tools and the whole conversation.

    Raises ValueError for invalid options.
    """

    def __init__(self, options: EngineOptions) -> None:
        if options.continuation not in CONTINUATIONS:
            known = ", ".join(CONTINUATIONS)
            raise ValueError(f"no continuation {options.continuation!r}; known: {known}")
        self.can_continue = options.continuation != "none"
        self._continuation = CONTINUATIONS[options.continuation]
        self._client = ChatClient(_TRAITS, options)

    def __repr__(self) -> str:
        return f"OpenAIEngine({self._client!r})"

    def step(self, request: StepRequest) -> AsyncGenerator[TextDelta | ToolCall, None]:
        if request.prefix:
            return self._continued(request)
        return self._client.answer(
            chat_messages(request.messages), tools=function_specs(request.tools)
        )

    async def _continued(self, request: StepRequest) -> AsyncGenerator[TextDelta | ToolCall, None]:
        """The text after the prefix. Raises CannotContinue if the server refuses the request."""
        begun = {"role": "assistant", "content": request.prefix, **self._continuation.of_message}
        answer = self._client.answer(
            [*chat_messages(request.messages), begun],
            tools=function_specs(request.tools),
            more=self._continuation.of_request,
        )
        try:
            async with contextlib.aclosing(answer) as pieces:
                async for piece in pieces:
                    yield piece
        except Refused:
            raise CannotContinue from None

    async def summarise(self, messages: Sequence[Message]) -> str:
        return await summary_by(self._client, messages)

    async def close(self) -> None:
        await self._client.close()


async def summary_by(client: ChatClient, messages: Sequence[Message]) -> str:
    """A summary of `messages` by the server's model. Raises EngineFailed, also if it is empty."""
    summary = (await client.text(summary_request(messages))).strip()
    if not summary:
        raise EngineFailed
    return summary
