"""A deterministic ReAct agent: the same history always gives the same text and tool calls.

It understands a few sentences, enough to show that a conversation is complete on any worker:

    write 400 words                 400 words
    my name is Ada                  remembers it: "what is my name?"
    how many messages?              the number of this turn, and of messages seen
    what time is it                 calls the clock
    calculate 2 + 3 * 4             calls the calculator
    note colour: blue               stores a note; "recall colour" reads it
    prefer tone = brief             stores a preference; "my preferences" reads them
    remember for good: tea at 5     stores it for all sessions; "what do you remember about tea"
    send mail to ada: hello         a tool whose effect cannot be revoked
    produce 100 KB                  a tool with a large result

Anything else is echoed, with the turn's number. Several tools in one message run concurrently; one
that is not offered is reported as missing.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_worker.errors import CannotContinue, EngineCut, EngineFailed
from agent_worker.models.base import TextDelta, ToolCall
from agent_worker.models.faults import Faults
from agent_worker.models.scripted_tools import reported_results, wanted_calls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from agent_worker.models.base import StepRequest
    from agent_worker.sessions import Message

log = logging.getLogger(__name__)

#: The maximum of "write N words".
MAX_WORDS = 20_000
# Characters of an echo; more would only add traffic.
_MAX_ECHO = 400

_TOKEN = re.compile(r"\s*\S+|\s+\Z")
_WRITE = re.compile(r"\bwrite\s+(?:me\s+)?(\d{1,9})\s+words?\b", re.I)
_NAME = re.compile(r"\bmy name is\s+([^\W\d_][\w'-]{0,63})", re.I)
_ASKS_NAME = re.compile(r"\bwhat(?:'s| is)\s+my name\b|\bwho am i\b", re.I)
_ASKS_COUNT = re.compile(r"\bhow many (?:messages|turns)\b|\b(?:which|what) turn\b", re.I)
_SUMMARY = re.compile(
    r"Summary: (\d{1,9}) turns, (\d{1,9}) messages so far(?:; the user's name is (.+))?\."
)

_SENTENCE = (
    "the agent reads every message and keeps the thread of thought while tokens flow from "
    "worker to balancer to client one after another without loss or haste until all is told"
)
_WORDS = _SENTENCE.split()


@dataclass(frozen=True, slots=True)
class Reply:
    """What the script says next, before it is split into tokens."""

    text: str
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """The state that the script derives from a conversation before its last turn."""

    turns: int = 0
    #: Of users and assistants, without tools.
    messages: int = 0
    name: str = ""

    def __str__(self) -> str:
        name = f"; the user's name is {self.name}" if self.name else ""
        return f"Summary: {self.turns} turns, {self.messages} messages so far{name}."


class ScriptedEngine:
    """Streams the text of `reply` word by word, `token_interval_s` apart.

    A share `fault_rate` of the steps fails on purpose; `seed` selects them.
    """

    can_continue = True

    def __init__(
        self, token_interval_s: float = 0.0, *, fault_rate: float = 0.0, seed: int = 0
    ) -> None:
        self._interval_s = token_interval_s
        self._faults = Faults(fault_rate, seed)

    async def step(self, request: StepRequest) -> AsyncGenerator[TextDelta | ToolCall, None]:
        answer = reply(request.messages, [tool.name for tool in request.tools])
        if not answer.text.startswith(request.prefix):
            raise CannotContinue
        pieces = tokens(answer.text[len(request.prefix) :])
        fault_at = self._faults.next_fault(request, len(pieces))
        for index, token in enumerate(pieces[:fault_at]):
            if index:
                # With an interval of 0 it still yields to other turns of this worker.
                await asyncio.sleep(self._interval_s)
            yield TextDelta(token)
        if fault_at is not None:
            log.info("a seeded fault after %d of %d words", fault_at, len(pieces))
            raise EngineCut
        for call in answer.calls:
            yield call

    async def summarise(self, messages: Sequence[Message]) -> str:
        return summary(messages)

    async def close(self) -> None:
        """Nothing is open."""


def tokens(text: str) -> list[str]:
    """`text` split into words, each with the space before it; joined they are `text`."""
    return _TOKEN.findall(text)


def reply(history: Sequence[Message], tools: Collection[str] = ()) -> Reply:
    """The next step of a conversation that ends with a user message or with tool results.

    `tools` are the names of the offered tools. Raises EngineFailed without a user message.
    """
    asked_at = max((i for i, m in enumerate(history) if m["role"] == "user"), default=None)
    if asked_at is None:
        log.warning("a step without a user message")
        raise EngineFailed
    question = history[asked_at]["content"]
    seen = history[: asked_at + 1]
    wanted = wanted_calls(question, _seen(seen).turns)
    if report := reported_results(wanted, history[asked_at:]):
        return Reply(report)
    calls = tuple(call for call in wanted if call.name in tools)
    if not wanted:
        return Reply(_answer(question, seen))
    missing = dict.fromkeys(call.name for call in wanted if call.name not in tools)
    said = [f"I have no tool {name}." for name in missing]
    if calls:
        said.append(f"Let me use {' and '.join(dict.fromkeys(call.name for call in calls))}.")
    # The results are reported by the next step, after this one's text.
    return Reply(" ".join(said) + (" " if calls else ""), calls)


def summary(messages: Sequence[Message]) -> str:
    """What `reply` needs of `messages` later, including an earlier summary at their head."""
    return str(_seen(messages))


def _seen(messages: Sequence[Message]) -> _Seen:
    turns = sum(message["role"] == "user" for message in messages)
    spoken = sum(message["role"] in ("user", "assistant") for message in messages)
    before = _summarised(messages)
    return _Seen(before.turns + turns, before.messages + spoken, _name(messages))


def _summarised(messages: Sequence[Message]) -> _Seen:
    """The state in the summary at the head; empty if it is another engine's text."""
    if messages and messages[0]["role"] == "system":
        match = _SUMMARY.fullmatch(messages[0]["content"])
        if match:
            return _Seen(int(match[1]), int(match[2]), match[3] or "")
    return _Seen()


def _name(messages: Sequence[Message]) -> str:
    """The last name that the user gave; empty if there is none."""
    for message in reversed(messages):
        if message["role"] == "user" and (match := _NAME.search(message["content"])):
            return match[1]
    return _summarised(messages).name


def _answer(question: str, seen: Sequence[Message]) -> str:
    if match := _WRITE.search(question):
        return words(min(int(match[1]), MAX_WORDS))
    if match := _NAME.search(question):
        return f"Nice to meet you, {match[1]}."
    if _ASKS_NAME.search(question):
        return _remembered_name(seen)
    known = _seen(seen)
    if _ASKS_COUNT.search(question):
        return f"This is turn {known.turns}, and I have seen {known.messages} messages."
    said = question if len(question) <= _MAX_ECHO else question[:_MAX_ECHO] + "..."
    return f"Turn {known.turns}, {known.messages} messages seen. You said: {said}"


def _remembered_name(seen: Sequence[Message]) -> str:
    name = _name(seen)
    return f"Your name is {name}." if name else "You have not told me your name yet."


def words(count: int) -> str:
    """`count` words in sentences of ten; always the same."""
    parts: list[str] = []
    for index in range(count):
        word = _WORDS[index % len(_WORDS)]
        if index % 10 == 0:
            word = word.capitalize()
        if index % 10 == 9 or index == count - 1:
            word += "."
        parts.append(word)
    return " ".join(parts)
