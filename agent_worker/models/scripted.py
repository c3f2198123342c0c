"""A deterministic ReAct agent: the same history always gives the same text and tool calls.

It understands a few sentences, enough to show that a conversation is whole on any worker:

    write 400 words             400 words
    my name is Ada              remembers it: "what is my name?"
    what time is it             asks the clock
    calculate 2 + 3 * 4         asks the calculator
    note colour: blue           keeps a note; "recall colour" reads it
    how many messages?          which turn this is, and what it has seen

Anything else is echoed, with the turn's number. Several tools in one message run together.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_worker.models.base import TextDelta, ToolCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from agent_worker.sessions import Message
    from agent_worker.tools import ToolSpec

#: "write N words" stops here.
MAX_WORDS = 20_000
# An echo of more would only double the traffic.
_MAX_ECHO = 400

_TOKEN = re.compile(r"\s*\S+|\s+\Z")
_WRITE = re.compile(r"\bwrite\s+(?:me\s+)?(\d{1,9})\s+words?\b", re.I)
_NAME = re.compile(r"\bmy name is\s+([^\W\d_][\w'-]{0,63})", re.I)
_ASKS_NAME = re.compile(r"\bwhat(?:'s| is)\s+my name\b|\bwho am i\b", re.I)
_ASKS_COUNT = re.compile(r"\bhow many (?:messages|turns)\b|\b(?:which|what) turn\b", re.I)
_TIME = re.compile(r"\bwhat(?:'s| is)? (?:the )?time\b|\bclock\b", re.I)
_CALCULATE = re.compile(r"\b(?:calculate|compute)\s+([^\n,;?]{1,300})", re.I)
_SUM = re.compile(r"\b(?:what is|what's|how much is)\s+([\d(+-][\d\s.+*/%()-]*)", re.I)
_NOTE = re.compile(r"\b(?:note|remember)\s+(?:that\s+)?([\w-]{1,64})\s*(?:=|:|\bis\b)\s*(.+)", re.I)
_RECALL = re.compile(r"\b(?:recall|note of)\s+([\w-]{1,64})", re.I)

_SENTENCE = (
    "the agent reads every message and keeps the thread of thought while tokens flow from "
    "worker to balancer to client one after another without loss or haste until all is told"
)
_WORDS = _SENTENCE.split()


@dataclass(frozen=True, slots=True)
class Reply:
    """What the script says next, before it is cut into tokens."""

    text: str
    calls: tuple[ToolCall, ...] = ()


class ScriptedEngine:
    """Streams what `reply` decides, one word at a time, `token_interval_s` apart."""

    def __init__(self, token_interval_s: float = 0.0) -> None:
        self._interval_s = token_interval_s

    async def step(
        self, history: Sequence[Message], tools: Sequence[ToolSpec]
    ) -> AsyncGenerator[TextDelta | ToolCall, None]:
        answer = reply(history)
        for index, token in enumerate(tokens(answer.text)):
            if index:
                # Without an interval it still lets the other turns of this worker go on.
                await asyncio.sleep(self._interval_s)
            yield TextDelta(token)
        for call in answer.calls:
            yield call


def tokens(text: str) -> list[str]:
    """`text` cut into words, each with the space before it; joined they are `text` again."""
    return _TOKEN.findall(text)


def reply(history: Sequence[Message]) -> Reply:
    """The next step of a conversation that ends with a user message or with tool results."""
    asked_at = max(i for i, message in enumerate(history) if message["role"] == "user")
    question = history[asked_at]["content"]
    turn = sum(message["role"] == "user" for message in history)
    calls = _tool_calls(question, turn)
    if calls:
        results = {
            message["tool_call_id"]: message["content"]
            for message in history[asked_at:]
            if message["role"] == "tool"
        }
        if results:
            return Reply(" ".join(_told(call, results.get(call.id, "")) for call in calls))
        names = " and ".join(dict.fromkeys(call.name for call in calls))
        return Reply(f"Let me use {names}. ", calls)
    return Reply(_answer(question, history[: asked_at + 1], turn))


def _answer(question: str, seen: Sequence[Message], turn: int) -> str:
    if match := _WRITE.search(question):
        return words(min(int(match[1]), MAX_WORDS))
    if match := _NAME.search(question):
        return f"Nice to meet you, {match[1]}."
    if _ASKS_NAME.search(question):
        return _remembered_name(seen)
    spoken = sum(message["role"] != "tool" for message in seen)
    if _ASKS_COUNT.search(question):
        return f"This is turn {turn}, and I have seen {spoken} messages."
    said = question if len(question) <= _MAX_ECHO else question[:_MAX_ECHO] + "..."
    return f"Turn {turn}, {spoken} messages seen. You said: {said}"


def _remembered_name(seen: Sequence[Message]) -> str:
    for message in reversed(seen):
        if message["role"] == "user" and (match := _NAME.search(message["content"])):
            return f"Your name is {match[1]}."
    return "You have not told me your name yet."


def words(count: int) -> str:
    """Exactly `count` words, in sentences of ten; always the same ones."""
    parts: list[str] = []
    for index in range(count):
        word = _WORDS[index % len(_WORDS)]
        if index % 10 == 0:
            word = word.capitalize()
        if index % 10 == 9 or index == count - 1:
            word += "."
        parts.append(word)
    return " ".join(parts)


_TOOLS: tuple[tuple[re.Pattern[str], str, Callable[[re.Match[str]], dict[str, Any]]], ...] = (
    (_TIME, "clock", lambda match: {}),
    (_CALCULATE, "calculator", lambda match: {"expression": match[1].strip()}),
    (_SUM, "calculator", lambda match: {"expression": match[1].strip()}),
    (_NOTE, "note_set", lambda match: {"name": match[1], "value": match[2].strip()}),
    (_RECALL, "note_get", lambda match: {"name": match[1]}),
)


def _tool_calls(question: str, turn: int) -> tuple[ToolCall, ...]:
    wanted = [
        (name, arguments(match))
        for pattern, name, arguments in _TOOLS
        if (match := pattern.search(question))
    ]
    return tuple(
        ToolCall(f"call-{turn}-{number}", name, arguments)
        for number, (name, arguments) in enumerate(wanted, 1)
    )


def _told(call: ToolCall, result: str) -> str:
    if result.startswith("error: "):
        return f"The {call.name} says: {result.removeprefix('error: ')}."
    match call.name:
        case "clock":
            return f"It is {result}."
        case "calculator":
            return f"{call.arguments['expression']} = {result}."
        case "note_set":
            return f"Noted: {call.arguments['name']} is {result}."
    return f"{call.arguments['name']} is {result}."
