"""Answers of the chat completions API: whole, and as the chunks of a stream.

https://platform.openai.com/docs/api-reference/chat/object and .../chat/streaming
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

from agent_worker.api.chat_errors import error_event
from agent_worker.api.sse import EventStream
from agent_worker.errors import AgentError
from agent_worker.models.arguments import text_of
from agent_worker.runtime import EphemeralTurn
from agent_worker.runtime.conversation import tokens_in
from agent_worker.runtime.events import MESSAGE_DELTA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from agent_worker.runtime import ReplayedTurn, Turn
    from agent_worker.sessions import Answer, Event, Message
    from agent_worker.sessions.records import ToolCallRecord

    AnyTurn = Turn | ReplayedTurn | EphemeralTurn


class Completion:
    """One answer to `sent`. `created` is in seconds since 1970."""

    def __init__(self, model: str, sent: Sequence[Message], turn: AnyTurn) -> None:
        self.turn = turn
        self._sent = sent
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(16)}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, answer: Answer) -> dict[str, Any]:
        calls = self._calls()
        message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
        if calls:
            message |= {"content": answer.content or None, "tool_calls": calls}
        choice = {"message": message, "finish_reason": self._finish_reason(answer)}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [{"index": 0, "logprobs": None, **choice}],
            "usage": self._usage(answer),
        }

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk(choices=[choice])

    def last_chunks(self, answer: Answer, *, includes_usage: bool) -> list[dict[str, Any]]:
        """What comes behind the text."""
        calls = [{"index": index, **call} for index, call in enumerate(self._calls())]
        chunks = [self.chunk({"tool_calls": [call]}) for call in calls]
        chunks.append(self.chunk({}, self._finish_reason(answer)))
        if includes_usage:
            chunks.append(self._chunk(choices=[], usage=self._usage(answer)))
        return chunks

    @property
    def _called(self) -> Sequence[ToolCallRecord]:
        """What the client has to run."""
        return self.turn.calls if isinstance(self.turn, EphemeralTurn) else ()

    def _chunk(self, **more: Any) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", **more}

    def _calls(self) -> list[dict[str, Any]]:
        return [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": text_of(call["arguments"])},
            }
            for call in self._called
        ]

    def _finish_reason(self, answer: Answer) -> str:
        if self._called:
            return "tool_calls"
        return "stop" if answer.is_final else "length"

    def _usage(self, answer: Answer) -> dict[str, int]:
        """An estimate, of what the client sent and got."""
        got: Message = {"role": "assistant", "content": answer.content}
        got["tool_calls"] = list(self._called)
        prompt, completion = tokens_in(self._sent), tokens_in([got])
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


class ChunkStream(EventStream):
    """A response of chunks, which have neither ids nor names."""

    async def send_json(self, chunk: dict[str, Any]) -> None:
        """Raises ConnectionError when the client has left."""
        await self.send_data(json.dumps(chunk, ensure_ascii=False))

    async def send_data(self, line: str) -> None:
        await self._response.write(f"data: {line}\n\n".encode())


async def stream_completion(
    completion: Completion, stream: ChunkStream, *, includes_usage: bool
) -> web.StreamResponse:
    """Run the turn. A stream without `[DONE]` has failed; its last chunk is the error then."""
    await stream.prepare()
    await stream.send_json(completion.chunk({"role": "assistant", "content": ""}))

    async def emit(event: Event) -> None:
        if event.name == MESSAGE_DELTA:
            await stream.send_json(completion.chunk(json.loads(event.data)))

    try:
        answer = await completion.turn.run(emit)
    except AgentError as error:
        await stream.send_json(error_event(error))
        return await stream.finish()
    for chunk in completion.last_chunks(answer, includes_usage=includes_usage):
        await stream.send_json(chunk)
    await stream.send_data("[DONE]")
    return await stream.finish()
