"""A workload through real balancers, with sockets, on loopback, in one event loop.

Each strategy has a `LoadBalancer` and servers, and open-loop clients. A server holds a request for
as long as the request says, `SLOTS` at a time, as the machine of `engine` does. Or the servers are
real agents, in processes of their own (`agents`), which take any number of turns at a time.
"""

from __future__ import annotations

import asyncio
from array import array
from contextlib import AsyncExitStack, asynccontextmanager, closing
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Self

from hermes_lb.balancer import LoadBalancer
from hermes_lb.lab import agents
from hermes_lb.lab.measures import percentiles
from hermes_lb.lab.workloads import Workload
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence


SLOTS: Final = 2
_LOOK: Final = 0.01  # seconds between two measurements of the loop's lag
_PATIENCE: Final = 60.0  # seconds for the last responses
_CHUNK: Final = b"1\r\nx\r\n"
_MEASURED: Final = 100  # requests

#: By strategy: its figures, and the loop's average lag.
Seen = dict[str, tuple[dict[str, float], float]]


def figures(
    latencies: Sequence[float], firsts: Sequence[float], counts: Sequence[int], errors: int
) -> dict[str, float]:
    """Figures to compare: times in seconds; `counts`: requests served, by server."""
    whole, first = percentiles(latencies), percentiles(firsts)
    return {
        "mean_latency_seconds": whole["mean"],
        "p90_latency_seconds": whole["p90"],
        "mean_first_token_seconds": first["mean"],
        "largest_share": max(counts) / sum(counts),
        "errors": float(errors),
    }


class _Lateness:
    """The loop's lag while the block runs: `mean`, in seconds."""

    def __init__(self) -> None:
        self.mean = 0.0
        self._late: list[float] = []
        self._looking = Tasks()

    async def __aenter__(self) -> Self:
        self._looking.spawn(self._look(), name="lateness")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._looking.cancel_all()
        self.mean = fmean(self._late or [0.0])

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LOOK
            await asyncio.sleep(_LOOK)
            self._late.append(loop.time() - due)


class _Worker:
    """A server that takes as long as a request says, for `SLOTS` requests at a time, in order."""

    def __init__(self) -> None:
        self.served = 0
        self.address = ""
        self._slots = asyncio.Semaphore(SLOTS)
        self._load = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Listen on a port of its own while the block runs."""
        connections = Tasks()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.spawn(self._serve(reader, writer), name="a worker's connection")

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            try:
                yield self
            finally:
                await connections.cancel_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until its peer closes it."""
        try:
            while head := await _head(reader):
                first, length = _timing(head)
                self._load += 1
                try:
                    async with self._slots:
                        await self._answer(writer, first, length)
                finally:
                    self._load -= 1
                self.served += 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, first: float, length: float) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(first)
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Hermes-Load: %d\r\n\r\n"
            % self._load
        )
        writer.write(_CHUNK)
        await asyncio.sleep(began + length - loop.time())
        writer.write(b"0\r\n\r\n")
        await writer.drain()


class _Clients:
    """Sends each request of the workload at its time, on its own connection.

    `ask(number)` makes it; `answered` gets the heads of good responses.
    """

    def __init__(
        self,
        url: str,
        workload: Workload,
        ask: Callable[[int], bytes],
        answered: Callable[[bytes], None] = lambda head: None,
    ) -> None:
        self._ask = ask
        self._answered = answered
        self.latencies = array("d", [])
        self.firsts = array("d", [])
        self.errors = 0
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port = int(port)
        self._workload = workload

    async def play(self, began: float) -> None:
        """Send all. Raises RuntimeError if responses are missing long after the last request."""
        requests = range(len(self._workload.arrivals))
        try:
            async with asyncio.timeout_at(began + self._workload.horizon + _PATIENCE):
                await asyncio.gather(*(self._request(number, began) for number in requests))
        except TimeoutError:
            ended = len(self.latencies) + self.errors
            raise RuntimeError(
                f"{len(requests) - ended} of {len(requests)} requests had no answer "
                f"{_PATIENCE:g} s after the last one was sent"
            ) from None

    def figures(self, counts: Sequence[int]) -> dict[str, float]:
        if not self.latencies:
            raise RuntimeError(f"none of {self.errors} requests was answered with status 200")
        return figures(self.latencies, self.firsts, counts, self.errors)

    async def _request(self, number: int, began: float) -> None:
        loop = asyncio.get_running_loop()
        due = began + self._workload.arrivals[number]
        await asyncio.sleep(due - loop.time())
        try:
            reader, writer = await asyncio.open_connection(self._host, self._port)
            with closing(writer):
                writer.write(self._ask(number))
                head = await _head(reader)
                status = head.partition(b" ")[2][:3]
                first = loop.time() - due
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            status = b""
        if status != b"200":
            self.errors += 1
            return
        self._answered(head)
        self.firsts.append(first)
        self.latencies.append(loop.time() - due)


