"""What all turns of one process share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hermes_lb.turns.ports import TurnStore

#: Bytes of request bodies that wait for the end of their JSON, in one process. Eight of the
#: largest (`body_buffer`).
MOST_BUFFERED: Final = 64 * 1024 * 1024


class TurnGateway:
    """`secret`: the key of all digests; equal on all balancers that share the store.

    `buffered`: bytes of bodies that are being read for their session.
    """

    __slots__ = ("buffered", "secret", "store")

    def __init__(self, store: TurnStore, secret: bytes) -> None:
        self.store = store
        self.secret = secret
        self.buffered = 0
