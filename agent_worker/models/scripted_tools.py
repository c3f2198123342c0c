"""The sentences with which the scripted engine calls a tool, and how it reports the result."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent_worker.models.base import ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent_worker.sessions import Message

# Characters of a result; more would only add traffic.
_MAX_REPORTED = 400


@dataclass(frozen=True, slots=True)
class _Sentence:
    pattern: re.Pattern[str]
    tool: str
    arguments: Callable[[re.Match[str]], dict[str, Any]]


def _sentence(
    pattern: str, tool: str, arguments: Callable[[re.Match[str]], dict[str, Any]]
) -> _Sentence:
    return _Sentence(re.compile(pattern, re.IGNORECASE), tool, arguments)


# Sentences with free text up to the end of the line, in which no other sentence is matched.
_WITH_FREE_TEXT = (
    _sentence(
        r"\bsend (?:a )?mail to\s+([^\s:]{1,254})\s*:\s*([^\n]+)",
        "send_mail",
        lambda match: {"to": match[1], "text": match[2].strip()},
    ),
    _sentence(
        r"\bremember for good\s*:\s*([^\n]+)",
        "memory_save",
        lambda match: {"text": match[1].strip()},
    ),
    _sentence(
        r"\bwhat do you remember about\s+([^\n]+)",
        "memory_search",
        lambda match: {"query": match[1].rstrip(" ?.!")},
    ),
    _sentence(
        r"\bprefer\s+([\w.-]{1,64})\s*=\s*([^\n]+)",
        "preference_set",
        lambda match: {"name": match[1], "value": match[2].strip()},
    ),
)

_OTHERS = (
    _sentence(r"\bmy preferences\b", "preference_get", lambda match: {}),
    _sentence(
        r"\bproduce\s+(\d{1,6})\s*KB\b", "produce", lambda match: {"kilobytes": int(match[1])}
    ),
    _sentence(r"\bwhat(?:'s| is)? (?:the )?time\b|\bclock\b", "clock", lambda match: {}),
    _sentence(
        r"\b(?:calculate|compute)\s+([^\n,;?]{1,300})",
        "calculator",
        lambda match: {"expression": match[1].strip()},
    ),
    _sentence(
        r"\b(?:what is|what's|how much is)\s+([\d(+-][\d\s.+*/%()-]*)",
        "calculator",
        lambda match: {"expression": match[1].strip()},
    ),
    _sentence(
        r"\b(?:note|remember)\s+(?:that\s+)?([\w-]{1,64})\s*(?:=|:|\bis\b)\s*(.+)",
        "note_set",
        lambda match: {"name": match[1], "value": match[2].strip()},
    ),
    _sentence(
        r"\b(?:recall|note of)\s+([\w-]{1,64})", "note_get", lambda match: {"name": match[1]}
    ),
)


def wanted_calls(question: str, turn: int) -> list[ToolCall]:
    """The calls that the question asks for, whether these tools are offered or not."""
    wanted: list[tuple[str, dict[str, Any]]] = []
    for sentence in _WITH_FREE_TEXT:
        if match := sentence.pattern.search(question):
            wanted.append((sentence.tool, sentence.arguments(match)))
            question = question[: match.start()] + "\n" + question[match.end() :]
    wanted += [
        (sentence.tool, sentence.arguments(match))
        for sentence in _OTHERS
        if (match := sentence.pattern.search(question))
    ]
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
        return f"Nobody knows whether {call.name} was done: {shown.removeprefix('unknown: ')}."
    arguments = call.arguments
    match call.name:
        case "clock":
            return f"It is {shown}."
        case "calculator":
            return f"{arguments['expression']} = {shown}."
        case "note_set":
            return f"Noted: {arguments['name']} is {shown}."
        case "note_get":
            return f"{arguments['name']} is {shown}."
        case "send_mail":
            return f"Mail to {arguments['to']}: {shown}."
        case "memory_save":
            return f"I will remember: {arguments['text']}."
        case "memory_search":
            return f"About {arguments['query']} I remember: {shown}."
        case "preference_set":
            return f"Your preference {arguments['name']} is {arguments['value']}."
        case "preference_get":
            return f"Your preferences: {shown}."
    # The `content` of a blob is only a preview.
    size = message.get("size", len(result.encode()))
    return f"The {call.name} gave {size} bytes."
