"""Connections and requests by client address, counted over all processes."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from hermes_lb.workers.shared_memory import CLIENT_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Sequence


class SharedClients:
    """One process's view (`proxy.admission.SharedCounts`): its own cells, and those of all.

    `key` is a secret that all processes share: a client can't choose an address that falls into
    another one's bucket.
    """

    def __init__(
        self, mine: memoryview[int], of_all: Sequence[memoryview[int]], key: bytes
    ) -> None:
        self._mine = mine
        self._all = of_all
        self._key = key

    def count(self, client: str, change: int) -> int:
        """Add `change` here -> the total over all processes."""
        digest = blake2b(client.encode(), digest_size=4, key=self._key).digest()
        bucket = int.from_bytes(digest) % CLIENT_BUCKETS
        self._mine[bucket] += change
        return sum(clients[bucket] for clients in self._all)
