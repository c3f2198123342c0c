"""The protocol of a tool, and the set of a worker's tools."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping
    from datetime import datetime


class Effect(enum.Enum):
    """The effect of running a tool twice; decides whether it runs again after a crash."""

    #: No effect outside of the session: it may run again.
    READ = "read"
    #: No further effect, if the external system recognises the key: it may run again.
    IDEMPOTENT = "idempotent"
    #: Another mail, another payment: it never runs again, even if it may not have run at all.
    ONCE = "once"


class ToolError(Exception):
    """The tool cannot do what it was asked; the message goes to the model."""


def texts(*names: str) -> dict[str, Any]:
    """The JSON Schema of arguments that are texts, all required."""
    properties = {name: {"type": "string"} for name in names}
    return {"type": "object", "properties": properties, "required": list(names)}


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """The description of a tool for a model. `parameters` is a JSON Schema object."""

    name: str
    description: str
    effect: Effect
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object"})


@dataclass(slots=True)
class ToolContext:
    """What a tool has access to. `notes` are the session's, committed with the step."""

    notes: MutableMapping[str, str]
    now: Callable[[], datetime]
    principal: str = ""
    session_id: str = ""
    #: Of this call, the same in every attempt: the Idempotency-Key for an external API.
    idempotency_key: str = ""


class Tool(Protocol):
    @property
    def spec(self) -> ToolSpec: ...

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        """The result for the model. Raises ToolError; cancelled after its timeout."""


class Toolbox:
    """Tools by name."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools = {tool.spec.name: tool for tool in tools}

    def __repr__(self) -> str:
        return f"Toolbox({', '.join(self._tools)})"

    def __contains__(self, name: str) -> bool:
        return name in self._tools

    @property
    def specs(self) -> list[ToolSpec]:
        return [tool.spec for tool in self._tools.values()]

    def read_only(self) -> Toolbox:
        """The tools that may run without a record."""
        return Toolbox(tool for tool in self._tools.values() if tool.spec.effect is Effect.READ)

    def get(self, name: str) -> Tool:
        """Raises ToolError for an unknown name; models invent names."""
        if name not in self._tools:
            raise ToolError(f"there is no tool {name!r}")
        return self._tools[name]


def text_argument(arguments: dict[str, Any], name: str, *, limit: int) -> str:
    """The argument as text of 1 to `limit` characters. Raises ToolError."""
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ToolError(f"{name!r} must be a non-empty string")
    if len(value) > limit:
        raise ToolError(f"{name!r} exceeds {limit} characters")
    return value.strip()
