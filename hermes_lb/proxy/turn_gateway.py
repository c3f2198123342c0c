"""What all turns of one process share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from hermes_lb.limits.per_client import ClientAmounts, FairShare

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.turns.ports import TurnStore

#: Bytes of request bodies that are kept in one process, from the first one until they are sent to a
#: server: they are read for their session, and may wait for it. Eight of the largest
#: (`body_buffer`), of which one client gets four.
MOST_BUFFERED: Final = 64 * 1024 * 1024

#: Bytes of journaled responses, in one process, that clients which read too slowly have not read. A
#: client by itself gets a half, for 32 responses that are `journal_size` behind.
MOST_UNREAD: Final = 64 * 1024 * 1024


class TurnGateway:
    """`secret`: the key of all digests; equal on all balancers that share the store.

    By client address: `bodies` and `unread`, bytes that are kept of requests and responses;
    `turns`, claimed or executed; `waiters`, of them, for their sessions. `reads_body`: held while a
    part of a body is parsed.
    """

    __slots__ = (
        "_abandoned", "_followers", "_present", "bodies", "reads_body", "secret", "store", "turns",
        "unread", "waiters",
    )  # fmt: skip

    def __init__(self, store: TurnStore, secret: bytes) -> None:
        self.store = store
        self.secret = secret
        self.bodies = FairShare(MOST_BUFFERED)
        self.unread = FairShare(MOST_UNREAD)
        self.turns = ClientAmounts()
        self.waiters = ClientAmounts()
        self.reads_body = asyncio.Lock()
        self._followers: dict[str, int] = {}
        self._abandoned: dict[str, Callable[[], None]] = {}
        self._present: dict[str, list[Callable[[str], bool]]] = {}
        store.on_orphan(self._orphaned)

    # Takeovers, by requests of the turn's principal that are there.

    def attend(self, principal: str, take_over: Callable[[str], bool]) -> None:
        """A request is there. `take_over` is called with a turn -> whether the request can take it
        over."""
        self._present.setdefault(principal, []).append(take_over)

    def leave(self, principal: str, take_over: Callable[[str], bool]) -> None:
        present = self._present[principal]
        present.remove(take_over)
        if not present:
            del self._present[principal]

    def _orphaned(self, principal: str, turn: str) -> None:
        for take_over in reversed(self._present.get(principal, ())):
            if take_over(turn):
                return

    @property
    def buffered(self) -> int:
        return self.bodies.total

    # Followers of a turn in this process: where leaving is cancelling, the last one ends it.

    def joined(self, turn: str) -> None:
        """One more request follows it; `left` is due."""
        self._followers[turn] = self._followers.get(turn, 0) + 1

    def left(self, turn: str) -> None:
        count = self._followers.pop(turn) - 1
        if count:
            self._followers[turn] = count
        elif turn in self._abandoned:
            self._abandoned.pop(turn)()

    def is_followed(self, turn: str) -> bool:
        return turn in self._followers

    def abandon(self, turn: str, last_left: Callable[[], None]) -> None:
        """Its own client has left: call `last_left` when all of its followers have, too."""
        self._abandoned[turn] = last_left

    def ended(self, turn: str) -> None:
        """It needs no follower any more."""
        self._abandoned.pop(turn, None)
