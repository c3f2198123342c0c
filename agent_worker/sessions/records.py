"""What the store takes and gives: messages, leases, grants, answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

Role = Literal["user", "assistant", "tool"]
Status = Literal["idle", "running", "interrupted"]


class ToolCallRecord(TypedDict):
    """A tool call as the history keeps it."""

    id: str
    name: str
    arguments: dict[str, Any]


class Message(TypedDict):
    """One entry of the history. `content` is text; a tool's result is text too."""

    role: Role
    content: str
    #: Of an assistant that asks for tools; each is answered by one `tool` message.
    tool_calls: NotRequired[list[ToolCallRecord]]
    #: Of a `tool` message: which call it answers.
    tool_call_id: NotRequired[str]
    name: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to one session, until it runs out or is freed."""

    session_id: str
    principal: str
    fence: int
    nonce: str

    @property
    def value(self) -> str:
        """As it stands in Redis."""
        return f"{self.fence}|{self.nonce}"


@dataclass(frozen=True, slots=True)
class Grant:
    """A turn may run. `history` ends with the turn's user message and its finished steps."""

    outcome: Literal["GRANTED", "RESUME", "ORPHAN"]
    lease: Lease
    version: int
    step: int
    history: list[Message]
    #: Index in `history` of the turn's user message.
    turn_at: int
    notes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Replay:
    """The turn of this Idempotency-Key is finished; this is its answer."""

    fence: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What a turn answers: the contract's JSON."""

    session_id: str
    #: Model steps committed in the session so far.
    step: int
    #: All text of the turn, in order; the concatenation of its deltas.
    content: str
    #: False when the step limit stopped the agent before it was done.
    is_final: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "session_id": self.session_id,
            "step": self.step,
            "content": self.content,
            "is_final": self.is_final,
        }


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as its owner may see it."""

    session_id: str
    version: int
    step: int
    status: Status
    metadata: dict[str, Any]
    messages: list[Message]

    def as_json(self) -> dict[str, Any]:
        return {
            "session_id": self.session_id,
            "step": self.step,
            "status": self.status,
            "messages": self.messages,
            "metadata": self.metadata,
        }


def turn_text(messages: list[Message]) -> str:
    """The text of a turn: what its assistant messages say, in order."""
    return "".join(message["content"] for message in messages if message["role"] == "assistant")
