"""The events of a turn, by name, and how they get their ids."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from agent_worker.errors import AgentError, TurnInterrupted
from agent_worker.sessions import Event
from agent_worker.sessions.operations import dump

MESSAGE_DELTA = "message.delta"
TOOL_STARTED = "tool.started"
TOOL_COMPLETED = "tool.completed"
ERROR = "error"
DONE = "done"
#: Of one connection: the message opens the turn after the one that runs.
QUEUED = "queued"
#: What came behind the event `{"id"}` is void: the step starts anew.
REWIND = "rewind"
#: Of one connection: the turn `{"turn"}` goes on elsewhere, ask there now.
HANDOVER = "handover"
#: Instead of events that are not kept any more: the session as it stands, `GET`'s JSON.
RESET = "reset"

#: Takes an event to the client. Raises ConnectionError when the client has left.
Emit = Callable[[Event], Awaitable[None]]


async def nobody(event: Event) -> None:
    """The client of a turn that nobody listens to."""


def unlogged(name: str, data: dict[str, Any]) -> Event:
    """An event of one connection only."""
    return Event("", name, dump(data))


def error_data(error: AgentError) -> dict[str, Any]:
    """What an `error` event says: `{"code", "message"}`."""
    return error.as_json()


def unfinished() -> Event:
    """The end of a turn whose worker died: the log has none."""
    error = TurnInterrupted("The turn was not finished; its finished steps are kept.")
    return unlogged(ERROR, error_data(error))


class EventNumbering:
    """Gives a turn's events their ids, `<fence>-<seq>` from 1 on; `last` is empty before that."""

    def __init__(self, fence: int) -> None:
        self.last = ""
        self._fence = fence
        self._seq = 0

    def event(self, name: str, data: dict[str, Any]) -> Event:
        self._seq += 1
        self.last = f"{self._fence}-{self._seq}"
        return Event(self.last, name, dump(data))
