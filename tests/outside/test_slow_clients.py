"""slowhttptest against the balancer: slow heads, slow bodies, slow readers.

The tool opens `CROWD` connections, 25 a second, and asks now and then whether it still gets
answers. All the time another client goes on asking, and gets all of its answers.
"""

from __future__ import annotations

import asyncio
import csv
import gc
import os
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from hermes_lb.proxy.exchange import Exchange
from hermes_lb.proxy.http1.client import ClientConnection
from hermes_lb.proxy.http1.upstream import UpstreamConnection
from tests.support.log_line import log_lines
from tests.support.needs import needs_program
from tests.support.origin import answers
from tests.support.programs import run
from tests.support.stage import unsent
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin, Client, Message
    from tests.support.log_line import LogLine
    from tests.support.origin import Origin
    from tests.support.stage import Stage

TOOL = needs_program("slowhttptest")

CROWD = 50
LARGE = 8_000_000  # bytes: more than the kernel's buffers of both sides hold
HELD = (64 + 256) * 1024  # bytes for a stuck reader: the transport's high-water mark and one read
IMPATIENT = {"request_head": "1s", "client": "1s"}

pytestmark = [pytest.mark.slow, pytest.mark.row(31), pytest.mark.timeout(120)]


class Attack:
    """One run of the tool, beside a client that behaves."""

    def __init__(self, stage: Stage, folder: Path, lb: LoadBalancer) -> None:
        self._stage = stage
        self._folder = folder
        self._lb = lb
        self.answered = 0  # requests of the client that behaves
        self.ended_as = ""  # in the tool's words
        self.most_unsent = 0  # bytes that the balancer held, at any time

    async def run(self, *options: str, seconds: int) -> None:
        common = ("-c", str(CROWD), "-r", "25", "-l", str(seconds), "-p", "3")
        report = ("-g", "-o", str(self._folder / "report"))
        before = self._left()
        async with asyncio.TaskGroup() as group:
            attack = group.create_task(
                run(
                    TOOL, *options, *common, *report, "-u", f"{self._lb.url}/slow",
                    within=seconds + 30,
                )
            )  # fmt: skip
            kept = await self._stage.client(self._lb)
            while not attack.done():
                await self._asks(kept)
                one = await self._stage.client(self._lb)
                await self._asks(one)
                one.close()
                await asyncio.sleep(0.05)  # some ten requests a second, so that it is no load
            kept.close()
        ran = attack.result()
        assert ran.status == 0, ran.said
        ended_as = re.search(r"Exit status: (.+)", re.sub(r"\x1b\[[\d;]*m", "", ran.said))
        assert ended_as, ran.said
        self.ended_as = ended_as[1]
        await self._nothing_is_left(before)
        await eventually(self._is_logged, "all lines of the access log")

    async def _asks(self, client: Client) -> None:
        answer = await client.ask("/behaves")
        assert (answer.status, answer.body) == (200, b"ok")
        self.answered += 1
        self.most_unsent = max(self.most_unsent, unsent(self._lb))

    def report(self) -> list[dict[str, str]]:
        """What the tool saw, a row for each second."""
        with (self._folder / "report.csv").open() as file:
            return list(csv.DictReader(file))

    def was_always_available(self) -> bool:
        rows = self.report()
        return bool(rows) and all(int(row["Service Available"]) > 0 for row in rows)

    def most_connected(self) -> int:
        return max(int(row["Connected"]) for row in self.report())

    def lines(self) -> list[LogLine]:
        return log_lines(self._folder)

    def cut(self) -> list[LogLine]:
        return [line for line in self.lines() if line.termination != "--"]

    def probes(self) -> int:
        """Requests by which the tool asked whether it still gets answers, and got one."""
        return sum(
            line.request == "GET /slow HTTP/1.1" and line.termination == "--"
            for line in self.lines()
        )

    def _is_logged(self) -> bool:
        understood: int = sum(frontend.counters.requests for frontend in self._lb._plane.frontends)
        logged: int = sum(line.request != "<BADREQ>" for line in self.lines())
        return logged == understood

    def _left(self) -> tuple[int, int]:
        """Open files, and what the balancer has for connections and requests."""
        gc.collect()
        kinds = (ClientConnection, UpstreamConnection, Exchange)
        objects = sum(type(each) in kinds for each in gc.get_objects())
        return len(os.listdir("/proc/self/fd")), objects

    async def _nothing_is_left(self, before: tuple[int, int]) -> None:
        for _ in range(200):
            if (now := self._left()) == before:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"open files and objects: {before} before, {now} after")


async def serves(connection: AtOrigin, message: Message) -> None:
    """`/behaves` gets a small answer, all else a large one."""
    small = message.head.target == "/behaves"
    await answers(b"ok" if small else b"x" * LARGE)(connection, message)


async def attacked(
    stage: Stage, folder: Path, origin: Origin, *options: str, seconds: int
) -> Attack:
    """The attack on a balancer that is impatient, and keeps no connection to its server."""
    lb = await stage.balancer(origin, timeouts=IMPATIENT, backend={"keep_alive": 0})
    attack = Attack(stage, folder, lb)
    await attack.run(*options, seconds=seconds)
    return attack


def endings(attack: Attack) -> Counter[tuple[int, str, str]]:
    return Counter((line.status, line.termination, line.request) for line in attack.cut())


async def test_slow_heads(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.serving()
    attack = await attacked(stage, tmp_path, origin, "-H", "-i", "1", "-x", "24", seconds=10)
    assert attack.was_always_available()
    assert attack.ended_as == "No open connections left"
    assert endings(attack) == {(408, "cR", "<BADREQ>"): CROWD}
    assert {message.head.method for message in origin.requests} == {"GET"}
    assert len(origin.requests) == attack.answered + attack.probes()


async def test_slow_bodies(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.serving()
    attack = await attacked(stage, tmp_path, origin, "-B", "-i", "5", "-x", "24", seconds=10)
    assert attack.was_always_available()
    assert attack.ended_as == "No open connections left"
    assert endings(attack) == {(408, "cH", "POST /slow HTTP/1.1"): CROWD}
    # Each of them reached the server, which has seen it break off.
    assert {message.head.method for message in origin.requests} == {"GET"}
    assert len(origin.connections) == len(origin.requests) + CROWD


async def test_slow_readers(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.origin()
    origin.serve(serves)
    attack = await attacked(
        stage, tmp_path, origin, "-X", "-w", "10", "-y", "20", "-n", "5", "-z", "5", seconds=6
    )
    assert attack.was_always_available()
    # The tool has not noticed: what the kernel holds for it is more than it reads.
    assert attack.ended_as == "Hit test time limit"
    assert attack.most_connected() == CROWD
    assert endings(attack)[200, "cD", "GET /slow HTTP/1.1"] == CROWD
    # Its probes may leave as soon as they have seen the beginning of an answer.
    assert {ending[1] for ending in endings(attack)} <= {"cD", "CD"}
    assert 0 < attack.most_unsent <= CROWD * HELD
