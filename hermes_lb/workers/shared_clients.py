"""What the processes count together for each client: connections, and requests."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from hermes_lb.workers.block import CLIENT_SLOTS

if TYPE_CHECKING:
    from collections.abc import Sequence


class SharedClients:
    """One process' view (`proxy.admission.SharedCounts`): its own cells, and those of all.

    `key` is a secret of all processes: nobody can choose an address that shares another's slot.
    """

    def __init__(
        self, mine: memoryview[int], of_all: Sequence[memoryview[int]], key: bytes
    ) -> None:
        self._mine = mine
        self._all = of_all
        self._key = key

    def count(self, client: str, change: int) -> int:
        """So many more here, or less -> those of all processes."""
        digest = blake2b(client.encode(), digest_size=4, key=self._key).digest()
        slot = int.from_bytes(digest) % CLIENT_SLOTS
        self._mine[slot] += change
        return sum(clients[slot] for clients in self._all)