async def cost() -> float:
    """Seconds that a request costs the loop, with a client, a balancer and a server, beside what
    else the machine does now: the average of some in a row that take no time themselves."""
    count = _MEASURED
    none = array("d", [0.0]) * count
    workload = Workload(none, none, none, array("L", [0]) * count, ["10.0.0.1"])
    async with (
        _Worker().running() as worker,
        LoadBalancer(_config("round_robin", [worker.address])) as balancer,
    ):
        clients = _Clients(balancer.url, workload, _request(workload))
        loop = asyncio.get_running_loop()
        began = loop.time()
        await clients.play(began)
        return (loop.time() - began) / count


async def play(strategies: Sequence[str], servers: int, workload: Workload) -> Seen:
    """All strategies concurrently, each with its own servers, in the time of one."""
    async with AsyncExitStack() as running:
        stages: dict[str, tuple[_Clients, list[_Worker]]] = {}
        for name in strategies:
            workers = [
                await running.enter_async_context(_Worker().running()) for _ in range(servers)
            ]
            addresses = [worker.address for worker in workers]
            balancer = await running.enter_async_context(LoadBalancer(_config(name, addresses)))
            stages[name] = _Clients(balancer.url, workload, _request(workload)), workers
        began = asyncio.get_running_loop().time() + 0.2
        async with _Lateness() as late:
            await asyncio.gather(*(clients.play(began) for clients, _ in stages.values()))
        return {
            name: (clients.figures([worker.served for worker in workers]), late.mean)
            for name, (clients, workers) in stages.items()
        }


async def play_with_agents(
    strategies: Sequence[str], servers: int, workload: Workload, report: Callable[[str], object]
) -> Seen:
    """One strategy after the other: loads reported by workers must not be mixed up."""

    def ask(number: int) -> bytes:
        return agents.ask(workload.addresses[workload.users[number]], workload.lengths[number])

    async with AsyncExitStack() as running:
        workers = await running.enter_async_context(agents.Agents(servers))
        seen = {}
        for name in strategies:
            heads: list[bytes] = []
            async with (
                LoadBalancer(_config(name, workers.addresses)) as balancer,
                _Lateness() as late,
            ):
                clients = _Clients(balancer.url, workload, ask, heads.append)
                await clients.play(asyncio.get_running_loop().time() + 0.2)
            served = [agents.served_by(head) for head in heads]
            counts = [served.count(place) for place in range(servers)]
            figures = clients.figures(counts)
            # An agent's first word comes at once, so its time is the cost of sockets and processes,
            # which is less than `OVERHEAD`: it could not fail to agree.
            del figures["mean_first_token_seconds"]
            seen[name] = figures, late.mean
            report(f"live: {name}")
    return seen


def _request(workload: Workload) -> Callable[[int], bytes]:
    def ask(number: int) -> bytes:
        return (
            f"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n"
            f"X-Forwarded-For: {workload.addresses[workload.users[number]]}\r\n"
            f"X-Lab: {workload.firsts[number]:.6f} {workload.lengths[number]:.6f}\r\n\r\n"
        ).encode()

    return ask


def _config(strategy: str, addresses: Sequence[str]) -> dict[str, Any]:
    return {
        "admin": {"enabled": False},
        "log": {"access": "off"},
        "frontends": [
            {
                "name": "lab",
                "bind": "127.0.0.1:0",
                "default_backend": "lab",
                "trusted_proxies": ["127.0.0.0/8"],
            }
        ],
        "backends": {
            "lab": {
                "balance": strategy,
                "servers": [{"name": f"s{i}", "address": a} for i, a in enumerate(addresses)],
            }
        },
    }


async def _head(reader: asyncio.StreamReader) -> bytes:
    """Empty if the peer has closed."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as cut:
        if cut.partial:
            raise
        return b""


def _timing(head: bytes) -> tuple[float, float]:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"x-lab":
            first, length = value.split()
            return float(first), float(length)
    raise ValueError("a request of the laboratory says how long it takes")
