"""The store of turns and their journals, as the data path sees them.

    TurnStore   begins, finds and ends turns: each call is one script, atomic and idempotent
    OwnedTurn   a turn that this process executes: every write is refused once another one has it
    Journal     what its response has said so far; written in batches, acknowledged later
    Reading     a follower's place in a journal, of this process's turns or of another balancer's

Every method that waits for the store raises `StoreAway` within the store's patience: it can't be
reached, is read-only, full, loading, or a failover is in progress. A store that is busy is waited
for longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class StoreAway(Exception):
    """The store can't do it now; nothing is known of whether it has (the nonce tells later)."""


class Fenced(Exception):
    """Another process has this turn, or it has ended: its owner must write no more."""


class Trimmed(Exception):
    """The journal's window begins behind this place, its events have expired, or it has a gap."""


class Claim(NamedTuple):
    """A request, as `begin` needs it.

    - `principal`: the digest of the backend, the credential's source and its value: 26 characters
      of base32 (128 bits). The ids of its turns begin with the first 16 of them.
    - `nonce`: random, 128 bits or more; a new one for each call of `begin`.
    - `key`, `session`: digests of the Idempotency-Key and the session; empty without one.
    - `fingerprint`: of the request; empty while its body still comes.
    - `waits`: for its turn in a busy session; else the outcome is `BUSY`.
    - `repeats_lost`: once, a lost turn with this key is begun again (`on_unknown = "retry"`), and
      is QUEUED until `settle` is over; not while this fingerprint is empty and the lost one is not.
    - `journal_size`: bytes; beyond it the journal is a window (`Journal.is_trimmed`).
    - `linger`: seconds for which a turn whose owner has died waits for another one (`take_over`).
    - `client_turns`, `client_waiters`: what other requests of its client's address have here.
    Times are seconds.
    """

    principal: str
    nonce: str
    key: str
    session: str
    fingerprint: str
    waits: bool
    keep: float
    keep_events: float
    settle: float
    repeats_lost: bool
    journal_size: int
    linger: float = 600.0
    client_turns: int = 0
    client_waiters: int = 0


class Record(NamedTuple):
    """A turn, as the store has it. `head`: of its response, as stored; empty until it has come.
    Of a released turn it is the answer that was given to `release`, head and body.

    `first`, `last`: numbers of the first and last event (or chunk) in the journal, once it has
    ended; 0 for none.
    `is_kept`: False once its journal has expired or lost its beginning: 410 for a replay.
    `reason`: why it was lost. `resume_path`: of the backend's own contract, if it has one.
    `attempt`: 2 if it repeats a lost turn.
    `origin`: of the page whose request has begun it, if the response allows it to be read there.
    `retry`: the milliseconds of the last `retry` field of its events.
    """

    id: str
    state: int
    fence: int
    fingerprint: str
    has_key: bool
    head: bytes
    is_stream: bool
    reason: str
    server: str
    resume_path: str
    first: int
    last: int
    is_kept: bool
    attempt: int
    begun_at: float  # seconds since 1970, the store's clock
    ended_at: float
    origin: str = ""
    retry: str = ""


# Outcomes of `begin`.
OWNED: Final = 0  # this request executes it
QUEUED: Final = 1  # it will, when its session is free or `settle` is over (`OwnedTurn.granted`)
JOINED: Final = 2  # another request has it, or had it: `record` says how it stands
MISMATCH: Final = 3  # the key is that of another request
BUSY: Final = 4  # its session is
OVER_QUOTA: Final = 5


class Begun(NamedTuple):
    """What `begin` found. `retry_after`: seconds, for BUSY and OVER_QUOTA."""

    outcome: int
    record: Record | None
    owned: OwnedTurn | None
    retry_after: float = 0.0


class Batch(NamedTuple):
    """Whole events, or one opaque chunk. `last`: the number of the last of these `events`."""

    last: int
    events: int
    data: bytes


class Takeover(NamedTuple):
    """A turn that this process goes on with. `last`: the number of the last event in its journal;
    `tail`: the last batches, oldest first."""

    owned: OwnedTurn
    resume_path: str
    last: int
    tail: Sequence[Batch]


class End(NamedTuple):
    """The end of a journal. `is_clean`: all of the response is there; else it was cut."""

    is_clean: bool
    reason: str


#: Bytes that the store may have not acknowledged of a journal; more pauses the server.
HIGH_WATER: Final = 256 * 1024


class Journal:
    """The response of one turn. None of its methods waits."""

    __slots__ = ()

    #: Bytes that the store has not acknowledged.
    unacknowledged: int
    #: It is a window: its beginning has been dropped.
    is_trimmed: bool

    def append(self, data: bytes, events: int) -> None:
        """Add this number of events, or one chunk. It leaves with those of other turns (10 ms)."""
        raise NotImplementedError

    def skip(self) -> None:
        """Count one more event that is too long to be kept: the window begins behind it."""
        raise NotImplementedError


