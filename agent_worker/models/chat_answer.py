"""Assembles an answer of the chat completions API from the chunks of its stream.

https://platform.openai.com/docs/api-reference/chat-streaming. Deviations of servers that are
accepted are noted where they are handled.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent_worker.models.arguments import arguments_of, encodable, loads
from agent_worker.models.base import ToolCall

if TYPE_CHECKING:
    from agent_worker.models.sse import ServerEvent

#: Characters of text and arguments in one answer; 64 thousand tokens are about a quarter of that.
MAX_ANSWER = 1024 * 1024
MAX_CALLS = 64

# What the API accepts as a function's name and as an id; models invent both.
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9_.-]")
_CALL_ID = re.compile(r"[\x21-\x7e]{1,128}")
_MAX_NAME = 64

_UNNAMED = ("", "message", "error")


@dataclass(eq=False)
class BadAnswer(Exception):
    """The stream violates the API, or reports that the model failed."""

    #: For the log: it may quote the server.
    reason: str
    #: The server reports that the request is not at fault.
    is_server_error: bool = False


@dataclass(slots=True)
class _Fragments:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class ChatAnswer:
    """Takes events in order; `is_ended` after the last one."""

    def __init__(self, max_size: int = MAX_ANSWER) -> None:
        self.is_ended = False
        self.finish_reason = ""
        self._max_size = max_size
        self._size = 0
        self._calls: list[_Fragments] = []
        self._by_index: dict[int, _Fragments] = {}

    def take(self, event: ServerEvent) -> str:
        """The text that the event adds, often none. Raises BadAnswer.

        Named events, such as hermes-agent's `hermes.tool.progress`, are ignored.
        """
        if self.is_ended:
            return ""
        if event.data.strip() == "[DONE]":
            self.is_ended = True
            return ""
        is_named = event.name not in _UNNAMED
        chunk = loads(event.data)
        if not isinstance(chunk, dict):
            if is_named:
                return ""
            raise BadAnswer(f"not a JSON object: {event.data[:200]!r}")
        if not is_named and (chunk.get("error") or event.name == "error"):
            raise BadAnswer(
                f"an error within the answer: {event.data[:500]!r}",
                is_server_error=_is_server_error(chunk.get("error")),
            )
        choices = chunk.get("choices")
        # A chunk with the usage has no choice; more than one was not requested.
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return ""
        return self._take_choice(choices[0])

    def tool_calls(self) -> list[ToolCall]:
        """The calls; complete once the answer is. Their ids are unique."""
        calls: list[ToolCall] = []
        taken: set[str] = set()
        for number, fragments in enumerate(self._calls, 1):
            call_id = fragments.id
            # Some servers send no id, or the same id twice.
            if not _CALL_ID.fullmatch(call_id) or call_id in taken:
                call_id = f"call-{number}"
                while call_id in taken:
                    call_id += "-"
            taken.add(call_id)
            name = _NOT_IN_NAME.sub("_", fragments.name)[:_MAX_NAME] or "unknown"
            calls.append(ToolCall(call_id, name, arguments_of("".join(fragments.arguments))))
        return calls

    def _take_choice(self, choice: dict[str, Any]) -> str:
        delta = choice.get("delta")
        text = ""
        if isinstance(delta, dict):
            # A refusal is text of the model in another field.
            for key in ("content", "refusal"):
                if isinstance(part := delta.get(key), str):
                    text += part
            fragments = delta.get("tool_calls")
            for fragment in fragments if isinstance(fragments, list) else ():
                if isinstance(fragment, dict):
                    self._take_fragment(fragment)
            self._grow(len(text))
        finish_reason = choice.get("finish_reason")
        if isinstance(finish_reason, str) and finish_reason:
            self.finish_reason, self.is_ended = finish_reason, True
        return encodable(text)

    def _take_fragment(self, fragment: dict[str, Any]) -> None:
        call = self._call_of(fragment.get("index"), _text(fragment.get("id")))
        function = fragment.get("function")
        if not isinstance(function, dict):
            return
        # Some servers repeat the name with each fragment.
        call.name = call.name or _text(function.get("name"))
        arguments = function.get("arguments")
        if arguments is not None:
            part = arguments if isinstance(arguments, str) else json.dumps(arguments)
            self._grow(len(part))
            call.arguments.append(part)

    def _call_of(self, index: object, call_id: str) -> _Fragments:
        """The call of a fragment: by its index, or the last one if it has none.

        A new id begins a new call in any case: some servers number all calls 0.
        """
        known = self._by_index.get(index) if isinstance(index, int) else None
        if known is None and not isinstance(index, int) and self._calls:
            known = self._calls[-1]
        if known is None or (call_id and known.id and call_id != known.id):
            if len(self._calls) == MAX_CALLS:
                raise BadAnswer(f"more than {MAX_CALLS} tool calls in one answer")
            known = _Fragments()
            self._calls.append(known)
            if isinstance(index, int):
                self._by_index[index] = known
        known.id = known.id or call_id
        return known

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._max_size:
            raise BadAnswer(f"more than {self._max_size} characters in one answer")


def _is_server_error(error: object) -> bool:
    """OpenAI: `type` is "server_error"; vLLM and LiteLLM: `code` is 500 (or "500")."""
    if not isinstance(error, dict):
        return False
    code = str(error.get("code") or error.get("status") or "")
    return error.get("type") == "server_error" or (len(code) == 3 and code.startswith("5"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
