"""a. No client gets another's bytes, whatever else goes wrong."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.chaos.asks import (
    CHUNKED,
    CUT,
    DIE,
    EVENTS,
    HONEST,
    LENGTH,
    MORE,
    NONE,
    SHUT,
    Ask,
)
from bench.chaos.caller import Caller, Cut, NotHttp, Response
from bench.chaos.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer
    from bench.chaos.workers import Worker

_WORKERS = 3
_VISIT = 10  # batches on one connection, at most
_BATCH = 6  # pipelined requests, at most
_FAULTS = (CUT, SHUT, DIE, MORE)
# Statuses by which the balancer may say that no worker has answered.
_REFUSALS = (502, 503, 504)
# The number of a hundred batches in which the client leaves, in head, body or response.
_LEAVING = 3


@dataclass
class MixUp(Scenario):
    """Pipelined requests of all shapes, while clients leave and workers are killed with -9."""

    name: ClassVar[str] = "mix-up"
    title: ClassVar[str] = "a. Each response belongs to its request"

    requests: int = 100_000
    clients: int = 24
    kills: int = 20
    seed: int = 1

    async def run(self, arena: Arena) -> None:
        workers = await arena.workers(_WORKERS)
        self._counts: Counter[str] = Counter()
        self._wrong: list[str] = []
        self._asked = 0
        began = time.monotonic()
        async with arena.balancer(
            workers,
            # The workers' faults are spread evenly: by passive failures all would soon be out.
            server={"max_fails": 0},
            backend={
                "balance": "leastconn",
                "keep_alive": 64,
                "health": {"path": "/health", "interval": "200ms", "rise": 1, "fall": 1},
            },
            timeouts={"server": "20s", "connect": "2s"},
        ) as balancer:
            faults = _Killer(workers, self.requests, self.kills, random.Random(self.seed))
            async with asyncio.TaskGroup() as group:
                killing = group.create_task(faults.run(lambda: self._asked))
                visiting = [
                    group.create_task(self._visits(balancer, number))
                    for number in range(self.clients)
                ]
                await asyncio.wait(visiting)
                killing.cancel()
            for worker in workers:
                if not worker.is_running:
                    await worker.start()
            retried = (await balancer.metrics()).total("hermes_lb_retries_total")
        self._judge(arena, faults.kills, int(retried), time.monotonic() - began)

    def _judge(self, arena: Arena, kills: int, retried: int, seconds: float) -> None:
        report, counts = arena.report, self._counts
        executed = arena.journal.executed()
        twice = [i for i, times in executed.items() if times > 1 and i.startswith("POST")]
        report.figure("requests", self._asked)
        report.figure("right, every byte", counts["right"])
        report.figure("wrong", len(self._wrong))
        report.figure("cut, visibly", counts["cut"])
        report.figure("refused (502, 503, 504)", counts["refused"])
        report.figure("not answered, connection closed before", counts["unanswered"])
        report.figure("given up by their clients", counts["left"])
        report.figure("workers killed with -9 and restarted", kills)
        report.figure("retries by the balancer", retried)
        report.figure("requests/s", self._asked / seconds)
        report.must(not self._wrong, "each response is its request's own", self._wrong[:3])
        report.must(
            counts.total() + len(self._wrong) == self._asked >= self.requests,
            "every request is accounted for",
            counts,
        )
        report.must(counts["right"] > 0.8 * self._asked, "most requests are answered", counts)
        report.must(not twice, "no POST is executed twice", twice[:3])
        report.must(
            min(kills, retried, counts["cut"], counts["left"]) > 0,
            "workers were killed, requests retried, responses cut, and clients left",
            (kills, retried, counts),
        )

    async def _visits(self, balancer: Balancer, client: int) -> None:
        """One client's connections, one after the other, until enough has been asked."""
        rng = random.Random(f"{self.seed}/{client}")
        while self._asked < self.requests:
            async with await balancer.connect() as caller:
                for _ in range(rng.randrange(1, _VISIT)):
                    if not await self._batch(caller, client, rng):
                        break

    async def _batch(self, caller: Caller, client: int, rng: random.Random) -> bool:
        """Some requests in one go, and their answers. False: the connection is over."""
        asks = []
        for _ in range(rng.randrange(1, _BATCH)):
            self._asked += 1
            asks.append(_some_ask(f"{client}-{self._asked}", rng))
        wire = b"".join(ask.wire() for ask in asks)
        leaving = rng.randrange(100)
        if leaving < _LEAVING:
            await _leave(caller, asks[0], wire, leaving, rng)
            self._counts["left"] += len(asks)
            return False
        open_asks = list(asks)
        try:
            await caller.send(wire)
            while open_asks:
                response = await caller.read_response(open_asks[0].method)
                self._count(open_asks.pop(0), response)
        except Cut as cut:
            self._count_cut(open_asks, cut)
            return False
        except NotHttp as error:
            self._wrong.append(f"{open_asks.pop(0)}: {error}")
            self._counts["unanswered"] += len(open_asks)
            return False
        return True

    def _count(self, ask: Ask, response: Response) -> None:
        if response.status in _REFUSALS:
            self._counts["refused"] += 1
        elif problem := what_is_wrong(ask, response):
            self._wrong.append(problem)
        else:
            self._counts["right"] += 1

    def _count_cut(self, open_asks: list[Ask], cut: Cut) -> None:
        """The connection has ended: within the first one's response, or before it."""
        if cut.head is None:
            self._counts["unanswered"] += len(open_asks)
            return
        ask = open_asks.pop(0)
        if cut.head.fields.get("x-id") != ask.ident or not ask.expected_body.startswith(cut.body):
            self._wrong.append(f"{ask}: cut after {cut.head} {cut.body[:200]!r}")
        else:
            self._counts["cut"] += 1
        self._counts["unanswered"] += len(open_asks)


