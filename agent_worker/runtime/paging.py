"""Reads a session page by page, so that no response blocks the worker or fills its memory.

A history may have 64 MiB. It is append-only, so pages that were read one after another are
consistent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agent_worker.sessions.operations import dump

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent_worker.sessions import Message, SessionStore, SessionView

#: Messages of one response.
MAX_MESSAGES = 1000
# Bytes of JSON of one response; a larger message is returned alone.
_MAX_BYTES = 1024 * 1024
# Messages of one request to Redis; a message has 256 Ki characters at most.
_BATCH = 8


async def read_from(
    store: SessionStore, session_id: str, principal: str, *, first: int, count: int
) -> SessionView:
    """The `count` messages from index `first`, or as many of them as fit 1 MiB."""
    messages: list[Message] = []
    room = _MAX_BYTES
    while True:
        at = first + len(messages)
        last = min(at + _BATCH, first + count) - 1
        view = await store.read(session_id, principal, first=at, last=last)
        room = _take(view.messages, messages, room)
        if room < 0 or len(messages) == count or first + len(messages) >= view.total:
            return replace(view, messages=messages)


async def read_newest(
    store: SessionStore, session_id: str, principal: str, *, count: int
) -> SessionView:
    """The session with its last `count` messages, or as many of them as fit 1 MiB."""
    view = await store.read(session_id, principal, first=-min(_BATCH, count))
    messages: list[Message] = []
    part, room = view.messages, _MAX_BYTES
    while True:
        room = _take(reversed(part), messages, room)
        end = view.total - len(messages)
        if room < 0 or len(messages) == count or end == 0 or not part:
            return replace(view, messages=messages[::-1])
        first = max(end - min(_BATCH, count - len(messages)), 0)
        part = (await store.read(session_id, principal, first=first, last=end - 1)).messages


def _take(messages: Iterable[Message], into: list[Message], room: int) -> int:
    """Append what fits, and the first message in any case. Returns the room left.

    A negative room says that a message was left out.
    """
    for message in messages:
        room -= len(dump(message).encode())
        if room < 0 and into:
            break
        into.append(message)
    return room
