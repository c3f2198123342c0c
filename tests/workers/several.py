"""Workers without processes: each has its own pool and loop, and all share memory."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hermes_lb.backends import Pool
from hermes_lb.config import Backend
from hermes_lb.workers.layout import Layout
from hermes_lb.workers.peers import Peers
from hermes_lb.workers.published import Publisher
from hermes_lb.workers.shared_memory import SharedMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from hermes_lb.backends import Lease, Server
    from hermes_lb.errors import NoServer

BACKEND = "agents"


def backend(servers: dict[str, int]) -> Backend:
    """A backend of servers by name, with their `max_connections`."""
    return Backend.model_validate(
        {
            "servers": [
                {"name": name, "address": "10.0.0.1:80", "max_connections": most}
                for name, most in servers.items()
            ]
        }
    )


class FakeLoop:
    """The loop as `Peers` uses it; the test decides when callbacks run."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.time = clock
        self._soon: list[Callable[[], None]] = []
        self._timers: list[Any] = []
        self.readers: dict[int, Callable[[], None]] = {}

    def call_soon(self, call: Callable[[], None]) -> None:
        self._soon.append(call)

    def call_later(self, delay: float, call: Callable[..., None], *args: Any) -> Any:
        timer = SimpleNamespace(at=self.time() + delay, call=partial(call, *args))
        timer.cancel = lambda: self._timers.remove(timer)
        self._timers.append(timer)
        return timer

    def add_reader(self, fd: int, call: Callable[..., None], *args: Any) -> None:
        self.readers[fd] = partial(call, *args)

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def turn(self) -> bool:
        """Run due callbacks -> whether there were any."""
        due = [timer for timer in self._timers if timer.at <= self.time()]
        self._timers = [timer for timer in self._timers if timer not in due]
        soon, self._soon = self._soon, []
        calls = [*soon, *(timer.call for timer in due)]
        for call in calls:
            call()
        return bool(calls)


class Request:
    """A request that holds a lease, waits, or is over."""

    def __init__(self, worker: Worker, pinned_to: Server | None, tried: Collection[Server]) -> None:
        self.worker = worker
        self.pinned_to = pinned_to
        self.tried = tried
        self.heir: Server | None = None  # the server it waits for if its own is out
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
    """A worker process: pool, peers and publisher."""

    def __init__(self, several: Several, number: int) -> None:
        self.several = several
        self.number = number
        self.region = several.memory.regions[number]
        self.loop = FakeLoop(lambda: several.now)
        self.pool = Pool(BACKEND, several.configured)
        self.rows: dict[str, int] = {}
        self.peers = Peers(several.memory, number, several.wakeups, self.loop)  # type: ignore[arg-type]
        self.plane: Any = SimpleNamespace(pools={BACKEND: self.pool}, counters={})
        self._publisher = Publisher(self.plane, self.region, is_alone=False)
        self._set_rows()

    def __repr__(self) -> str:
        return f"<Worker {self.number}: {self.pool}>"

    def _set_rows(self) -> None:
        self.rows = dict(self.several.layout.rows)
        self._publisher.set_rows(self.rows)
        self.peers.set_rows({BACKEND: self.pool}, self.rows)

    def reconfigure(self) -> None:
        gone = self.pool.reconfigure(self.several.configured)
        for request in self.several.requests:
            if request.lease is not None and request.lease.server in gone:
                request.row = -1  # not counted any more
        self._set_rows()

    def row(self, server: Server) -> int:
        return self.rows[f"{BACKEND}/{server.name} {server.config.address}"]

    def server(self, name: str) -> Server:
        return next(server for server in self.pool.servers if server.name == name)

    def asks(self, pinned_to: str | None = None, tried: Collection[str] = ()) -> Request:
        """Start a request, as `proxy.dispatch.Backend.choose` does."""
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

    def is_woken(self, *, loses: bool = False) -> bool:
        """-> whether it was."""
        wakeup = self.several.wakeups[self.number]
        try:
            os.eventfd_read(wakeup)
        except BlockingIOError:
            return False
        if not loses:
            self.loop.readers[wakeup]()
        return True


class Several:
    """Some workers, and a supervisor's part in them."""

    def __init__(self, count: int, servers: dict[str, int], *, rows: int = 40) -> None:
        self.now = 1.0
        self.configured = backend(servers)
        self.memory = SharedMemory.create(count, rows)
        self.wakeups = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        self.pool = Pool(BACKEND, self.configured)  # the supervisor's
        self.layout = Layout(self.memory)
        self.requests: list[Request] = []  # not over
        self.granted: list[Request] = []  # in order
        self.layout.assign({BACKEND: self.pool}, ())
        self.workers = [Worker(self, number) for number in range(count)]

    def close(self) -> None:
        for worker in self.workers:
            worker.peers.close()
        for wakeup in self.wakeups:
            os.close(wakeup)
        # Views that peers and workers have are released with the memory.
        with suppress(BufferError):
            self.memory.close()

    def reload(self, servers: dict[str, int]) -> None:
        """Reload in the supervisor; each worker still has to `reconfigure`."""
        self.configured = backend(servers)
        self.pool.reconfigure(self.configured)
        self.layout.assign({BACKEND: self.pool}, ())

    def dies(self, number: int) -> None:
        """The worker dies and is replaced."""
        self.requests = [r for r in self.requests if r.worker.number != number]
        self.workers[number].peers.close()
        self.memory.clear(number)
        self.workers[number] = Worker(self, number)

    def settle(self) -> None:
        """Run all wakeups and loops until nothing happens."""
        for _ in range(1000):
            happened = [worker.loop.turn() for worker in self.workers]
            happened += [worker.is_woken() for worker in self.workers]
            if not any(happened):
                return
        raise AssertionError("they wake each other for ever")

    def pass_time(self) -> None:
        """Advance by a second, with all timers."""
        self.now += 1.0
        self.settle()
        for worker in self.workers:
            worker.tick()
        self.settle()

    # Invariants.

    def held(self, row: int) -> Iterator[Request]:
        return (r for r in self.requests if r.lease is not None and r.row == row)

    def check_limits(self) -> None:
        """No server has more leases than its limit."""
        for server in self.pool.servers:
            row = self.layout.rows[f"{BACKEND}/{server.name} {server.config.address}"]
            held = sum(1 for _ in self.held(row))
            assert not server.max_connections or held <= server.max_connections, self.requests

    def check_cells(self) -> None:
        """Each region has exactly the leases of its worker."""
        for worker in self.workers:
            for row in range(self.memory.rows):
                held = sum(1 for r in self.held(row) if r.worker is worker)
                assert worker.region.loads[row] == held, (worker, row)

    def check_sums(self) -> None:
        """A worker that has looked counts all leases."""
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
        """No request waits while a place is free that it could use."""
        for request in self.requests:
            for server in request.worker.pool.servers if request.waits else ():
                is_full = sum(1 for _ in self.held(request.worker.row(server))) >= (
                    server.max_connections or 1000
                )
                could = request.pinned_to in (None, server) and server not in request.tried
                assert is_full or not could, (request, server)
