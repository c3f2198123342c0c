"""The protocol of an engine: a model that answers a conversation with text and tool calls."""

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
    """A tool call that the model asks for. `id` is unique within its step, at least."""

    id: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepRequest:
    """The input of one step. An engine must not modify it."""

    #: Ends with a user message or with tool results. A first message of role "system" is the
    #: summary of earlier ones.
    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    #: The beginning of the step's text, which the client has: the engine continues it. Empty unless
    #: the engine `can_continue`.
    prefix: str = ""
    #: For engines that keep sessions themselves; empty if there is no session.
    session_id: str = ""


class Engine(Protocol):
    """A model. An engine serves many steps concurrently."""

    #: Whether `StepRequest.prefix` is supported.
    can_continue: bool

    def step(self, request: StepRequest) -> AsyncGenerator[TextDelta | ToolCall, None]:
        """One model step: text in pieces, then tool calls (none: the agent is done).

        The generator is closed early when the turn is cancelled. Raises EngineFailed; EngineCut if
        the answer was interrupted and may be requested again; before the first item CannotContinue,
        if this `prefix` cannot be continued.
        """

    async def summarise(self, messages: Sequence[Message]) -> str:
        """A short text that replaces `messages` in later steps. Raises EngineFailed.

        A first message of role "system" is the summary so far, to be included.
        """

    async def close(self) -> None:
        """Close connections; the engine is not used afterwards."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The settings of all engines; each reads its own. Times are in seconds."""

    #: Between two pieces of text (scripted).
    token_interval_s: float = 0.0
    #: Share of steps that fail on purpose, 0 to 1, and the seed that selects them (scripted).
    fault_rate: float = 0.0
    seed: int = 0
    #: Of an upstream API: its URL, such as http://127.0.0.1:8642/v1, its key, its model.
    base_url: str = ""
    api_key: str = field(default="", repr=False)
    model: str = ""
    connect_timeout_s: float = 5.0
    first_token_timeout_s: float = 120.0
    #: Between two pieces of a response.
    idle_timeout_s: float = 60.0
    #: Attempts until the first piece; after it the agent loop retries.
    tries: int = 3
    #: How the server continues a given text, one of `CONTINUATIONS` (openai).
    continuation: str = "none"


_engines: dict[str, Callable[[EngineOptions], Engine]] = {}


def register_engine(name: str, factory: Callable[[EngineOptions], Engine]) -> None:
    _engines[name] = factory


def engine_names() -> list[str]:
    return sorted(_engines)


def create_engine(name: str, options: EngineOptions) -> Engine:
    """Raises ValueError for an unknown name, with the known ones, and for invalid options."""
    if name not in _engines:
        raise ValueError(f"there is no engine {name!r}; known: {', '.join(engine_names())}")
    return _engines[name](options)
