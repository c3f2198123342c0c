"""Answers of the chat completions API: whole, and as the chunks of a stream.

https://platform.openai.com/docs/api-reference/chat/object and .../chat/streaming

A stream is a function of its turn's events and the `Completion`: every worker makes the same chunks
with the same ids. The end of a turn is several chunks, whose ids are that of the event with a part:

    <turn>-0                    the first chunk, before any event
    <fence>-<seq>               a `message.delta`; an `error`
    <fence>-<seq>.1, .2, ...    of `done`: tool calls, finish reason, usage
    <fence>-<seq>               and its last one, `[DONE]`
"""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from agent_worker.api.chat_errors import error_chunk
from agent_worker.api.sse import EventStream
from agent_worker.errors import EngineFailed
from agent_worker.models.arguments import text_of
from agent_worker.models.chat_messages import function_calls
from agent_worker.runtime import events
from agent_worker.runtime.conversation import tokens_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from agent_worker.sessions import Answer, Event, Message

#: The id of chunks after events that are not in a log: a stream cannot be resumed there.
UNKEPT = "unkept"
_FIRST = {"role": "assistant", "content": ""}
_CHUNK_ID = re.compile(r"([0-9]{1,15})-([0-9]{1,15})(?:\.([0-9]{1,3}))?")


class AnswerChanged(EngineFailed):
    """A step was restarted, and the model's text differs: chunks cannot be revoked."""

    code = "answer_changed"
    message = "The model was interrupted, and its answer has changed; ask again."


@dataclass(frozen=True, slots=True)
class Completion:
    """What all chunks of an answer have in common. `created` is in seconds since 1970."""

    id: str
    created: int
    model: str
    #: The size of what the client sent; an estimate, as all of `usage`.
    prompt_tokens: int
    includes_usage: bool = False

    @classmethod
    def new(cls, model: str, prompt_tokens: int, *, includes_usage: bool) -> Self:
        name = f"chatcmpl-{secrets.token_hex(16)}"
        return cls(name, int(time.time()), model, prompt_tokens, includes_usage)

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer as one object."""
        done = answer.as_json()
        calls = _calls(done)
        message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
        if calls:
            message |= {"content": answer.content or None, "tool_calls": calls}
        choice = {"message": message, "finish_reason": _finish_reason(done)}
        return {
            **self._head("chat.completion"),
            "choices": [{"index": 0, "logprobs": None, **choice}],
            "usage": self._usage(done),
        }

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk(choices=[choice])

    def last_chunks(self, done: dict[str, Any]) -> list[dict[str, Any]]:
        """The chunks after the text; `done` is the data of that event."""
        calls = [{"index": index, **call} for index, call in enumerate(_calls(done))]
        chunks = [self.chunk({"tool_calls": [call]}) for call in calls]
        chunks.append(self.chunk({}, _finish_reason(done)))
        if self.includes_usage:
            chunks.append(self._chunk(choices=[], usage=self._usage(done)))
        return chunks

    def _chunk(self, **more: Any) -> dict[str, Any]:
        return {**self._head("chat.completion.chunk"), **more}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "created": self.created, "model": self.model, "object": kind}

    def _usage(self, done: dict[str, Any]) -> dict[str, int]:
        """An estimate of what the client sent and received."""
        received: Message = {"role": "assistant", "content": done["content"]}
        received["tool_calls"] = done.get("tool_calls", [])
        completion = tokens_in([received])
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }


class ChunkStream(EventStream):
    """A response of chunks, which `send` makes of the turn's events, from the first one on.

    A stream that failed ends with an error chunk, and without `[DONE]`.

    `turn`: the turn's name; empty if its events have no ids. `behind`: the id of the last chunk
    that the client has. `after`: the event after which the events begin, if not with the turn's
    first. `is_kept`: whether all events so far are in a log.
    """

    def __init__(
        self,
        request: web.Request,
        headers: dict[str, str],
        completion: Completion,
        turn: str,
        *,
        behind: str | None = None,
        after: str | None = None,
        is_kept: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(request, headers)
        self._completion = completion
        self._turn = turn
        self._behind = _order(behind) if behind is not None else None
        self._known_from = _order(after) if after is not None else (0.0,)
        self._is_kept = is_kept
        # What the client has of this step, by event; of it, what a restarted step has to repeat.
        self._sent: list[tuple[str, str]] = []
        self._to_repeat = ""

    async def prepare(self) -> None:
        await super().prepare()
        await self._send(f"{self._turn}-0", self._completion.chunk(_FIRST))

    async def send(self, event: Event) -> None:
        """Raises ConnectionError when the client has left, and AnswerChanged."""
        match event.name:
            case events.MESSAGE_DELTA:
                if text := self._new_part(json.loads(event.data)["content"]):
                    self._sent.append((event.id, text))
                    await self._send(event.id, self._completion.chunk({"content": text}))
            case events.TOOL_STARTED:
                # The step is committed, and cannot be restarted.
                self._sent.clear()
            case events.REWIND:
                start = _order(json.loads(event.data)["id"])
                if start < self._known_from:
                    raise AnswerChanged
                void = (text for event_id, text in self._sent if _order(event_id) > start)
                self._to_repeat = "".join(void)
            case events.DONE:
                self._new_part("", is_last=True)
                chunks = self._completion.last_chunks(json.loads(event.data))
                for part, chunk in enumerate(chunks, 1):
                    await self._send(f"{event.id}.{part}", chunk)
                await self._send(event.id, None)
            case events.ERROR:
                await self._send(event.id, error_chunk(**json.loads(event.data)))
            case events.HANDOVER:
                await super().send(event)

    def _new_part(self, text: str, *, is_last: bool = False) -> str:
        """The part of `text` that the client does not have. Raises AnswerChanged."""
        if not self._to_repeat:
            return text
        size = min(len(text), len(self._to_repeat))
        if is_last or text[:size] != self._to_repeat[:size]:
            raise AnswerChanged
        self._to_repeat = self._to_repeat[size:]
        return text[size:]

    async def _send(self, chunk_id: str, chunk: dict[str, Any] | None) -> None:
        """None: the last one, `[DONE]`."""
        line = "[DONE]" if chunk is None else json.dumps(chunk, ensure_ascii=False)
        head = ""
        if self._turn and chunk_id:
            if self._behind is not None:
                if _order(chunk_id) <= self._behind:
                    return
                self._behind = None
            head = f"id: {chunk_id if self._is_kept() else UNKEPT}\n"
        await self._response.write(f"{head}data: {line}\n\n".encode())


def is_chunk_id(text: str) -> bool:
    """Whether `text` has the form of a chunk's id; `unkept` has not."""
    return _CHUNK_ID.fullmatch(text) is not None


def event_before(chunk_id: str) -> str:
    """The id of the last event that a client with this chunk has completely."""
    fence, seq, part = _parts(chunk_id)
    return f"{fence}-{seq}" if part is None else f"{fence}-{seq - 1}"


def _order(chunk_id: str) -> tuple[float, ...]:
    fence, seq, part = _parts(chunk_id)
    return fence, seq, math.inf if part is None else part


def _parts(chunk_id: str) -> tuple[int, int, int | None]:
    match = _CHUNK_ID.fullmatch(chunk_id)
    assert match is not None, chunk_id
    return int(match[1]), int(match[2]), None if match[3] is None else int(match[3])


def _finish_reason(done: dict[str, Any]) -> str:
    if done.get("tool_calls"):
        return "tool_calls"
    return "stop" if done["is_final"] else "length"


def _calls(done: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls that the client has to run."""
    return function_calls(done.get("tool_calls", ()), text_of)
