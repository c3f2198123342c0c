"""The events of a turn, as the client sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

MESSAGE_DELTA = "message.delta"
TOOL_STARTED = "tool.started"
TOOL_COMPLETED = "tool.completed"
ERROR = "error"
DONE = "done"


@dataclass(frozen=True, slots=True)
class Event:
    """`id` is `<fence>-<seq>`: it grows strictly within a session, whoever serves it."""

    id: str
    name: str
    data: dict[str, Any]


#: Takes an event to the client. Raises ConnectionError when the client has left.
Emit = Callable[[Event], Awaitable[None]]


class EventNumbering:
    """Gives a turn's events their ids."""

    def __init__(self, fence: int) -> None:
        self._fence = fence
        self._seq = 0

    def event(self, name: str, data: dict[str, Any]) -> Event:
        self._seq += 1
        return Event(f"{self._fence}-{self._seq}", name, data)
