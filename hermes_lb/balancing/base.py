"""What a strategy is asked, and what it may know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.http import ResponseHead


class Request(Protocol):
    """What a strategy may know of a request."""

    @property
    def client_address(self) -> str:
        """The client's IP address, as text; empty where there is none (a Unix socket)."""

    @property
    def request_head(self) -> bytes:
        """Its head as the server will get it, from the first line to the empty one; its body may
        follow."""

    @property
    def tried(self) -> Collection[Server]:
        """Servers that this request has already failed on."""


class Strategy(Protocol):
    """An algorithm that picks a server. It reads no clock, does no I/O, and holds no lease."""

    def pick(self, pool: Pool, request: Request, now: float, rng: Random) -> Server | None:
        """One of `pool.candidates(request.tried, now)`, or None if there is none.

        `now` is monotonic, in seconds. A strategy serves one pool, and may remember its servers.
        """


@runtime_checkable
class Keeper(Protocol):
    """A strategy that keeps something of the pool's for itself while it serves it."""

    def leave(self, pool: Pool) -> None:
        """Give it back: another strategy takes over."""


@runtime_checkable
class Learner(Protocol):
    """A strategy that wants to know how its servers answer."""

    def answered(self, server: Server, head: ResponseHead, seconds: float, now: float) -> None:
        """A final response head (or a 101) came, `seconds` after the server was picked."""

    def forget(self, server: Server) -> None:
        """It is gone from the configuration, and nothing runs on it any more."""
