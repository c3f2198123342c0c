"""The register of live connections, and whether the balancer is draining."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hermes_lb.proxy.ports import AcceptLimit

if TYPE_CHECKING:
    from hermes_lb.proxy.ports import Connection, Framed, ServerSide


class LiveConnections:
    """Each connection adds and removes itself.

    - `gate`: the limit on clients.
    - `shared`: connections to servers whose streams are `upstreams`.
    - `detached`: turns that go on without their clients.
    - `keeps_clients`: they are kept after a response; False while draining, or at the limit.
    """

    __slots__ = (
        "_quiet",
        "clients",
        "detached",
        "gate",
        "is_draining",
        "keeps_clients",
        "shared",
        "upstreams",
    )

    def __init__(self) -> None:
        self.clients: set[Connection] = set()
        self.detached: set[Connection] = set()
        self.upstreams: set[ServerSide] = set()
        self.shared: set[Framed] = set()
        self.gate: AcceptLimit = AcceptLimit()  # none, until there are listeners
        self.is_draining = False
        self.keeps_clients = True
        self._quiet = asyncio.Event()

    def start_draining(self) -> None:
        """Stop keeping connections for further requests."""
        self.is_draining = True
        self.keeps_clients = False

    def all_held(self) -> list[Connection]:
        """The connections of clients, and what stands for those that have left."""
        return [*self.clients, *self.detached]

    def connection_gone(self) -> None:
        """A connection has left its register."""
        if self._is_quiet:
            self._quiet.set()

    @property
    def _is_quiet(self) -> bool:
        return not (self.clients or self.detached or self.upstreams or self.shared)

    async def wait_until_quiet(self, timeout: float) -> bool:
        """Wait until all connections are closed -> True, or `timeout` seconds -> False."""
        try:
            async with asyncio.timeout(timeout):
                while not self._is_quiet:
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:
            return False
        return True