class TurnWatcher(Protocol):
    """Receives what the store reports of a turn: the request that executes it. One object, since a
    bound method for each report takes 64 bytes."""

    def turn_refused(self) -> None:
        """Another process has the turn: stop."""

    def cancel_requested(self) -> None:
        """A client has asked for its cancellation."""

    def journal_fell_behind(self) -> None:
        """More bytes than the high-water mark are not acknowledged: pause the server."""

    def journal_caught_up(self) -> None:
        """Fewer are: resume the server."""


class OwnedTurn:
    """A turn that this process executes. The caller ends it by one of `done`, `lost`, `cancelled`
    and `release`: if that raises StoreAway, it is repeated in the background until it succeeds.
    """

    __slots__ = ()

    id: str
    fence: int
    journal: Journal

    async def granted(self) -> None:
        """Return when its session is free and it is next. A caller that stops waiting calls
        `release`. Raises Fenced: it was cancelled by its client (its watcher is notified first)."""
        raise NotImplementedError

    async def started(self, server: str) -> None:
        """Before its first byte goes to a server: its outcome may be unknown after this.
        Raises Fenced; StoreAway also if no replica has it in time: `release` it then."""
        raise NotImplementedError

    async def fingerprinted(self, fingerprint: str) -> None:
        """All of its request has come. Raises Fenced."""
        raise NotImplementedError

    async def headed(
        self, head: bytes, *, is_stream: bool, resume_path: str = "", origin: str = ""
    ) -> None:
        """The response's head, as followers get it. Raises Fenced."""
        raise NotImplementedError

    async def retried(self, retry: str) -> None:
        """An event had this `retry` field. Raises Fenced."""
        raise NotImplementedError

    async def done(self) -> None:
        """All of the response is in the journal: its end, then the state. Raises Fenced."""
        raise NotImplementedError

    async def lost(self, reason: str) -> None:
        """Its outcome is unknown."""
        raise NotImplementedError

    async def orphan(self) -> None:
        """This process can't go on with it, and another one can: its head had a `resume_path`."""
        raise NotImplementedError

    async def is_followed(self) -> bool:
        """Whether a request at another balancer follows it, or has within the last seconds. Raises
        StoreAway."""
        raise NotImplementedError

    async def cancelled(self) -> None:
        """A client wanted it to end, or its last one has left (`abort`), and it has ended."""
        raise NotImplementedError

    async def release(self, answer: bytes) -> None:
        """It was never sent to a server, or the server said so: the key is free, and those that
        joined get this answer (a head and a body, as stored). A turn that a client wanted to end
        is cancelled by it."""
        raise NotImplementedError

    def watch(self, watcher: TurnWatcher) -> None:
        """Notify `watcher`; of a cancellation that was requested before, at once."""
        raise NotImplementedError


class Reading:
    """A follower's place in a journal. `close` it."""

    __slots__ = ()

    async def next(self) -> Sequence[Batch] | End:
        """The batches behind the last ones, when there are some. Raises Trimmed."""
        raise NotImplementedError

    async def head(self) -> Record:
        """Return when the turn has a head, or has ended without one."""
        raise NotImplementedError

    async def stay(self) -> None:
        """The follower is there, and does not read now: it counts as one for some seconds."""
        raise NotImplementedError

    def close(self) -> None:
        """The follower has left."""
        raise NotImplementedError


class TurnStore:
    """All turns of all balancers that share the store."""

    __slots__ = ()

    @property
    def is_reachable(self) -> bool:
        """False for a while after it could not be reached."""
        raise NotImplementedError

    async def begin(self, claim: Claim) -> Begun:
        """If it raises, also CancelledError, the claim is released in the background."""
        raise NotImplementedError

    async def find(self, principal: str, turn: str) -> Record | None:
        """None: unknown, expired, or another principal's; all take the same time."""
        raise NotImplementedError

    async def find_of_any(self, turn: str) -> Record | None:
        """For a preflight, which has no credential: only its `origin` and its head may be used."""
        raise NotImplementedError

    async def find_by_key(self, principal: str, key: str) -> Record | None:
        raise NotImplementedError

    async def cancel(self, principal: str, turn: str) -> Record | None:
        """Ask for its cancellation -> as it stands then; a turn that waits ends at once."""
        raise NotImplementedError

    async def take_over(self, claim: Claim, turn: str) -> Takeover | None:
        """Go on with a turn whose owner is dead. Of several processes one gets it.

        `claim`: of the principal's request that wants it; its key, session and fingerprint do not
        count. None: another process has it, or it can't be gone on with.
        """
        raise NotImplementedError

    def on_orphan(self, then: Callable[[str, str], None]) -> None:
        """Call `then` with the principal and the id of a turn that could be taken over, whenever
        one is found; it is lost if no process does within its `linger`."""
        raise NotImplementedError

    def follow(self, record: Record, after: int) -> Reading:
        """Read its journal behind the event with this number (0: from the start)."""
        raise NotImplementedError

    def renew(self, url: str) -> None:
        """Log in as this URL of the same store says, once it accepts that. Raises ValueError."""
        raise NotImplementedError

    async def close(self) -> None:
        """Mark what this process still owns as lost (`owner_stopped`), release what waits."""
        raise NotImplementedError
