"""What the store takes and gives: messages, leases, grants, answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence

Role = Literal["system", "user", "assistant", "tool"]
Status = Literal["idle", "running", "interrupted"]
#: Who goes on with a turn. `free`: nobody has it. `stopping`: it shall end for another message.
#: `over`: nobody shall go on.
TurnState = Literal["held", "free", "stopping", "over"]


class ToolCallRecord(TypedDict):
    """A tool call as the history keeps it."""

    id: str
    name: str
    arguments: dict[str, Any]


class Message(TypedDict):
    """One entry of the history. `content` is text; a tool's result is text too.

    Role "system" is never kept: it is how a summary is given to an engine.
    """

    role: Role
    content: str
    #: Of an assistant that asks for tools; each is answered by one `tool` message.
    tool_calls: NotRequired[list[ToolCallRecord]]
    #: Of a `tool` message: which call it answers.
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    #: Of a content too large for Redis: where all of it is, and its bytes; `content` is its
    #: beginning then.
    blob: NotRequired[str]
    size: NotRequired[int]


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
class Summary:
    """A text that stands for the session's first messages when a model is asked."""

    text: str
    #: How many messages.
    stands_for: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A turn may run. `history` ends with the turn's messages and its finished steps."""

    outcome: Literal["GRANTED", "RESUME", "ORPHAN"]
    lease: Lease
    version: int
    step: int
    #: Stands for the messages before `history`.
    summary: Summary
    history: list[Message]
    #: Index in the session of the turn's first message, which is a user's.
    turn_at: int
    notes: dict[str, str]
    #: Id of the session's last event so far, and of the last one before the unfinished step.
    last_event: str
    step_event: str
    #: RESUME: what the unfinished step had said already.
    emitted: str = ""
    #: `<fence>-0` of the turn's first begin: names the turn, whoever goes on with it.
    turn_event: str = ""

    @property
    def of_turn(self) -> list[Message]:
        """The messages of this turn so far."""
        return self.history[self.turn_at - self.summary.stands_for :]


@dataclass(frozen=True, slots=True)
class Replay:
    """The turn of this Idempotency-Key is finished; this is its answer."""

    fence: int
    answer: Answer
    #: Id of its event `done`.
    done_event: str
    #: The turn's; the answer is what they say, but for what is kept as blobs.
    messages: list[Message]
    #: As in `Grant`; empty where it is not known.
    turn_event: str = ""


@dataclass(frozen=True, slots=True)
class Queued:
    """A turn is running; the message is kept, and opens the next one."""

    #: How many wait, with this one.
    waiting: int


class Nothing:
    """There was nothing to begin a turn with."""


@dataclass(frozen=True, slots=True)
class NotTaken:
    """A turn that cannot be taken over. `held_s`: for how long not, at least; None: it is over."""

    held_s: float | None


@dataclass(frozen=True, slots=True)
class Event:
    """What happened in a turn, as the log keeps it and the client gets it. `data` is JSON text.

    `id` is `<fence>-<seq>`: it grows strictly within a session, whoever serves it. It is empty for
    what is not in the log.
    """

    id: str
    name: str
    data: str


@dataclass(frozen=True, slots=True)
class EventPage:
    """What happened after an event, as far as the log has it."""

    status: Status
    #: Id of the session's last event.
    last: str
    #: Behind which the events are.
    after: str
    events: list[Event]
    #: The event asked for is not kept any more: some behind it may be missing, `events` is empty.
    is_trimmed: bool = False
    #: The session's last turn, as in `Orphan`.
    turn: str = "0"
    state: TurnState = "over"
    silent_s: float = field(default=0.0, compare=False)
    #: As in `TurnPage`.
    holder: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class TurnPage:
    """What happened in one turn after an event, as far as the log has it."""

    #: `free`: it can be taken over. Over is what was `told` by `done` or `error`, or is `untold`.
    state: Literal["held", "free", "told", "untold"]
    #: Seconds for which nothing was heard of its holder.
    silent_s: float
    #: The worker that holds the lease, by its name in the nonce; empty if it has none.
    holder: str
    #: Behind which the events are.
    after: str
    #: Id of the `done` or `error` that ended the turn; empty if none did. Any `error` before it was
    #: the end of a try, which its client has repeated.
    ended_by: str
    events: list[Event]


@dataclass(frozen=True, slots=True)
class Orphan:
    """The last turn of a session, which may have lost its worker.

    `turn` is the fence of its begin. A turn that its worker has given back is `over`.
    """

    owner: str
    turn: str
    state: TurnState
    #: Seconds for which nothing was heard of its holder.
    silent_s: float = field(compare=False)
    #: Of the last attempt.
    nonce: str
    #: How many messages wait for the turn after it.
    waiting: int


@dataclass(frozen=True, slots=True)
class ToolStart:
    """Whether a call may run. `message` is the result of one that is done."""

    verdict: Literal["RUN", "REPLAY", "UNKNOWN", "ARGS_MISMATCH", "NOT_SAFE"]
    message: Message | None = None


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
    #: What the client has to run, if it brought tools of its own; the answer is not final then.
    calls: Sequence[ToolCallRecord] = ()

    def as_json(self) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "session_id": self.session_id,
            "step": self.step,
            "content": self.content,
            "is_final": self.is_final,
        }
        return answer | {"tool_calls": list(self.calls)} if self.calls else answer


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as its owner may see it."""

    session_id: str
    version: int
    step: int
    status: Status
    metadata: dict[str, Any]
    #: From the index that was asked for on.
    messages: list[Message]
    #: How many messages there are in all, and how many wait for the turn after this one.
    total: int
    waiting: int
    summary: Summary
    #: Id of the last event that is in here.
    last_event: str

    def as_json(self) -> dict[str, Any]:
        return {
            "session_id": self.session_id,
            "step": self.step,
            "status": self.status,
            "messages": self.messages,
            "metadata": self.metadata,
            "total": self.total,
            "waiting": self.waiting,
        }


def turn_text(messages: Sequence[Message]) -> str:
    """The text of a turn: what its assistant messages say, in order."""
    return "".join(message["content"] for message in messages if message["role"] == "assistant")