def what_is_wrong(ask: Ask, response: Response) -> str:
    """Everything of the response is compared with what the request's id says it must be."""
    expected_status = 204 if ask.framing == NONE else 200
    got = response.fields
    if (response.status, got.get("x-id"), got.get("x-sum")) != (
        expected_status,
        ask.ident,
        ask.expected_sum,
    ):
        return f"{ask}: {response.status} {got}"
    if response.body != ask.expected_body:
        return f"{ask}: a body that begins {response.body[:200]!r}"
    return ""


def _some_ask(ident: str, rng: random.Random) -> Ask:
    method = rng.choice(("GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE"))
    sends = rng.choice((-1, 0, 1, 5, 300)) if method in ("POST", "PUT") else -1
    if method == "POST" and sends < 0:
        sends = 0
    fault = rng.choice(_FAULTS) if rng.random() < 0.02 else HONEST
    blocks = rng.choice((0, 1, 2, 3, 5, 10))
    if fault != MORE and rng.random() < 0.3:  # the worker must get MORE out in one segment
        blocks = 1500 if rng.random() < 0.05 else 40
    return Ask(
        f"{method}-{ident}",
        method,
        framing=rng.choice((LENGTH, LENGTH, CHUNKED, EVENTS, NONE)),
        blocks=blocks,
        wait=rng.choice((0, 0, 0, 0, 0, 0, 0, 0, 0, 5)),
        fault=fault,
        sends=sends,
        is_chunked=rng.random() < 0.5,
    )


async def _leave(caller: Caller, first: Ask, wire: bytes, how: int, rng: random.Random) -> None:
    """In the middle of the head, of the whole, or of the response."""
    with suppress(Cut, NotHttp):
        if how == 0:
            await caller.send(wire[: rng.randrange(1, wire.index(b"\r\n\r\n"))])
        elif how == 1:
            await caller.send(wire[: rng.randrange(1, len(wire))])
        else:
            await caller.send(wire)
            await caller.read_head()
    if rng.random() < 0.5:
        caller.close()
    else:
        caller.abort()


class _Killer:
    """kill -9 for one worker after the other, and a start a while later.

    The seed fixes which worker and after how many requests; at least two workers always run.
    """

    def __init__(
        self, workers: list[Worker], requests: int, kills: int, rng: random.Random
    ) -> None:
        self.kills = 0
        self._workers = workers
        self._step = requests // (kills + 1)
        self._left = kills
        self._rng = rng

    async def run(self, asked: Callable[[], int]) -> None:
        for number in range(1, self._left + 1):
            await _reached(asked, number * self._step)
            victim = self._rng.choice(self._workers)
            victim.kill()
            self.kills += 1
            await _reached(asked, number * self._step + self._step // 3)
            await victim.start()


async def _reached(asked: Callable[[], int], count: int) -> None:
    while asked() < count:  # noqa: ASYNC110 - it is a schedule of faults, not a wait for a state
        await asyncio.sleep(0.005)
