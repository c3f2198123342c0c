"""The masters of a Cluster by hash slot (CLUSTER SLOTS)."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from hermes_lb.turns.store.link import LinkLost
from hermes_lb.turns.store.topology import Topology, ask_one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.turns.store.node import Node
    from hermes_lb.turns.store.url import Address, StoreUrl

_PATIENCE: Final = 0.5  # seconds, as a Sentinel's


class Cluster(Topology):
    is_sharded = True

    def __init__(self, url: StoreUrl) -> None:
        super().__init__(url)
        self._slots: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._is_current = False
        # The nodes that probably know the last change, and that probably do not.
        self._ask_first: Address | None = None
        self._ask_last: Address | None = None

    async def node(self, key: str) -> Node:
        if not self._is_current:
            async with self._asking:
                if not self._is_current:
                    await self._learn()
        address = self._slots[key_slot(key.encode())]
        if address is None:
            self._is_current = False
            raise LinkLost("no node of the Cluster serves a key's slot")
        return self.at(address)

    async def masters(self) -> list[Node]:
        await self.node("")
        return [self.at(address) for address in sorted(self._masters())]

    def distrust(self, node: Node) -> None:
        super().distrust(node)
        self._ask_last = node.address
        self._is_current = False

    def moved(self, slot: int, address: Address) -> None:
        self._ask_first = self._slots[slot] = address
        self._is_current = False

    async def _learn(self) -> None:
        failures = []
        for address in self._nodes_to_ask():
            try:
                async with asyncio.timeout(_PATIENCE):
                    ranges = await ask_one(address, self._login, "CLUSTER", "SLOTS")
            except (OSError, TimeoutError) as error:
                failures.append(f"{address[0]}:{address[1]} {error or 'does not answer'}")
                continue
            if isinstance(ranges, list) and ranges:
                break
            failures.append(f"{address[0]}:{address[1]} knows of no slots")
        else:
            raise LinkLost(f"no node of the Cluster answers: {'; '.join(failures)}")
        self._slots = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            # A node that does not know its own host leaves it out.
            master = ((host or b"").decode() or address[0], int(port))
            self._slots[first : last + 1] = [master] * (last + 1 - first)
        self._is_current, self._ask_first, self._ask_last = True, None, None
        self.keep(self._masters())

    def _masters(self) -> set[Address]:
        return {address for address in self._slots if address is not None}

    def _nodes_to_ask(self) -> Iterator[Address]:
        """All known nodes, the best first."""
        known = [*self._masters(), *self._url.addresses]
        random.shuffle(known)
        known.sort(key=lambda address: address == self._ask_last)
        if self._ask_first is not None:
            known.insert(0, self._ask_first)
        yield from dict.fromkeys(known)
