"""The sentences with which the scripted engine calls a tool, and how it reports the result."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from agent_worker.models.base import ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent_worker.sessions import Message

# Characters of a result; more would only add traffic.
_MAX_REPORTED = 400


# Patterns and tools; the groups are the arguments. In free text, which extends to the end of the
# line, no other sentence is matched.
_WITH_FREE_TEXT = (
    (r"\bsend (?:a )?mail to\s+(?P<to>[^\s:]{1,254})\s*:\s*(?P<text>[^\n]+)", "send_mail"),
    (r"\bremember for good\s*:\s*(?P<text>[^\n]+)", "memory_save"),
    (r"\bwhat do you remember about\s+(?P<query>[^\n]+)", "memory_search"),
    (r"\bprefer\s+(?P<name>[\w.-]{1,64})\s*=\s*(?P<value>[^\n]+)", "preference_set"),
)
_OTHERS = (
    (r"\bmy preferences\b", "preference_get"),
    (r"\bproduce\s+(?P<kilobytes>\d{1,6})\s*KB\b", "produce"),
    (r"\bwhat(?:'s| is)? (?:the )?time\b|\bclock\b", "clock"),
    (r"\b(?:calculate|compute)\s+(?P<expression>[^\n,;?]{1,300})", "calculator"),
    (r"\b(?:what is|what's|how much is)\s+(?P<expression>[\d(+-][\d\s.+*/%()-]*)", "calculator"),
    (
        r"\b(?:note|remember)\s+(?:that\s+)?(?P<name>[\w-]{1,64})\s*(?:=|:|\bis\b)\s*(?P<value>.+)",
        "note_set",
    ),
    (r"\b(?:recall|note of)\s+(?P<name>[\w-]{1,64})", "note_get"),
)
_CONVERT: dict[str, Callable[[str], Any]] = {
    "kilobytes": int,
    "query": lambda text: text.rstrip(" ?.!"),
}
_REPORTS = {
    "clock": "It is {shown}.",
    "calculator": "{expression} = {shown}.",
    "note_set": "Noted: {name} is {shown}.",
    "note_get": "{name} is {shown}.",
    "send_mail": "Mail to {to}: {shown}.",
    "memory_save": "I will remember: {text}.",
    "memory_search": "About {query} I remember: {shown}.",
    "preference_set": "Your preference {name} is {value}.",
    "preference_get": "Your preferences: {shown}.",
}


def wanted_calls(question: str, turn: int) -> list[ToolCall]:
    """The calls that the question asks for, whether these tools are offered or not."""
    wanted: list[tuple[str, dict[str, Any]]] = []
    for pattern, tool in (*_WITH_FREE_TEXT, *_OTHERS):
        if match := re.search(pattern, question, re.IGNORECASE):
            given = match.groupdict()
            arguments = {name: _CONVERT.get(name, str.strip)(given[name]) for name in given}
            wanted.append((tool, arguments))
            if (pattern, tool) in _WITH_FREE_TEXT:
                question = question[: match.start()] + "\n" + question[match.end() :]
    return [
        ToolCall(f"call-{turn}-{number}", tool, arguments)
        for number, (tool, arguments) in enumerate(wanted, 1)
    ]


def reported_results(calls: Sequence[ToolCall], messages: Sequence[Message]) -> str:
    """The text on the results of `calls` among `messages`; empty if there are none."""
    results = {
        message["tool_call_id"]: message for message in messages if message["role"] == "tool"
    }
    text = " ".join(_report(call, results[call.id]) for call in calls if call.id in results)
    # Results of calls of another engine are not requested again: that could repeat an effect.
    return text or ("The tools have answered." if results else "")


def _report(call: ToolCall, message: Message) -> str:
    result = message["content"]
    shown = result if len(result) <= _MAX_REPORTED else result[:_MAX_REPORTED] + "..."
    if shown.startswith("error: "):
        return f"The {call.name} says: {shown.removeprefix('error: ')}."
    if shown.startswith("unknown: "):
        return f"It is unknown whether {call.name} was done: {shown.removeprefix('unknown: ')}."
    if call.name in _REPORTS:
        return _REPORTS[call.name].format(shown=shown, **call.arguments)
    # The `content` of a blob is only a preview.
    size = message.get("size", len(result.encode()))
    return f"The {call.name} gave {size} bytes."
