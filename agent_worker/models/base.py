"""What an engine is: a model that answers a history with text and tool calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from agent_worker.sessions import Message
    from agent_worker.tools import ToolSpec


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the step's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants run. `id` is unique within the session."""

    id: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    def step(
        self, history: Sequence[Message], tools: Sequence[ToolSpec]
    ) -> AsyncGenerator[TextDelta | ToolCall, None]:
        """One model step: text in pieces, and the tool calls it ends with (none: it is done).

        `history` ends with a user message or with tool results; it must not be changed. The
        generator is closed early when the turn is cancelled.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings that an engine may read; each takes what concerns it."""

    #: Seconds between two pieces of text, for engines that can pace themselves.
    token_interval_s: float = 0.0


_engines: dict[str, Callable[[EngineOptions], Engine]] = {}


def register_engine(name: str, factory: Callable[[EngineOptions], Engine]) -> None:
    _engines[name] = factory


def engine_names() -> list[str]:
    return sorted(_engines)


def create_engine(name: str, options: EngineOptions) -> Engine:
    """Raises ValueError, with the known names, for an unknown one."""
    try:
        factory = _engines[name]
    except KeyError:
        known = ", ".join(engine_names())
        raise ValueError(f"there is no engine {name!r}; known: {known}") from None
    return factory(options)
