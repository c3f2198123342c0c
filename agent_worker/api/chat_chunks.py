"""Answers of the chat completions API: whole, and as the chunks of a stream.

https://platform.openai.com/docs/api-reference/chat/object and .../chat/streaming

A stream is made of its turn's events, and of nothing else: whoever has the events, and the
`Completion`, makes the same chunks with the same ids. The end of a turn is several chunks, with the
id of its event and a part behind it:

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
from agent_worker.runtime import events
from agent_worker.runtime.conversation import tokens_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from agent_worker.sessions import Answer, Event, Message

#: Instead of an id, behind events that are not in a log: nobody can go on from there.
UNKEPT = "unkept"
_FIRST = {"role": "assistant", "content": ""}
_CHUNK_ID = re.compile(r"([0-9]{1,15})-([0-9]{1,15})(?:\.([0-9]{1,3}))?")


class AnswerChanged(EngineFailed):
    """A step was begun anew, and the model says something else: chunks can't be taken back."""

    code = "answer_changed"
    message = "The model was interrupted, and answers differently now; ask again."


@dataclass(frozen=True, slots=True)
class Completion:
    """What all chunks of one answer have in common. `created` is in seconds since 1970."""

    id: str
    created: int
    model: str
    #: Of what the client sent; an estimate, as all of `usage`.
    prompt_tokens: int
    includes_usage: bool = False

    @classmethod
    def new(cls, model: str, prompt_tokens: int, *, includes_usage: bool) -> Self:
        name = f"chatcmpl-{secrets.token_hex(16)}"
        return cls(name, int(time.time()), model, prompt_tokens, includes_usage)

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer in one piece."""
        told = answer.as_json()
        calls = _calls(told)
        message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
        if calls:
            message |= {"content": answer.content or None, "tool_calls": calls}
        choice = {"message": message, "finish_reason": _finish_reason(told)}
        return {
            **self._head("chat.completion"),
            "choices": [{"index": 0, "logprobs": None, **choice}],
            "usage": self._usage(told),
        }

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk(choices=[choice])

    def last_chunks(self, told: dict[str, Any]) -> list[dict[str, Any]]:
        """What comes behind the text; `told` is the data of the event `done`."""
        calls = [{"index": index, **call} for index, call in enumerate(_calls(told))]
        chunks = [self.chunk({"tool_calls": [call]}) for call in calls]
        chunks.append(self.chunk({}, _finish_reason(told)))
        if self.includes_usage:
            chunks.append(self._chunk(choices=[], usage=self._usage(told)))
        return chunks

    def _chunk(self, **more: Any) -> dict[str, Any]:
        return {**self._head("chat.completion.chunk"), **more}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "created": self.created, "model": self.model, "object": kind}

    def _usage(self, told: dict[str, Any]) -> dict[str, int]:
        """An estimate, of what the client sent and got."""
        got: Message = {"role": "assistant", "content": told["content"]}
        got["tool_calls"] = told.get("tool_calls", [])
        completion = tokens_in([got])
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }


class ChunkStream(EventStream):
    """A response of chunks, which `send` makes of the turn's events, given from the first one on.

    `turn`: the turn's name; empty if its events have no ids. `behind`: the id of a chunk that the
    client has; it gets those behind that one. `after`: the event behind which the events begin, if
    not with the turn's first. `is_kept`: whether all events so far are in a log.
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
        # What the client has of this step, by event; and what of it a step that was begun anew has
        # still to say again.
        self._said: list[tuple[str, str]] = []
        self._to_repeat = ""

    async def prepare(self) -> None:
        await super().prepare()
        await self._send(f"{self._turn}-0", self._completion.chunk(_FIRST))

    async def send(self, event: Event) -> None:
        """Raises ConnectionError when the client has left, and AnswerChanged."""
        match event.name:
            case events.MESSAGE_DELTA:
                if text := self._new_part(json.loads(event.data)["content"]):
                    self._said.append((event.id, text))
                    await self._send(event.id, self._completion.chunk({"content": text}))
            case events.TOOL_STARTED:
                # The step is finished, and can't be begun anew.
                self._said.clear()
            case events.REWIND:
                start = _order(json.loads(event.data)["id"])
                if start < self._known_from:
                    raise AnswerChanged
                said = (text for event_id, text in self._said if _order(event_id) > start)
                self._to_repeat = "".join(said)
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
        """What of `text` the client has not got. Raises AnswerChanged."""
        if not self._to_repeat:
            return text
        size = min(len(text), len(self._to_repeat))
        if is_last or text[:size] != self._to_repeat[:size]:
            raise AnswerChanged
        self._to_repeat = self._to_repeat[size:]
        return text[size:]

    async def _send(self, chunk_id: str, chunk: dict[str, Any] | None) -> None:
        """None: the stream's last one."""
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
    """Whether it could be the id of a chunk that is kept."""
    return _CHUNK_ID.fullmatch(text) is not None


def event_before(chunk_id: str) -> str:
    """The id of the last event that whoever has this chunk has as a whole."""
    fence, seq, part = _parts(chunk_id)
    return f"{fence}-{seq}" if part is None else f"{fence}-{seq - 1}"


def _order(chunk_id: str) -> tuple[float, ...]:
    fence, seq, part = _parts(chunk_id)
    return fence, seq, math.inf if part is None else part


def _parts(chunk_id: str) -> tuple[int, int, int | None]:
    match = _CHUNK_ID.fullmatch(chunk_id)
    assert match is not None, chunk_id
    return int(match[1]), int(match[2]), None if match[3] is None else int(match[3])


def _finish_reason(told: dict[str, Any]) -> str:
    if told.get("tool_calls"):
        return "tool_calls"
    return "stop" if told["is_final"] else "length"


def _calls(told: dict[str, Any]) -> list[dict[str, Any]]:
    """What the client has to run."""
    return [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": text_of(call["arguments"])},
        }
        for call in told.get("tool_calls", ())
    ]
