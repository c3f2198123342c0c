"""Read a session in parts, so that no answer holds up the worker or fills its memory.

A history can have 64 MiB. It only grows at its end, so parts that were read one after another fit
together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agent_worker.sessions.operations import dump

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent_worker.sessions import Message, SessionStore, SessionView

#: Messages of one answer.
MOST_MESSAGES = 1000
# Bytes of them as JSON; one message may be larger, and comes alone then.
_MOST_BYTES = 1024 * 1024
# Messages that Redis is asked for at once: one has 256 Ki characters at most.
_AT_ONCE = 8


async def read_from(
    store: SessionStore, session_id: str, principal: str, *, first: int, count: int
) -> SessionView:
    """`count` messages from the index `first` on, or those that 1 MiB has room for."""
    messages: list[Message] = []
    room = _MOST_BYTES
    while True:
        at = first + len(messages)
        last = min(at + _AT_ONCE, first + count) - 1
        view = await store.read(session_id, principal, first=at, last=last)
        room = _take(view.messages, messages, room)
        if room < 0 or len(messages) == count or first + len(messages) >= view.total:
            return replace(view, messages=messages)


async def read_newest(
    store: SessionStore, session_id: str, principal: str, *, count: int
) -> SessionView:
    """The session as it stands; of its last `count` messages those that 1 MiB has room for."""
    view = await store.read(session_id, principal, first=-min(_AT_ONCE, count))
    messages: list[Message] = []
    part, room = view.messages, _MOST_BYTES
    while True:
        room = _take(reversed(part), messages, room)
        end = view.total - len(messages)
        if room < 0 or len(messages) == count or end == 0 or not part:
            return replace(view, messages=messages[::-1])
        first = max(end - min(_AT_ONCE, count - len(messages)), 0)
        part = (await store.read(session_id, principal, first=first, last=end - 1)).messages


def _take(messages: Iterable[Message], into: list[Message], room: int) -> int:
    """Append those that have room, but the very first in any case; returns the room that is left.

    Below 0: one was left out.
    """
    for message in messages:
        room -= len(dump(message).encode())
        if room < 0 and into:
            break
        into.append(message)
    return room
