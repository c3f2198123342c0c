"""What all turns of one process share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.turns.ports import TurnStore

#: Bytes of request bodies that wait for the end of their JSON, in one process. Eight of the
#: largest (`body_buffer`).
MOST_BUFFERED: Final = 64 * 1024 * 1024


class TurnGateway:
    """`secret`: the key of all digests; equal on all balancers that share the store.

    `buffered`: bytes of bodies that are being read for their session.
    """

    __slots__ = (
        "_abandoned",
        "_followers",
        "_present",
        "buffered",
        "secret",
        "store",
    )

    def __init__(self, store: TurnStore, secret: bytes) -> None:
        self.store = store
        self.secret = secret
        self.buffered = 0
        self._followers: dict[str, int] = {}
        self._abandoned: dict[str, Callable[[], None]] = {}
        self._present: dict[str, list[Callable[[str], None]]] = {}
        store.on_orphan(self._orphaned)

    # Takeovers, by requests of the turn's principal that are there.

    def attend(self, principal: str, take_over: Callable[[str], None]) -> None:
        """A request is there, which can take over the turn that `take_over` is called with."""
        self._present.setdefault(principal, []).append(take_over)

    def leave(self, principal: str, take_over: Callable[[str], None]) -> None:
        present = self._present[principal]
        present.remove(take_over)
        if not present:
            del self._present[principal]

    def _orphaned(self, principal: str, turn: str) -> None:
        present = self._present.get(principal)
        if present:
            present[-1](turn)

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
