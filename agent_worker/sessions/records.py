"""The records of the store: messages, leases, grants, answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence

Role = Literal["system", "user", "assistant", "tool"]
Status = Literal["idle", "running", "interrupted"]
#: `free`: no worker holds the turn. `stopping`: it is held, and asked to stop for another message.
#: `over`: it is not to be continued.
TurnState = Literal["held", "free", "stopping", "over"]


class ToolCallRecord(TypedDict):
    """A tool call in the history."""

    id: str
    name: str
    arguments: dict[str, Any]


class Message(TypedDict):
    """One entry of the history. `content` is text, also of a tool's result.

    Role "system" is never stored: it carries the summary to an engine.
    """

    role: Role
    content: str
    #: Of an assistant: each call is answered by one `tool` message.
    tool_calls: NotRequired[list[ToolCallRecord]]
    #: Of a `tool` message: the call that it answers.
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    #: Of a content too large for Redis: blob and size in bytes. `content` is a preview then.
    blob: NotRequired[str]
    size: NotRequired[int]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to a session, until it expires or is freed."""

    session_id: str
    principal: str
    fence: int
    nonce: str

    @property
    def value(self) -> str:
        """As stored in Redis."""
        return f"{self.fence}|{self.nonce}"


@dataclass(frozen=True, slots=True)
class Summary:
    """A text that replaces the session's first messages in requests to a model."""

    text: str
    #: The number of messages that it replaces.
    stands_for: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A turn may run. `history` ends with the turn's messages and its finished steps."""

    outcome: Literal["GRANTED", "RESUME", "ORPHAN"]
    lease: Lease
    version: int
    step: int
    #: Replaces the messages before `history`.
    summary: Summary
    history: list[Message]
    #: Index in the session of the turn's first message, which is a user's.
    turn_at: int
    notes: dict[str, str]
    #: Ids of the session's last event, and of the last one before the unfinished step.
    last_event: str
    step_event: str
    #: RESUME: the text of the unfinished step so far.
    emitted: str = ""
    #: `<fence>-0` of the turn's first begin: identifies the turn on every worker.
    turn_event: str = ""

    @property
    def of_turn(self) -> list[Message]:
        """The messages of this turn so far."""
        return self.history[self.turn_at - self.summary.stands_for :]


@dataclass(frozen=True, slots=True)
class Part:
    """What a turn commits at once."""

    messages: Sequence[Message]
    #: A model's step, not the results of its tools.
    is_step: bool = True
    #: Also frees the lease.
    ends_turn: bool = False
    #: Of a part that ends the turn: whether the agent is done. Kept for replays.
    is_final: bool = True
    #: None if unchanged; as is `summary`.
    notes: dict[str, str] | None = None
    summary: Summary | None = None
    #: The ledger's keys of calls whose results are among `messages`.
    settled: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Replay:
    """The turn of the Idempotency-Key is finished; this is its answer."""

    fence: int
    answer: Answer
    #: Id of its event `done`.
    done_event: str
    #: Those of the turn; the answer is made of them, without the content of blobs.
    messages: list[Message]
    #: As in `Grant`; empty if unknown.
    turn_event: str = ""


@dataclass(frozen=True, slots=True)
class Queued:
    """A turn is running; the message is queued for the next one."""

    #: The number of queued messages, with this one.
    waiting: int


class Nothing:
    """No message is queued: there is nothing to begin a turn with."""


@dataclass(frozen=True, slots=True)
class NotTaken:
    """The turn cannot be taken over: for `held_s` at least; None: it is over."""

    held_s: float | None


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a turn, in the log and as sent to the client. `data` is JSON text.

    `id` is `<fence>-<seq>`, strictly increasing within a session on all workers. It is empty for
    events that are not in the log.
    """

    id: str
    name: str
    data: str


@dataclass(frozen=True, slots=True)
class EventPage:
    """The events of a session after one of them, as far as the log has them."""

    status: Status
    #: Id of the session's last event.
    last: str
    #: The id after which the events are.
    after: str
    events: list[Event]
    #: The given event has expired, so others may be missing; `events` is empty.
    is_trimmed: bool = False
    #: The session's last turn, as in `Orphan`.
    turn: str = "0"
    state: TurnState = "over"
    silent_s: float = field(default=0.0, compare=False)
    #: As in `TurnPage`.
    holder: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class TurnPage:
    """The events of a turn after one of them, as far as the log has them."""

    #: `free`: it can be taken over. The last two are over, with an event that says so or without.
    state: Literal["held", "free", "ended", "lost"]
    #: Seconds since its holder's last heartbeat.
    silent_s: float
    #: The worker that holds the lease, by its name in the nonce; empty if there is none.
    holder: str
    #: The id after which the events are.
    after: str
    #: Id of the `done` or `error` that ended the turn, or empty. An earlier `error` ended an
    #: attempt that the client has repeated.
    ended_by: str
    events: list[Event]


@dataclass(frozen=True, slots=True)
class Orphan:
    """The last turn of a session, which may have lost its worker.

    `turn` is the fence of its begin. A turn that its worker has released is `over`.
    """

    owner: str
    turn: str
    state: TurnState
    #: Seconds since its holder's last heartbeat.
    silent_s: float = field(compare=False)
    #: Of the last attempt.
    nonce: str
    #: The number of queued messages.
    waiting: int


@dataclass(frozen=True, slots=True)
class Unarchived:
    """Messages of a session for the archive; `first` is the index of the first one."""

    session_id: str
    owner: str
    first: int
    messages: list[Message]
    is_deleted: bool = False
    #: The session's, when they were read.
    fence: int = 0


@dataclass(frozen=True, slots=True)
class ToolStart:
    """Whether a call may run. REPLAY: it has run, and `message` is its result."""

    verdict: Literal["RUN", "REPLAY", "UNKNOWN", "ARGS_MISMATCH", "NOT_SAFE"]
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a turn, as the API returns it."""

    session_id: str
    #: Model steps committed in the session so far.
    step: int
    #: All text of the turn: the concatenation of its deltas.
    content: str
    #: False if the step limit stopped the agent before it was done.
    is_final: bool
    #: Calls of the client's own tools, which it has to run; the answer is not final then.
    calls: Sequence[ToolCallRecord] = ()

    def as_json(self) -> dict[str, Any]:
        names = ("session_id", "step", "content", "is_final")
        answer = {name: getattr(self, name) for name in names}
        return answer | {"tool_calls": list(self.calls)} if self.calls else answer


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as its owner sees it."""

    session_id: str
    version: int
    step: int
    status: Status
    metadata: dict[str, Any]
    #: Those that were asked for.
    messages: list[Message]
    #: The number of all messages, and of queued messages.
    total: int
    waiting: int
    summary: Summary
    #: Id of the last event that this view includes.
    last_event: str

    def as_json(self) -> dict[str, Any]:
        names = ("session_id", "step", "status", "messages", "metadata", "total", "waiting")
        return {name: getattr(self, name) for name in names}


def turn_text(messages: Sequence[Message]) -> str:
    """The text of a turn: the contents of its assistant messages, in order."""
    return "".join(message["content"] for message in messages if message["role"] == "assistant")
