"""The same workload twice: on the virtual clock, and through a real balancer before real servers.

Live, everything is on loopback in one event loop: a `LoadBalancer` and its servers for each
strategy, and open-loop clients. A server holds a request for as long as the request says, `SLOTS`
at a time; that is the machine of `engine`, made of sockets. Or the servers are real agents, in
processes of their own (`agents`), which take any number of turns at a time.

What may differ is chance (a strategy draws other numbers) and what sockets cost. So the model is
played `PLAYS` times, with other draws and each request late by some milliseconds as live ones
are; live agrees if it is within four standard deviations of these plays and `ALLOWED` of their
mean, and `OVERHEAD`.
"""

from __future__ import annotations

import asyncio
from array import array
from contextlib import AsyncExitStack
from random import Random
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from hermes_lb.balancer import LoadBalancer
from hermes_lb.balancing import STRATEGIES
from hermes_lb.config import StrategyOptions
from hermes_lb.lab import agents
from hermes_lb.lab.engine import Run
from hermes_lb.lab.measures import percentiles
from hermes_lb.lab.report import seconds
from hermes_lb.lab.scenarios import make_fleet
from hermes_lb.lab.workloads import Workload, exponential, poisson

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from hermes_lb.lab.scenarios import Fleet

SLOTS: Final = 2
LOAD: Final = 0.6
PLAYS: Final = 20
ALLOWED: Final = 0.05
OVERHEAD: Final = 0.02  # seconds: two hops, and one core for all of it
_DEVIATIONS: Final = 4.0
_LATE: Final = 0.003  # seconds, on average
_FIRST, _REST = exponential(0.05), exponential(0.2)
_PATIENCE: Final = 60.0  # seconds for the last answers
_CHUNK: Final = b"1\r\nx\r\n"

Row = dict[str, Any]


