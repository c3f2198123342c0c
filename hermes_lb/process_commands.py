"""Commands of operators that every process of the data path executes for its own part.

A method here is called by `Operator.everywhere`, with arguments and results that JSON can have. A
new one needs its name here and its call; the messages between the processes do not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hermes_lb.plane import DataPlane


class ProcessCommands:
    """Of one process. `call` is the entrance."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def call(self, command: str, arguments: dict[str, Any]) -> Any:
        """Raises AttributeError for a command of newer code."""
        return getattr(self, f"on_{command}")(**arguments)

    def on_kill(self, session: str) -> int:
        """Cut one request -> 1, or 0 if it is not here."""
        return self._plane.end_sessions(id=session)

    def on_clear_pins(self, backend: str | None, server: str | None, pin: str | None) -> int:
        """Forget learned sessions -> how many of them are in no shared store."""
        cleared = 0
        for name, one in self._plane.backends.items():
            if backend in (None, name):
                count = one.session_table.clear(server, pin)
                cleared += 0 if one.configured.pins.has_store else count
        return cleared
