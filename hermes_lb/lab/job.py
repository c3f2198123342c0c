"""A request on the virtual clock, and the head of its response, as strategies see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hermes_lb.backends import Lease, Server
    from hermes_lb.errors import NoServer
    from hermes_lb.lab.balancer import Balancer
    from hermes_lb.lab.machine import Machine
    from hermes_lb.lab.workloads import Workload

_HEAD: Final = b"POST /v1/responses HTTP/1.1\r\nHost: lab\r\n\r\n"
_HEAD_OF_CALL: Final = (
    b"POST /v1/responses HTTP/1.1\r\nHost: lab\r\nX-Session-Id: %d\r\nX-Prefix: %d\r\n"
    b"Content-Length: %d\r\n\r\n"
)
_BYTES: Final = 4  # of a token, in English text


class Job:
    """A request, as a strategy sees it, and a waiter in the pool's queue."""

    __slots__ = (
        "arrived",
        "balancer",
        "client_address",
        "first",
        "granted",
        "lease",
        "length",
        "machine",
        "number",
        "picked_at",
        "pinned_to",
        "queued_at",
        "status",
        "tried",
        "user",
        "workload",
    )

    def __init__(
        self, number: int, arrived: float, workload: Workload, granted: Callable[[Job], None]
    ) -> None:
        self.number = number
        self.arrived = arrived
        self.workload = workload
        self.first = workload.firsts[number]
        self.length = workload.lengths[number]
        self.user = workload.users[number]
        self.client_address = workload.addresses[self.user]
        self.tried: tuple[Server, ...] = ()
        self.pinned_to: Server | None = None
        self.granted = granted
        self.balancer: Balancer
        self.lease: Lease
        self.machine: Machine
        self.picked_at = self.queued_at = 0.0
        self.status = 200

    @property
    def request_head(self) -> bytes:
        """Of a model call: with its session, a number of its own prefix, and its length."""
        tokens = self.workload.tokens
        if tokens is None:
            return _HEAD
        number = self.number
        return _HEAD_OF_CALL % (self.user, tokens.prefix(number), _BYTES * tokens.inputs[number])

    @property
    def output(self) -> int:
        """Bytes of the response; -1: unknown, or it was no good one."""
        tokens = self.workload.tokens
        if tokens is None or self.status != 200:
            return -1
        return _BYTES * tokens.outputs[self.number]

    def lease_granted(self, lease: Lease) -> None:
        self.lease = lease
        self.granted(self)

    def server_lost(self, now: float) -> Server | None:
        """A cookie's user may be served by any other."""
        return None

    def fail(self, error: NoServer) -> None:
        raise error  # `server_lost` never refuses


class Head:
    """A response head, as a strategy sees it."""

    __slots__ = ("load", "status")

    def __init__(self, status: int, load: int) -> None:
        self.status = status
        self.load = load

    def fields(self) -> Iterator[tuple[bytes, bytes]]:
        yield b"X-Hermes-Load", b"%d" % self.load