def compare(
    strategies: Sequence[str], servers: int, requests: int, seed: int, *, with_agents: bool = False
) -> list[Row]:
    """A row for each strategy and measure: model, live, what may be between, and if they agree.

    Raises RuntimeError if the agents do not start.
    """
    rng = Random(f"{seed} live")
    if with_agents:
        workload = agents.turns(rng, requests, servers)
        seen = asyncio.run(_live_agents(strategies, servers, workload))
    else:
        rate = LOAD * servers * SLOTS / (_FIRST.mean + _REST.mean)
        users = max(10, requests // 20)
        workload = poisson(rng, requests, rate, _REST, first=_FIRST, users=users)
        seen = asyncio.run(_live(strategies, servers, workload))
    slots, noise = (0, agents.FIRST) if with_agents else (SLOTS, 0.0)
    rows: list[Row] = []
    for name in strategies:
        rngs = [Random(f"{seed} {i}") for i in range(PLAYS)]
        plays = [_model(name, make_fleet(servers, slots), workload, rng, noise) for rng in rngs]
        for measure, value in seen[name].items():
            expected = [play[measure] for play in plays]
            mean = fmean(expected)
            overhead = OVERHEAD if measure.endswith("seconds") else 0.0
            allowed = _DEVIATIONS * stdev(expected) + ALLOWED * mean + overhead
            rows.append(
                {
                    "strategy": name,
                    "measure": measure,
                    "model": round(mean, 6),
                    "live": round(value, 6),
                    "allowed": round(allowed, 6),
                    "agrees": abs(value - mean) <= allowed,
                }
            )
    return rows


def print_comparison(console: Console, rows: Sequence[Row]) -> None:
    """A line for each strategy: the model and, behind a stroke, what was seen live."""
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    drawn = Table(box=box.SIMPLE, pad_edge=False)
    drawn.add_column("model / live", no_wrap=True)
    for measure in measures:
        drawn.add_column(measure.replace("_", " ").removesuffix(" seconds"), justify="right")
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        cells = [_cell(row) for row in rows if row["strategy"] == strategy]
        drawn.add_row(strategy, *cells)
    console.print(drawn)
    far = sum(not row["agrees"] for row in rows)
    if far:
        console.print(Text(f"{far} of {len(rows)} figures do not agree", "bold red"))
    else:
        console.print(f"all {len(rows)} figures agree, each within its stated error (live.json)")


def _cell(row: Row) -> Text:
    """Red and with what was allowed if they do not agree."""

    def shown(value: float) -> str:
        return seconds(value) if row["measure"].endswith("seconds") else f"{value:.3g}"

    text = f"{shown(row['model'])} / {shown(row['live'])}"
    if row["agrees"]:
        return Text(text)
    return Text(f"{text} (may differ by {shown(row['allowed'])})", "bold red")


def _model(
    name: str, fleet: Fleet, workload: Workload, rng: Random, noise: float
) -> dict[str, float]:
    """`noise`: seconds, on average, that each answer takes longer to begin."""
    late = [arrival + rng.expovariate(1.0 / _LATE) for arrival in workload.arrivals]
    order = sorted(range(len(late)), key=late.__getitem__)
    more = [rng.expovariate(1.0 / noise) if noise else 0.0 for _ in order]
    moved = Workload(
        array("d", [late[i] for i in order]),
        array("d", [workload.firsts[i] + more[i] for i in order]),
        array("d", [workload.lengths[i] + more[i] for i in order]),
        array("L", [workload.users[i] for i in order]),
        workload.addresses,
    )
    run = Run(fleet.pool, fleet.machines, STRATEGIES[name](StrategyOptions()), moved, rng)
    measures = run.play()
    return _figures(measures.latencies, measures.firsts, measures.counts, measures.errors.total())


def _figures(
    latencies: Sequence[float], firsts: Sequence[float], counts: Sequence[int], errors: int
) -> dict[str, float]:
    whole, first = percentiles(latencies), percentiles(firsts)
    return {
        "mean_latency_seconds": whole["mean"],
        "p90_latency_seconds": whole["p90"],
        "mean_first_token_seconds": first["mean"],
        "largest_share": max(counts) / sum(counts),
        "errors": float(errors),
    }


# Live.


class _Worker:
    """A server that takes as long as it is told, for `SLOTS` requests at a time, in order."""

    def __init__(self) -> None:
        self.served = 0
        self._slots = asyncio.Semaphore(SLOTS)
        self._load = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until its peer closes it."""
        try:
            while head := await _head(reader):
                first, length = _told(head)
                self._load += 1
                async with self._slots:
                    await self._answer(writer, first, length)
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
    """Sends each request of the workload at its time, over a connection of its own.

    `ask(number)` makes it; `answered` gets the heads of good answers.
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
        async with asyncio.timeout_at(began + self._workload.horizon + _PATIENCE):
            await asyncio.gather(
                *(self._request(number, began) for number in range(len(self._workload.arrivals)))
            )

    async def _request(self, number: int, began: float) -> None:
        loop = asyncio.get_running_loop()
        due = began + self._workload.arrivals[number]
        await asyncio.sleep(due - loop.time())
        try:
            reader, writer = await asyncio.open_connection(self._host, self._port)
            writer.write(self._ask(number))
            head = await _head(reader)
            status = head.partition(b" ")[2][:3]
            first = loop.time() - due
            await reader.read()
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            status = b""
        if status != b"200":
            self.errors += 1
            return
        self._answered(head)
        self.firsts.append(first)
        self.latencies.append(loop.time() - due)


async def _live(
    strategies: Sequence[str], servers: int, workload: Workload
) -> dict[str, dict[str, float]]:
    """All strategies at once, each with servers of its own: it takes as long as one."""
    async with AsyncExitStack() as running:
        stages: dict[str, tuple[_Clients, list[_Worker]]] = {}
        for name in strategies:
            workers = [_Worker() for _ in range(servers)]
            addresses = []
            for worker in workers:
                server = await asyncio.start_server(worker.serve, "127.0.0.1", 0)
                await running.enter_async_context(server)
                addresses.append(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
            balancer = await running.enter_async_context(LoadBalancer(_config(name, addresses)))
            stages[name] = _Clients(balancer.url, workload, _request(workload)), workers
        began = asyncio.get_running_loop().time() + 0.2
        await asyncio.gather(*(clients.play(began) for clients, _ in stages.values()))
        return {
            name: _figures(
                clients.latencies,
                clients.firsts,
                [worker.served for worker in workers],
                clients.errors,
            )
            for name, (clients, workers) in stages.items()
        }


async def _live_agents(
    strategies: Sequence[str], servers: int, workload: Workload
) -> dict[str, dict[str, float]]:
    """One strategy after the other: what the workers report would mix them up."""

    def ask(number: int) -> bytes:
        return agents.ask(workload.addresses[workload.users[number]], workload.lengths[number])

    async with AsyncExitStack() as running:
        workers = await running.enter_async_context(agents.Agents(servers))
        figures = {}
        for name in strategies:
            heads: list[bytes] = []
            async with LoadBalancer(_config(name, workers.addresses)) as balancer:
                clients = _Clients(balancer.url, workload, ask, heads.append)
                await clients.play(asyncio.get_running_loop().time() + 0.2)
            served = [agents.served_by(head) for head in heads]
            counts = [served.count(place) for place in range(servers)]
            figures[name] = _figures(clients.latencies, clients.firsts, counts, clients.errors)
    return figures


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
    """Empty if the peer has closed instead."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as cut:
        if cut.partial:
            raise
        return b""


def _told(head: bytes) -> tuple[float, float]:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"x-lab":
            first, length = value.split()
            return float(first), float(length)
    raise ValueError("a request of the laboratory says how long it takes")
