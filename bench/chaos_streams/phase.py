"""One phase: clients and faults, then calm, then all that came is judged."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from agent_worker.tasks import cancel_and_wait, spawn
from bench.chaos.report import percentile
from bench.chaos_streams.crowd import Crowd, NeverAccepted
from bench.chaos_streams.heard import DONE
from bench.chaos_streams.verdict import Verdict

if TYPE_CHECKING:
    import itertools
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench.chaos.balancer import Balancer
    from bench.chaos.report import Report
    from bench.chaos_streams.faults import Faults
    from bench.chaos_streams.heard import Gap, Heard
    from bench.chaos_streams.ledger import Ledger
    from bench.chaos_streams.streams import Streams

_MOST_REPORTED = 4  # of each promise that was broken
_READERS = 8
_LOOK_EVERY = 0.02
RESUMES = "hermes_lb_resumes_total"


class Phase(NamedTuple):
    #: By their names, with the seconds between two of a kind, on average.
    faults: Mapping[str, float]
    #: Seconds that 99 of 100 gaps stay below.
    most_gap: float


class PhaseRun:
    def __init__(
        self,
        plan: Streams,
        name: str,
        phase: Phase,
        balancer: Balancer,
        ledger: Ledger,
        uids: itertools.count[int],
        log: Path,
    ) -> None:
        """`log`: of all gaps."""
        self._log = log
        self.figures: Counter[str] = Counter()
        self._plan = plan
        self._name = name
        self._phase = phase
        self._balancer = balancer
        self._ledger = ledger
        self._uids = uids
        self._turns: list[Heard] = []
        self._late = 0.0  # s, our own loop

    def served_by(self, uid: str) -> str:
        """The worker that the turn with this mail began at; empty if it is not known."""
        return next((turn.worker for turn in reversed(self._turns) if turn.uid == uid), "")

    async def run(self, faults: Faults, report: Report) -> None:
        """Until all that was begun has ended, and is judged."""
        plan, seed = self._plan, f"{self._plan.seed}/{self._name}"
        host, port = self._balancer.address
        resumed = await self._resumes()
        async with Crowd(
            f"http://{host}:{port}", random.Random(seed), self._uids, self.figures
        ) as crowd:
            self._turns = crowd.turns
            watch = spawn(self._watch_lateness(), name="lateness")
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(crowd.run(plan.kinds, plan.clients, plan.words))
                    chosen = self._phase.faults if plan.faults is None else plan.faults
                    group.create_task(faults.run(chosen, seed))
                    await self._wait()
                    faults.stop()
                    crowd.is_over = True
            finally:
                await cancel_and_wait(watch)
            self.figures["streams taken over"] = await self._resumes() - resumed
            verdict = await self._judge(crowd)
        self._tell(report, verdict, faults)

    async def _wait(self) -> None:
        ends = time.monotonic() + self._plan.seconds
        while (left := ends - time.monotonic()) > 0:
            done = sum(turn.end == DONE for turn in self._turns)
            cut = sum(turn.end not in ("", DONE) for turn in self._turns)
            kills = self.figures["workers killed"]
            self._plan.progress(
                f"{self._name}: {left:.0f} s left, {done:,} streams done, {cut} not, {kills} kills"
            )
            await asyncio.sleep(min(5.0, left))

    async def _watch_lateness(self) -> None:
        """A gap may be our own."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(_LOOK_EVERY)
            self._late = max(self._late, time.monotonic() - began - _LOOK_EVERY)

    async def _resumes(self) -> int:
        return int((await self._balancer.metrics()).total(RESUMES))

    async def _judge(self, crowd: Crowd) -> Verdict:
        verdict, sent = Verdict(), self._ledger.sent()
        histories = await _read_histories(crowd)
        for turn in self._turns:
            verdict.judge(turn, histories[turn.session_id], sent[turn.uid])
        return verdict

    def _tell(self, report: Report, verdict: Verdict, faults: Faults) -> None:
        def figure(what: str, value: float) -> None:
            report.figure(f"{self._name}: {what}", value)

        done = [turn for turn in self._turns if turn.end == DONE]
        for kind in self._plan.kinds:
            figure(f"{kind}: streams whole", sum(turn.kind == kind for turn in done))
        for what, count in sorted(self.figures.items()):
            figure(what, count)
        figure("mails sent", verdict.mails)
        figure("mails UNKNOWN", verdict.unknown)
        figure("the harness was late by, worst s", self._late)
        for promise, found in verdict.found.items():
            figure(promise, found.count)
            saw = " | ".join([f"{found.count}: ", *found.reported[:_MOST_REPORTED]])
            report.must(not found.count, f"{self._name}: {promise}: 0", saw)
        report.must(bool(done), f"{self._name}: streams came to their end")
        gaps = sorted(((gap, turn) for turn in self._turns for gap in turn.gaps), key=_seconds)
        lengths = [gap.seconds for gap, _ in gaps] or [0.0]
        p99, most = percentile(lengths, 0.99), self._phase.most_gap
        figure("gaps", len(gaps))
        figure("gap, median s", percentile(lengths, 0.5))
        figure("gap, p99 s", p99)
        figure("gap, worst s", lengths[-1])
        with self._log.open("a") as log:
            for gap, turn in gaps:
                met = ", ".join(faults.between(gap.ended - gap.seconds, gap.ended))
                log.write(f"{self._name}: {gap}, {turn.kind} {turn.uid}: {met}\n")
        if self._plan.judges_gaps:
            worst = " | ".join(f"{gap} of {turn}" for gap, turn in gaps[: -_MOST_REPORTED - 1 : -1])
            report.must(
                p99 < most,
                f"{self._name}: gap p99 under {most:g} s",
                f"{p99:.2f} s; worst: {worst}",
            )


def _seconds(found: tuple[Gap, Heard]) -> float:
    return found[0].seconds


async def _read_histories(crowd: Crowd) -> dict[str, Sequence[Mapping[str, Any]] | None]:
    """By session, as any worker has them; None: they could not be read."""
    found: dict[str, Sequence[Mapping[str, Any]] | None] = {}
    waiting = iter(crowd.turns)

    async def read() -> None:
        for turn in waiting:
            try:
                found[turn.session_id] = await crowd.messages(turn.session_id)
            except NeverAccepted:
                found[turn.session_id] = None

    await asyncio.gather(*(read() for _ in range(_READERS)))
    return found
