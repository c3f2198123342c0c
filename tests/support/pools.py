"""Pools and requests for tests of the pure layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hermes_lb.backends import Pool
from hermes_lb.config import Backend
from hermes_lb.errors import NoServer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from hermes_lb.backends import Lease, Server


def make_pool(*servers: dict[str, Any]) -> Pool:
    """A pool of these servers, named a, b, c, ... unless they say otherwise."""
    return Pool(
        "test",
        Backend.model_validate(
            {
                "servers": [
                    {
                        "name": chr(ord("a") + i),
                        "address": f"10.0.{i // 250}.{i % 250 + 1}:80",
                        **server,
                    }
                    for i, server in enumerate(servers)
                ]
            }
        ),
    )


class FakeRequest:
    """What a strategy may know of a request."""

    def __init__(
        self, client_address: str = "", tried: Collection[Server] = (), request_head: bytes = b""
    ) -> None:
        self.client_address = client_address
        self.tried = tried
        self.request_head = request_head


class FakeWaiter:
    """A request in the queue of `pool`, which keeps what it is given.

    `heir` is asked for another server when the one that it is pinned to is out.
    """

    def __init__(
        self,
        pinned_to: Server | None = None,
        tried: Collection[Server] = (),
        *,
        pool: Pool | None = None,
        heir: Callable[[], Server | None] = lambda: None,
    ) -> None:
        self.pinned_to = pinned_to
        self.tried = tried
        self.leases: list[Lease] = []
        self.refused = 0  # times
        self._pool = pool
        self._heir = heir

    def lease_granted(self, lease: Lease) -> None:
        self.leases.append(lease)

    def server_lost(self, now: float) -> Server | None:
        return self._heir()

    def fail(self, error: NoServer) -> None:
        assert self._pool is not None
        self._pool.leave(self)
        self.refused += 1

    @property
    def server(self) -> str | None:
        """The name of the server that was granted, None while it waits."""
        assert len(self.leases) < 2, "granted twice"
        return self.leases[0].server.name if self.leases else None


def nobody_else() -> Server | None:
    """The heir of a `strict` session."""
    raise NoServer("for a test")


def names(servers: Iterable[Server]) -> str:
    return " ".join(server.name for server in servers)
