"""What a strategy is asked, and what it may know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection
    from random import Random

    from hermes_lb.pool import Pool, Server


class Request(Protocol):
    """What a strategy may know of a request."""

    @property
    def client_address(self) -> str:
        """The client's IP address, as text; empty where there is none (a Unix socket)."""

    @property
    def tried(self) -> Collection[Server]:
        """Servers that this request has already failed on."""


class Strategy(Protocol):
    """An algorithm that picks a server. It reads no clock, does no I/O, and holds no lease."""

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        """One of `pool.candidates(request.tried, now)`, or None if there is none.

        `now` is monotonic, in seconds.
        """
