"""Tools that the agent can call."""

from agent_worker.tools.base import Effect, Tool, Toolbox, ToolContext, ToolError, ToolSpec
from agent_worker.tools.calculator import Calculator
from agent_worker.tools.clock import Clock
from agent_worker.tools.notes import NoteGet, NoteSet

__all__ = [
    "Effect",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolSpec",
    "Toolbox",
    "default_toolbox",
]


def default_toolbox() -> Toolbox:
    """The built-in tools: clock, calculator, notes."""
    return Toolbox([Clock(), Calculator(), NoteSet(), NoteGet()])
