"""What an engine is: a model that answers a conversation with text and tool calls."""

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
    """A tool that the model wants run. `id` is unique within its step at least."""

    id: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepRequest:
    """What an engine gets for one step; it must change nothing of it."""

    #: Ends with a user message or with tool results. A first message of role "system" sums up
    #: what came before the others.
    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    #: Text of this very step that the client has already; the step goes on right behind it.
    #: Empty unless the engine `can_continue`.
    prefix: str = ""
    #: The session's id, for engines that keep one of their own; empty if there is no session.
    session_id: str = ""


class Engine(Protocol):
    """One model behind one interface. An engine serves many steps at once."""

    #: Whether `StepRequest.prefix` is understood.
    can_continue: bool

    def step(self, request: StepRequest) -> AsyncGenerator[TextDelta | ToolCall, None]:
        """One model step: text in pieces, and the tool calls it ends with (none: it is done).

        The generator is closed early when the turn is cancelled. Raises EngineFailed; EngineCut
        where the answer broke off and may be asked for again; before the first item
        CannotContinue, if it can't go on behind this `prefix`.
        """
        ...

    async def summarise(self, messages: Sequence[Message]) -> str:
        """A short text that can stand for `messages` in later steps. Raises EngineFailed.

        A first message of role "system" is the summary so far, to be carried on.
        """
        ...

    async def close(self) -> None:
        """Give connections back; nothing is asked of the engine afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings that an engine may read; each takes what concerns it. Times are seconds."""

    #: Between two pieces of text, for engines that can pace themselves.
    token_interval_s: float = 0.0
    #: Share of steps that fail on purpose, 0 to 1, and the seed that says which (scripted).
    fault_rate: float = 0.0
    seed: int = 0
    #: Of an upstream API: where it is, such as http://127.0.0.1:8642/v1, its key, its model.
    base_url: str = ""
    api_key: str = field(default="", repr=False)
    model: str = ""
    connect_timeout_s: float = 5.0
    first_token_timeout_s: float = 120.0
    #: Between two pieces of a response that has begun.
    idle_timeout_s: float = 60.0
    #: Tries before the first piece has come; behind that it is up to the agent loop.
    tries: int = 3
    #: How a server is asked to go on behind a given text, one of `CONTINUATIONS` (openai).
    continuation: str = "none"


_engines: dict[str, Callable[[EngineOptions], Engine]] = {}


def register_engine(name: str, factory: Callable[[EngineOptions], Engine]) -> None:
    _engines[name] = factory


def engine_names() -> list[str]:
    return sorted(_engines)


def create_engine(name: str, options: EngineOptions) -> Engine:
    """Raises ValueError, with the known names, for an unknown one or options that do not fit."""
    try:
        factory = _engines[name]
    except KeyError:
        known = ", ".join(engine_names())
        raise ValueError(f"there is no engine {name!r}; known: {known}") from None
    return factory(options)
