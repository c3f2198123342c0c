"""Workers without processes: each has its own pool and its own loop, and all share a block."""

from __future__ import annotations

import os
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hermes_lb.backends import Pool
from hermes_lb.config import Backend
from hermes_lb.workers.block import Block
from hermes_lb.workers.peers import Peers
from hermes_lb.workers.published import Publisher
from hermes_lb.workers.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from hermes_lb.backends import Lease, Server
    from hermes_lb.errors import NoServer

BACKEND = "agents"


def backend(servers: dict[str, int]) -> Backend:
    """Of servers by name, with how many requests each takes at a time (0: any number)."""
    return Backend.model_validate(
        {
            "servers": [
                {"name": name, "address": "10.0.0.1:80", "max_connections": most}
                for name, most in servers.items()
            ]
        }
    )


class FakeLoop:
    """What `Peers` wants of a loop; whoever tests decides when anything is called."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.time = clock
        self._soon: list[Callable[[], None]] = []
        self._timers: list[Any] = []
        self.readers: dict[int, Callable[[], None]] = {}

    def call_soon(self, call: Callable[[], None]) -> None:
        self._soon.append(call)

    def call_later(self, delay: float, call: Callable[[], None]) -> Any:
        timer = SimpleNamespace(at=self.time() + delay, call=call)
        timer.cancel = lambda: self._timers.remove(timer)
        self._timers.append(timer)
        return timer

    def add_reader(self, fd: int, call: Callable[[], None]) -> None:
        self.readers[fd] = call

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def turn(self) -> bool:
        """Call what is due -> whether there was anything."""
        due = [timer for timer in self._timers if timer.at <= self.time()]
        self._timers = [timer for timer in self._timers if timer not in due]
        soon, self._soon = self._soon, []
        calls = [*soon, *(timer.call for timer in due)]
        for call in calls:
            call()
        return bool(calls)


class Request:
    """It holds a lease, or waits, or is over."""

    def __init__(self, worker: Worker, pinned_to: Server | None, tried: Collection[Server]) -> None:
        self.worker = worker
        self.pinned_to = pinned_to
        self.tried = tried
        self.heir: Server | None = None  # the one it waits for when its server is out
        self.lease: Lease | None = None
        self.row = -1

    def __repr__(self) -> str:
        pinned = self.pinned_to.name if self.pinned_to else "any"
        return f"<Request at {self.worker.number} for {pinned}, {self.lease}>"

    @property
    def waits(self) -> bool:
        return self in self.worker.pool.waiting

    def lease_granted(self, lease: Lease) -> None:
        assert self.lease is None, "granted twice"
        self.lease = lease
        self.row = self.worker.row(lease.server)
        self.worker.several.granted.append(self)
        self.worker.several.check_limits()

    def server_lost(self, now: float) -> Server | None:
        return self.heir

    def fail(self, error: NoServer) -> None:
        raise error

    def ends(self) -> None:
        assert self.lease is not None
        self.worker.several.requests.remove(self)
        self.lease.release()

    def gives_up(self) -> None:
        self.worker.several.requests.remove(self)
        self.worker.pool.leave(self)


class Worker:
    """As a process has it: pool, peers, and what copies the numbers."""

    def __init__(self, several: Several, number: int) -> None:
        self.several = several
        self.number = number
        self.part = several.block.parts[number]
        self.loop = FakeLoop(lambda: several.now)
        self.pool = Pool(BACKEND, several.configured)
        self.rows: dict[str, int] = {}
        self.peers = Peers(several.block, number, several.bells, self.loop)  # type: ignore[arg-type]
        self.plane: Any = SimpleNamespace(pools={BACKEND: self.pool}, counters={})
        self._publisher = Publisher(self.plane, self.part, is_alone=False)
        self._set_rows()

    def __repr__(self) -> str:
        return f"<Worker {self.number}: {self.pool}>"

    def _set_rows(self) -> None:
        self.rows = dict(self.several.rows.rows)
        self._publisher.set_rows(self.rows)
        self.peers.set_rows({BACKEND: self.pool}, self.rows)

    def reconfigure(self) -> None:
        gone = self.pool.reconfigure(self.several.configured)
        for request in self.several.requests:
            if request.lease is not None and request.lease.server in gone:
                request.row = -1  # it is not counted any more
        self._set_rows()

    def row(self, server: Server) -> int:
        return self.rows[f"{BACKEND}/{server.name} {server.config.address}"]

    def server(self, name: str) -> Server:
        return next(server for server in self.pool.servers if server.name == name)

    def asks(self, pinned_to: str | None = None, tried: Collection[str] = ()) -> Request:
        """A request comes, as `proxy.dispatch.Backend.choose` has it."""
        pinned = self.server(pinned_to) if pinned_to else None
        request = Request(self, pinned, {self.server(name) for name in tried})
        self.several.requests.append(request)
        while True:
            if pinned is not None:
                candidates = [] if pinned.is_full else [pinned]
            else:
                candidates = self.pool.candidates(request.tried, self.several.now)
            if not candidates:
                self.pool.wait(request)
                return request
            server = min(candidates, key=lambda server: server.load)
            if (lease := self.pool.claim(server, self.several.now)) is not None:
                request.lease_granted(lease)
                return request

    def tick(self) -> None:
        self.pool.tick(self.several.now)

    def hears_bell(self, *, loses: bool = False) -> bool:
        """-> whether it has rung."""
        bell = self.several.bells[self.number]
        try:
            os.eventfd_read(bell)
        except BlockingIOError:
            return False
        if not loses:
            self.loop.readers[bell]()
        return True


class Several:
    """Some workers, and what a supervisor does for them."""

    def __init__(self, count: int, servers: dict[str, int], *, rows: int = 40) -> None:
        self.now = 1.0
        self.configured = backend(servers)
        self.block = Block.create(count, rows)
        self.bells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        self.pool = Pool(BACKEND, self.configured)  # the supervisor's
        self.rows = Rows(self.block)
        self.requests: list[Request] = []  # that are not over
        self.granted: list[Request] = []  # in this order
        self.rows.deal({BACKEND: self.pool}, ())
        self.workers = [Worker(self, number) for number in range(count)]

    def close(self) -> None:
        for worker in self.workers:
            worker.peers.close()
        for bell in self.bells:
            os.close(bell)
        # The views that peers and workers have are released with it.
        with suppress(BufferError):
            self.block.close()

    def reload(self, servers: dict[str, int]) -> None:
        """Of the supervisor; each worker has to `reconfigure` yet."""
        self.configured = backend(servers)
        self.pool.reconfigure(self.configured)
        self.rows.deal({BACKEND: self.pool}, ())

    def dies(self, number: int) -> None:
        """And another one takes its seat."""
        self.requests = [r for r in self.requests if r.worker.number != number]
        self.workers[number].peers.close()
        self.block.clear(number)
        self.workers[number] = Worker(self, number)

    def settle(self) -> None:
        """All bells and turns, until nothing happens any more."""
        for _ in range(1000):
            happened = [worker.loop.turn() for worker in self.workers]
            happened += [worker.hears_bell() for worker in self.workers]
            if not any(happened):
                return
        raise AssertionError("they ring each other for ever")

    def pass_time(self) -> None:
        """A second, with all that it brings."""
        self.now += 1.0
        self.settle()
        for worker in self.workers:
            worker.tick()
        self.settle()

    # What has to hold.

    def held(self, row: int) -> Iterator[Request]:
        return (r for r in self.requests if r.lease is not None and r.row == row)

    def check_limits(self) -> None:
        """Nobody has more than it takes."""
        for server in self.pool.servers:
            row = self.rows.rows[f"{BACKEND}/{server.name} {server.config.address}"]
            held = sum(1 for _ in self.held(row))
            assert not server.max_connections or held <= server.max_connections, self.requests

    def check_cells(self) -> None:
        """Everybody's leases are in its part, and no others."""
        for worker in self.workers:
            for row in range(self.block.rows):
                held = sum(1 for r in self.held(row) if r.worker is worker)
                assert worker.part.loads[row] == held, (worker, row)

    def check_sums(self) -> None:
        """Who has looked knows of all leases."""
        for worker in self.workers:
            worker.peers.look(force=True)
            own = [r for r in self.requests if r.worker is worker and r.lease is not None]
            elsewhere = 0
            for server in worker.pool.servers:
                everywhere = sum(1 for _ in self.held(worker.row(server)))
                mine = sum(1 for r in own if r.lease is not None and r.lease.server is server)
                assert server.in_flight == everywhere, server
                elsewhere += everywhere - mine
            assert worker.pool.in_flight == len(own) + elsewhere, worker

    def check_nobody_waits_in_vain(self) -> None:
        """There is no place that somebody who waits could have."""
        for request in self.requests:
            for server in request.worker.pool.servers if request.waits else ():
                is_full = sum(1 for _ in self.held(request.worker.row(server))) >= (
                    server.max_connections or 1000
                )
                could = request.pinned_to in (None, server) and server not in request.tried
                assert is_full or not could, (request, server)
