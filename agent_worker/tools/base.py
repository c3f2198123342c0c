"""What a tool is, and the box that holds a worker's tools."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping
    from datetime import datetime


class Effect(enum.Enum):
    """What running a tool twice would do; it decides what happens after a crash."""

    #: Nothing outside of the session: it may be run again.
    READ = "read"
    #: The same as once, if the outside knows it again by its key: it may be run again.
    IDEMPOTENT = "idempotent"
    #: Another mail, another payment: it is never run again, even if nobody knows whether it was.
    ONCE = "once"


class ToolError(Exception):
    """The tool cannot do what it was asked; the sentence goes to the model."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """How a tool is offered to a model. `parameters` is a JSON Schema object."""

    name: str
    description: str
    effect: Effect
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object"})


@dataclass(slots=True)
class ToolContext:
    """What a tool may touch. `notes` is the session's; changes are kept when the step is."""

    notes: MutableMapping[str, str]
    now: Callable[[], datetime]
    principal: str = ""
    session_id: str = ""
    #: The same in every attempt at this call and in no other: what an external API gets as its
    #: Idempotency-Key.
    idempotency_key: str = ""


class Tool(Protocol):
    @property
    def spec(self) -> ToolSpec: ...

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> str:
        """The result as text for the model. Raises ToolError; cancelled at its timeout."""
        ...


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
        """Those that may be run without anybody keeping a record of it."""
        return Toolbox(tool for tool in self._tools.values() if tool.spec.effect is Effect.READ)

    def get(self, name: str) -> Tool:
        """Raises ToolError for a name that the model made up."""
        try:
            return self._tools[name]
        except KeyError:
            raise ToolError(f"there is no tool {name!r}") from None


def text_argument(arguments: dict[str, Any], name: str, *, limit: int) -> str:
    """The argument as text of 1 to `limit` characters. Raises ToolError."""
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ToolError(f"{name!r} must be a text")
    if len(value) > limit:
        raise ToolError(f"{name!r} is over {limit} characters")
    return value.strip()
