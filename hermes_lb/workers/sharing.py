"""Turns sharing of leases, queue and client limits with other workers on and off.

A worker that is alone (`process.workers = 1`) shares nothing, at no cost; it begins when another
generation of workers starts beside it, and ends when it is the last one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hermes_lb.workers.layout import server_row
from hermes_lb.workers.peers import Peers
from hermes_lb.workers.published import Publisher
from hermes_lb.workers.shared_clients import SharedClients

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hermes_lb.plane import DataPlane
    from hermes_lb.proxy.select import Discovered
    from hermes_lb.workers.shared_memory import SharedMemory


class Sharing:
    """For worker `number` with data path `plane`. `wakeups` has an eventfd for each worker.

    It is alone until `set_alone(False)`; `key` is for `SharedClients`.
    """

    def __init__(
        self,
        plane: DataPlane,
        memory: SharedMemory,
        number: int,
        wakeups: Sequence[int],
        key: bytes,
    ) -> None:
        self._plane = plane
        self._memory = memory
        self._number = number
        self._wakeups = list(wakeups)
        self._rows: dict[str, int] = {}
        self._peers: Peers | None = None
        mine, all_regions = memory.regions[number], memory.regions
        self._clients = SharedClients(mine.clients, [one.clients for one in all_regions], key)
        self._requests = SharedClients(mine.requests, [one.requests for one in all_regions], key)
        self.publisher = Publisher(plane, mine, is_alone=True)

    def __repr__(self) -> str:
        return f"<Sharing of worker {self._number}, {'not ' * (not self.is_alone)}alone>"

    @property
    def is_alone(self) -> bool:
        return self._peers is None

    def set_rows(self, rows: Mapping[str, int]) -> None:
        """The rows that the supervisor assigned to the present pools."""
        self._rows = dict(rows)
        self.publisher.set_rows(rows)
        if self._peers is not None:
            self._peers.set_rows(self._plane.pools, rows)

    def change_rows(self, backend: str, rows: Mapping[str, int], found: Discovered) -> None:
        """Some servers of a backend are new, with these rows, and some are gone."""
        gone = [server_row(backend, server) for server in found.removed]
        self.publisher.change_rows(rows, gone)
        for key in gone:
            self._rows.pop(key, None)
        self._rows.update(rows)
        if self._peers is not None:
            pool = self._plane.pools[backend]
            new = {s: self._rows[server_row(backend, s)] for s in found.changed}
            self._peers.change_servers(pool, new, found.removed)

    def set_alone(self, is_alone: bool) -> None:
        """Begin or end sharing. Idempotent. Call it after `set_rows`."""
        if is_alone == self.is_alone:
            return
        context = self._plane.context
        if self._peers is None:
            loop = asyncio.get_running_loop()
            self._peers = Peers(self._memory, self._number, self._wakeups, loop)
            self._peers.set_rows(self._plane.pools, self._rows)
            context.batch.before_requests = self._peers.look
            context.client_limits.share(self._clients, self._requests)
        else:
            context.client_limits.share(None, None)
            context.batch.before_requests = None
            self._peers.leave()
            self._peers = None
        self.publisher.is_alone = self.is_alone
