"""d. Clients and servers vanish without a FIN or a RST."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from bench.chaos.asks import Ask
from bench.chaos.network import running_cable
from bench.chaos.scenario import Scenario
from bench.chaos.scenarios.worker_dies import COOKIE, pinned_to
from bench.chaos.stream import ENDLESS, Stream

if TYPE_CHECKING:
    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer, LogLine
    from bench.chaos.caller import Caller, Response
    from bench.chaos.network import Cable
    from bench.chaos.workers import Worker

_THINKS = 600_000  # ms
# Retransmissions before the kernel gives a connection up. The default of 15 takes a quarter of an
# hour; with 3 it takes 3 s, so that the run shows what happens then.
_TCP_RETRIES = "3"
# What the access log says of a client of each kind that has vanished.
_CLIENTS = {
    "in its head": "cR",  # request_head
    "in its upload": "cH",  # client
    "waiting for a head": "sH",  # server: the response is not received
    "in a large response": "cD",  # client
    # Each token goes into the kernel's buffer, so no timeout of the balancer ever fires: the
    # kernel gives up (and only where something has been sent can it notice).
    "in a stream of tokens": "CD",
}


@dataclass
class HalfOpen(Scenario):
    """Behind a cable that is cut: no FIN or RST arrives, and the balancer has only its timeouts."""

    name: ClassVar[str] = "half-open"
    title: ClassVar[str] = "d. Half-open connections: peers vanish without FIN or RST"

    each: int = 5  # of each kind
    timeout: float = 2.0  # of the balancer, seconds

    async def run(self, arena: Arena) -> None:
        with running_cable() as cable:
            cable.near.set("net.ipv4.tcp_retries2", _TCP_RETRIES)
            near = await arena.worker("near", host="127.0.0.1", prefix=cable.near.prefix)
            far = await arena.worker("far", host=cable.far.address, prefix=cable.far.prefix)
            seconds = f"{self.timeout}s"
            options: dict[str, Any] = {
                "bind": cable.near.address,
                "prefix": cable.near.prefix,
                "make_socket": cable.near.make_socket,
                "timeouts": {
                    **dict.fromkeys(("request_head", "client", "server", "keep_alive"), seconds),
                    "connect": "1s",
                },
            }
            async with arena.balancer([near], **options) as balancer:
                await self._clients_vanish(arena, balancer, cable)
            cable.mend()
            health = {"path": "/health", "interval": seconds, "rise": 1, "fall": 2}
            backend = {"affinity": {"cookie": COOKIE}, "health": health}
            async with arena.balancer(
                [near, far], backend=backend, server={"max_fails": 0}, **options
            ) as balancer:
                await self._servers_vanish(arena, balancer, cable, far)

    async def _clients_vanish(self, arena: Arena, balancer: Balancer, cable: Cable) -> None:
        callers = await asyncio.gather(
            *(
                self._client(arena, balancer, cable, kind, number)
                for kind in ("idle", *_CLIENTS)
                for number in range(self.each)
            )
        )
        before = (await balancer.metrics()).total("hermes_lb_connections")
        cable.cut()
        for caller in callers:
            caller.abort()  # whatever that sends is lost, too
        await balancer.until_quiet()
        must, figure = arena.report.must, arena.report.figure
        must(before == len(callers), "all clients were connected", before)
        for kind, termination in _CLIENTS.items():
            if kind == "in its head":  # which was never understood, so the log does not name it
                lines = [line for line in balancer.log_lines() if line.termination == "cR"]
            else:
                lines = [await balancer.log_of(_ident(kind, n)) for n in range(self.each)]
            must(
                [line.termination for line in lines] == [termination] * self.each,
                f"a client that vanishes {kind}: logged as {termination}",
                lines,
            )
            figure(f"a client {kind}: over after, slowest s", max(x.took for x in lines) / 1000)

    async def _client(
        self, arena: Arena, balancer: Balancer, cable: Cable, kind: str, number: int
    ) -> Caller:
        """A client on the far side, in the middle of something."""
        ident = _ident(kind, number)
        caller = await balancer.connect(sock=cable.far.make_socket())
        if kind == "idle":
            await caller.ask(Ask(ident))
        elif kind == "in its head":
            await caller.send(Ask(ident).wire()[:30])
        elif kind == "in its upload":
            await caller.send(Ask(ident, "POST", sends=1000).wire()[:5000])
        elif kind == "waiting for a head":
            await caller.send(Ask(ident, "POST", sends=1, wait=_THINKS).wire())
        elif kind == "in a large response":
            caller.stop_reading()
            await caller.send(Ask(ident, blocks=10 * ENDLESS).wire())
            await arena.journal.until_stuck({ident})
        else:
            await caller.send(Stream.ask(ident).wire())
            await caller.read_head()
        return caller

    async def _servers_vanish(
        self, arena: Arena, balancer: Balancer, cable: Cable, far: Worker
    ) -> None:
        cookie = pinned_to(far)
        streams = [await Stream.open(balancer, f"far-stream-{n}", cookie) for n in range(self.each)]
        loop = asyncio.get_running_loop()
        thinking = Ask("", "POST", sends=1, wait=_THINKS, fields=(cookie,))
        waiting = loop.create_task(self._ask_all(balancer, "far-waits", thinking))
        await arena.journal.until_begun({f"far-waits-{n}" for n in range(self.each)})
        # As many idle connections as there will be requests to find them dead: the answers wait
        # until all requests are under way, also where the machine stands still for a moment.
        await self._ask_all(balancer, "far-before", Ask("", wait=1000, fields=(cookie,)))
        cable.cut()
        reused = loop.create_task(self._ask_all(balancer, "far-reused", Ask("", fields=(cookie,))))
        await balancer.until_metric(
            "hermes_lb_in_flight",
            lambda count: count == 3 * self.each,
            "the idle connections are in use",
        )
        dialed = loop.create_task(
            self._ask_all(balancer, "far-dialed", Ask("", "POST", sends=1, fields=(cookie,)))
        )
        must, figure = arena.report.must, arena.report.figure
        before = await self._lines(balancer, "far-before")
        for name, what, task, wanted in (
            ("waits", "a request without a head", waiting, {504}),
            ("reused", "a request on a kept connection", reused, {504}),
            ("dialed", "a request that needs a dial, served elsewhere", dialed, {200}),
        ):
            statuses = {response.status for response in await task}
            # Which of them had a connection (Tc is 0), and when those before gave theirs back.
            lines = await self._lines(balancer, f"far-{name}")
            saw = [f"{x.target} {x.when} {x.server} {x.times} {x.status}" for x in before + lines]
            must(statuses == wanted, f"a server vanishes: {what}: {wanted}", saw)
        ends = {await stream.until_end() for stream in streams}
        must(ends == {"cut"}, "a server vanishes: its streams are cut visibly", ends)
        await balancer.until_server_is(up=False, name=far.name)
        cable.mend()
        await balancer.until_server_is(up=True, name=far.name)
        must(True, "a server vanishes: it is taken out, and back when the cable is repaired")
        for name in ("stream", "waits", "reused", "dialed"):
            lines = await self._lines(balancer, f"far-{name}")
            figure(f"a server, far-{name}: logged", "/".join({x.termination for x in lines}))
            figure(f"a server, far-{name}: over after, slowest s", max(x.took for x in lines) / 1e3)

    async def _ask_all(self, balancer: Balancer, name: str, ask: Ask) -> list[Response]:
        """The same by several clients at once."""
        asks = [replace(ask, ident=f"{name}-{n}") for n in range(self.each)]
        return await asyncio.gather(*[(await balancer.connect()).ask(each) for each in asks])

    async def _lines(self, balancer: Balancer, name: str) -> list[LogLine]:
        """Of the requests of `_ask_all`."""
        return [await balancer.log_of(f"{name}-{n}") for n in range(self.each)]


def _ident(kind: str, number: int) -> str:
    return f"{kind.replace(' ', '-')}-{number}"
