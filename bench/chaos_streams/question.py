"""What the clients ask, and the one answer that is right.

Each question calls a tool of class `once` and is answered by numbered words, so no two tokens of an
answer are the same: a token that is lost or repeated is known by its place.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, NamedTuple

from agent_worker.models.scripted import reply, tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The script tells 400 characters of a tool's result.
MOST_WORDS = 126
_TOOLS = ("send_mail", "note_set")
_UID = re.compile(r"\bmail to ada: (\S+)")


def question(uid: str, words: int) -> str:
    """A mail, whose text is `uid`; then this number of numbered words."""
    return f"send mail to ada: {uid}\nnote story: {' '.join(map(str, range(words)))}"


def answer_to(content: str, results: Mapping[str, str]) -> str:
    """What a turn says, given what its tools gave: `results` by the name of the tool."""
    history: list[dict[str, Any]] = [{"role": "user", "content": content}]
    first = reply(history, _TOOLS)  # type: ignore[arg-type]
    calls = [
        {"id": call.id, "name": call.name, "arguments": call.arguments} for call in first.calls
    ]
    history.append({"role": "assistant", "content": first.text, "tool_calls": calls})
    for call in first.calls:
        result = {"tool_call_id": call.id, "name": call.name, "content": results[call.name]}
        history.append({"role": "tool", **result})
    return first.text + reply(history, _TOOLS).text  # type: ignore[arg-type]


def results_in(messages: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Of a session's messages: what each tool gave, by its name."""
    return {each["name"]: each["content"] for each in messages if each["role"] == "tool"}


class Difference(NamedTuple):
    """In bytes of text."""

    lost: int
    #: Twice, or of another answer.
    repeated: int


def difference(got: Sequence[str], wanted: str, *, is_whole: bool) -> Difference:
    """`got` are the pieces as they came; unless `is_whole`, what follows them is not missing."""
    text = "".join(got)
    if text == wanted:
        return Difference(0, 0)
    # A space at the end is a part of the next token.
    have, due = tokens(text if is_whole else text.rstrip()), tokens(wanted)
    blocks = SequenceMatcher(None, have, due, autojunk=False).get_matching_blocks()
    end = max((block.b + block.size for block in blocks[:-1]), default=0)
    due = due if is_whole else due[:end]
    matched = sum(len(token.encode()) for b in blocks for token in due[b.b : b.b + b.size])
    return Difference(_size(due) - matched, _size(have) - matched)


def _size(parts: Sequence[str]) -> int:
    return sum(len(part.encode()) for part in parts)
