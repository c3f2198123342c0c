"""The protocols of the session store, which `runtime` and `api` depend on.

The contract of each method is written here, once, and tested in `tests/agent_worker/sessions`
against every implementation: the one on Redis (`store`), and the one in memory that the tests have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from agent_worker.sessions.options import DEFAULT_OPTIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from agent_worker.sessions.options import StoreOptions
    from agent_worker.sessions.readiness import Readiness
    from agent_worker.sessions.records import (
        Event,
        EventPage,
        Grant,
        Lease,
        Message,
        Nothing,
        NotTaken,
        Part,
        Queued,
        Replay,
        SessionView,
        ToolStart,
        TurnPage,
        Unarchived,
    )
    from agent_worker.sessions.turn_index import TurnIndex

Policy = Literal["reject", "enqueue"]


class EventSink(Protocol):
    """Takes the events of a running turn."""

    async def append(self, lease: Lease, events: Sequence[Event]) -> bool:
        """Append `events` in order; True if the turn is asked to stop. Renews the lease.

        Events that are in the log already are skipped. A last event `error` ends the turn. Raises
        LeaseLost.
        """


class EventLog(EventSink, Protocol):
    """The events of all sessions. An id is `<fence>-<seq>`, and is valid on every worker."""

    async def page(self, session_id: str, principal: str, after: str | None) -> EventPage:
        """The events after the id `after`; None: those of the running turn, if there is one.

        One page; to read on, ask for the events after its last one until there are none.
        """

    async def of_turn(
        self, session_id: str, principal: str, turn: str, after: str | None
    ) -> TurnPage:
        """The events of one turn after the id `after`; None: all.

        `turn` is the fence of its begin. One page. Raises EventsGone when they have expired.
        """


class ToolLedger(Protocol):
    """Which tool calls have begun, and their results. Asked before every effect.

    A call is identified by its place, `<index of the message that asked>.<position>`, not by the id
    that the model gave it: models repeat ids.
    """

    async def begin(
        self, lease: Lease, call_key: str, effect: str, arguments_hash: str, attempt: str
    ) -> ToolStart:
        """Whether the call may run. `attempt` identifies this attempt of this worker.

        NOT_SAFE: a `once` call whose record is not on enough replicas. It must not run, and its
        record has to be removed with `not_run`. Raises LeaseLost.
        """

    async def end(self, lease: Lease, call_key: str, attempt: str, message: Message) -> None:
        """Record the result of the call. Raises LeaseLost."""

    async def not_run(self, lease: Lease, call_key: str, attempt: str) -> None:
        """Remove the record of a call that has not run after all. Raises LeaseLost."""


class Outbox(Protocol):
    """Committed messages that the archive does not have yet (transactional outbox)."""

    async def announce(self, *session_ids: str) -> None:
        """Hint that these sessions have changed."""

    async def take(self, most: int = 100) -> list[str]:
        """Remove and return hints: ids of sessions to read."""

    def all(self) -> AsyncIterator[str]:
        """The ids of all sessions; none if a worker has scanned them within `SCAN_EVERY_S`."""

    async def read(self, session_id: str) -> Unarchived:
        """The next messages for the archive, in order. Raises SessionNotFound once it expired."""

    async def archived(self, session_id: str, upto: int, *, fence: int) -> int:
        """The messages before index `upto` are archived. Returns how many are not.

        `fence` is that of the session when they were read. If it has grown, a failover may have
        replaced the messages since: the watermark stays, and they have to be read again.
        """


class TurnStore(Protocol):
    """What a running turn needs of the store: writes under its lease."""

    lease_s: float
    events: EventSink
    tools: ToolLedger

    async def commit(
        self,
        lease: Lease,
        part: Part,
        *,
        expected_version: int,
        commit_id: str,
        events: Sequence[Event] = (),
    ) -> tuple[int, int, int]:
        """Append `part`. Returns the new version, step, and number of queued messages.

        `events` are appended to the log. A repeated `commit_id` changes nothing and returns the
        stored values. Raises LeaseLost if the lease is not held, or the version has changed;
        nothing is written then.
        """

    async def renew(self, lease: Lease) -> bool:
        """Hold the lease for another `lease_s`; True if asked to stop. Raises LeaseLost."""

    async def hand_over(self, lease: Lease, *, kept_s: float) -> None:
        """Offer an unfinished turn to `take_over`; nothing else can begin for `kept_s`.

        Raises LeaseLost.
        """


class SessionStore(TurnStore, Protocol):
    """Sessions and their turns. Every operation names the principal, who must be the owner.

    Every operation raises SessionNotFound (unknown, deleted, another principal's), SessionTooNew
    and StoreUnavailable; further errors are documented with each.
    """

    events: EventLog
    outbox: Outbox
    index: TurnIndex
    readiness: Readiness

    async def create(
        self,
        principal: str,
        metadata: dict[str, Any],
        *,
        messages: Sequence[Message] = (),
        summary: str = "",
        rest_s: float | None = None,
    ) -> str:
        """Create a session; returns its id. `metadata` is stored unchanged.

        It begins with `messages`, preceded by `summary`, which replaces none of them. `rest_s`: its
        life while no turn runs, if that is less than the sliding life.
        """

    async def begin(
        self,
        session_id: str,
        principal: str,
        message: Message | None,
        *,
        nonce: str,
        idempotency_key: str | None = None,
        fingerprint: str = "",
        policy: Policy = "reject",
        silent_s: float | None = None,
    ) -> Grant | Replay | Queued | Nothing:
        """Take the lease and append the user's message, or say why not.

        Queued messages open the same turn, before `message`; with None, only they do. `nonce` lets
        the caller `release` a lease whose grant it never received; its part before a dot names the
        worker. `fingerprint` tells whether a repeated key has the same request; the default is
        derived from the message's content. After `silent_s` without a heartbeat of the holder,
        its turn can be resumed with the turn's key, and a turn that was asked to stop gives way to
        any message; by default only the expiry of the lease permits that. Raises TurnBusy,
        TurnInProgress, IdempotencyMismatch, TurnAbandoned, InboxFull, SessionFull, LeaseLost;
        nothing was written then. Raises TurnGivenUp.
        """

    async def take_over(
        self, session_id: str, principal: str, turn: str, *, nonce: str, silent_s: float
    ) -> Grant | NotTaken:
        """Continue the unfinished turn that began with the fence `turn`.

        The lease is taken if it is free, or if its holder has been silent for `silent_s`; the
        holder can write nothing from then on. A turn whose holders died again and again is ended
        here by an `error`. `nonce` is as in `begin`. Raises LeaseLost if this attempt had the lease
        before, and lost it.
        """

    async def release(
        self, session_id: str, principal: str, nonce: str, *, is_left: bool = False
    ) -> int | None:
        """Free the lease of an unfinished turn. Returns the number of queued messages.

        None if the lease was not held. `is_left`: the turn is an orphan, for another worker to
        continue.
        """

    async def interrupt(self, session_id: str, principal: str) -> float | None:
        """Ask the running turn to stop. Returns the seconds left of its lease; None: none runs."""

    async def read(
        self, session_id: str, principal: str, *, first: int = 0, last: int = -1
    ) -> SessionView:
        """The session with its messages from index `first` to `last` (-1: all). Counts as use."""

    async def check(self, session_id: str, principal: str) -> None:
        """Raise SessionNotFound unless the session exists and is the principal's."""

    async def delete(self, session_id: str, principal: str) -> None:
        """Remove the session; a running turn can write nothing from then on."""

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers."""


class Subscriber(Protocol):
    """A connection for notifications. Subscriptions survive its loss."""

    @property
    def live_s(self) -> float:
        """Seconds since a lost connection was replaced, with all its subscriptions.

        0 while it is lost; infinite if none was ever lost.
        """

    async def subscribe(self, channel: str) -> None:
        """Return once the subscription is active."""

    async def unsubscribe(self, channel: str) -> None: ...

    async def close(self) -> None: ...


class PubSub(Protocol):
    """Notifications between workers."""

    def subscriber(
        self, *, on_message: Callable[[str, str], None], on_reconnected: Callable[[], None]
    ) -> Subscriber: ...

    async def subscribers(self, channel: str) -> int:
        """The number of connections that are subscribed to `channel`."""


class SessionBackend(PubSub, Protocol):
    """Where sessions are kept: opens stores, and notifies of what happens in them."""

    async def beat(self, worker: str) -> None:
        """Record a heartbeat of the worker. It is kept for an hour."""

    async def beat_age_s(self, worker: str) -> float | None:
        """Seconds since the worker's last heartbeat; None if there is none."""

    def session_store(
        self, options: StoreOptions = DEFAULT_OPTIONS, *, index: TurnIndex | None = None
    ) -> SessionStore:
        """`index` is that of another store of the same worker, whose heartbeats it shares."""
