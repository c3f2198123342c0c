"""Mooncake's traces: a JSON object a line (Qin et al., FAST 2025; kvcache-ai/Mooncake, Apache-2.0).

`timestamp` is in milliseconds, `hash_ids` are the blocks of 512 tokens of the input, each hashed
with all before it. A request continues another one's conversation if it shares a block with it that
few others have. Ends of requests are not recorded, so the pause before the next one has the answer
in it.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.lab.recording import IDLE, PRIVATE, START, Call, Recording, Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hermes_lb.lab.workloads import Blocks

_KEYS: Final = ("timestamp", "input_length", "output_length", "hash_ids")


def is_first(line: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and all(key in value for key in _KEYS)


def read(lines: Iterable[str]) -> Recording:
    requests = [_request(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    requests.sort(key=lambda request: request["timestamp"])
    conversations = _conversations(requests)
    sessions_of = Counter[int]()
    for conversation in conversations:
        sessions_of.update({block for request in conversation for block in request["hash_ids"]})
    began = requests[0]["timestamp"] if requests else 0
    sessions = [
        Session(
            str(i),
            (conversation[0]["timestamp"] - began) / 1000,
            [
                Call(
                    place - 1 if place else START,
                    (request["timestamp"] - before["timestamp"]) / 1000,
                    input=request["input_length"],
                    output=max(1, request["output_length"]),
                    blocks=_blocks(request["hash_ids"], sessions_of),
                )
                for place, (before, request) in enumerate(
                    pairwise([conversation[0], *conversation])
                )
            ],
        )
        for i, conversation in enumerate(conversations)
    ]
    recording = Recording(sessions, "")
    recording.text = (
        f"{recording.requests:,} requests of {len(sessions):,} conversations, of Mooncake's trace."
    )
    return recording


def _request(line: str, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
        numbers = [*(value[key] for key in _KEYS[:3]), *value["hash_ids"]]
        if not all(type(one) is int and 0 <= one < PRIVATE for one in numbers):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"line {number} is not a request of Mooncake's format") from None
    checked: dict[str, Any] = value
    return checked


def _conversations(requests: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Requests that continue each other, in order of their first ones.

    A request follows the last one that had the longest common prefix with it, unless that prefix is
    one that requests of several conversations begin with.
    """
    beginnings = Counter(block for request in requests for block in request["hash_ids"][:1])
    last: dict[int, list[dict[str, Any]]] = {}
    found: list[list[dict[str, Any]]] = []
    for request in requests:
        own = [block for block in request["hash_ids"] if beginnings[block] <= 1]
        conversation = next((last[block] for block in reversed(own) if block in last), None)
        if conversation is None or (
            request["timestamp"] - conversation[-1]["timestamp"] > 1000 * IDLE
        ):
            conversation = []
            found.append(conversation)
        conversation.append(request)
        last.update(dict.fromkeys(own, conversation))
    return found


def _blocks(chain: Sequence[int], sessions_of: Counter[int]) -> Blocks:
    """Ranges of them; those of one session only are private."""
    found: list[range] = []
    for block in chain:
        one = block if sessions_of[block] > 1 else PRIVATE + block
        if found and found[-1].stop == one:
            found[-1] = range(found[-1].start, one + 1)
        else:
            found.append(range(one, one + 1))
    return tuple(found)
