"""The events of a turn: their names and ids."""

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
#: Of one connection: the message is queued for the next turn.
QUEUED = "queued"
#: Events after the one with this `{"id"}` are void: the step is restarted.
REWIND = "rewind"
#: Of one connection: the turn `{"turn"}` continues on another worker; reconnect now.
HANDOVER = "handover"
#: Replaces events that have expired: the current session, as `GET` returns it.
RESET = "reset"

#: Sends an event to the client. Raises ConnectionError when the client has left.
Emit = Callable[[Event], Awaitable[None]]


async def discard(event: Event) -> None:
    """The `Emit` of a turn without a client."""


def unlogged(name: str, data: dict[str, Any]) -> Event:
    """An event of one connection only."""
    return Event("", name, dump(data))


def error_event(error: AgentError) -> Event:
    """`error` with the data `{"code", "message"}`; not in the log."""
    return unlogged(ERROR, error.as_json())


def unfinished() -> Event:
    """The end of a turn whose worker died; the log has none."""
    return error_event(TurnInterrupted("The turn was not finished; its finished steps are kept."))
