"""What the control half needs of the journals."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.turns.ports import Journal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from hermes_lb.turns.ports import Batch, Claim, End, Reading, Record, TurnWatcher


class Kept(NamedTuple):
    """Of a finished journal: the numbers of its first and last event (0: none), and its bytes."""

    first: int
    last: int
    size: int


class OwnedJournal(Journal):
    """The journal of a turn that this process executes."""

    __slots__ = ("is_stream",)

    #: Set with the response's head: its events live for `keep_events`, else for `keep`.
    is_stream: bool

    def watch(self, watcher: TurnWatcher) -> None:
        """Notify it of everything but a cancellation."""
        raise NotImplementedError

    async def finish(self, end: End) -> Kept:
        """Write what is left, then `end`; TTLs count from here. It may be repeated. Raises Fenced,
        StoreAway."""
        raise NotImplementedError

    async def leave(self) -> str:
        """Write what is left, and no end: another process goes on, with the returned nonce. It may
        be repeated. Raises Fenced, StoreAway."""
        raise NotImplementedError

    async def notify(self) -> None:
        """Followers look at the turn's record: it has a head, or no owner any more."""
        raise NotImplementedError

    async def is_followed(self) -> bool:
        """Whether a request at any balancer reads it, or has within the last seconds. Raises
        StoreAway."""
        raise NotImplementedError

    def refuse(self) -> None:
        """Another process has the turn, as control has found: notify the watcher, write no more."""
        raise NotImplementedError


class Adopted(NamedTuple):
    """The journal of a turn that was taken over; `last` and `tail` as of `ports.Takeover`."""

    journal: OwnedJournal
    last: int
    tail: Sequence[Batch]


class Journals:
    """All journals of this process."""

    __slots__ = ()

    def open(self, turn: str, nonce: str, claim: Claim) -> OwnedJournal:
        """For a turn that has just begun: `nonce` may append to it."""
        raise NotImplementedError

    async def fence_off(self, turn: str, nonce: str, after: str = "") -> tuple[str, bool]:
        """Let only `nonce` append to it, in the place of `after` ("": of any).

        Returns the nonce that may: another one, if `after` was fenced off before, which the caller
        goes on with; and whether all of the response is there. Raises StoreAway.
        """
        raise NotImplementedError

    async def adopt(self, turn: str, nonce: str, claim: Claim) -> Adopted:
        """Go on with it, as `nonce` may. Raises Fenced, StoreAway."""
        raise NotImplementedError

    async def kept(self, turn: str) -> Kept:
        """The contents of a journal that has ended. Raises StoreAway."""
        raise NotImplementedError

    def follow(
        self, record: Record, after: int, find: Callable[[], Awaitable[Record | None]]
    ) -> Reading:
        """`find`: the turn's present record; a reader calls it every 2 s while it waits."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError
