"""The scenario: what runs, and the phases with faults of their own."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.chaos.balancer import configuration
from bench.chaos.scenario import Scenario
from bench.chaos_sessions.fleet import Worker, WorkerOptions
from bench.chaos_streams.faults import Faults
from bench.chaos_streams.kinds import KINDS
from bench.chaos_streams.ledger import Ledger
from bench.chaos_streams.phase import Phase, PhaseRun
from bench.chaos_streams.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.chaos.arena import Arena
    from bench.chaos.balancer import Balancer

_BALANCER = {"reload": 5.0, "upgrade": 15.0}

PHASES: Mapping[str, Phase] = {
    "deploys": Phase({"deploy": 1.0, **_BALANCER}, most_gap=0.5),
    "storm": Phase(
        {"kill": 1.0, "stop": 3.0, "redis": 10.0, "deploy": 15.0, **_BALANCER}, most_gap=4.0
    ),
}


@dataclass
class Streams(Scenario):
    """Long streamed turns with `once` tools, through the balancer, in each phase in turn."""

    name: ClassVar[str] = "streams"
    title: ClassVar[str] = "Streamed turns while their workers, Redis and the balancer fail"

    clients: int = 200
    workers: int = 4
    processes: int = 2  # of the balancer
    seconds: float = 60.0  # of each phase; what has begun is finished behind it
    seed: int = 1
    words: int = 64  # of the longest answer, `question.MOST_WORDS` at most
    token_interval: float = 0.3
    kinds: Sequence[str] = tuple(KINDS)
    phases: Sequence[str] = tuple(PHASES)
    faults: Mapping[str, float] | None = None  # in place of each phase's own
    judges_gaps: bool = True
    progress: Callable[[str], None] = lambda text: None

    async def run(self, arena: Arena) -> None:
        arena.report.lag_excuse = "processes start beside it all the time"
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(Store(arena.folder))
            ledger = Ledger(arena.folder / "mails.jsonl")
            options = WorkerOptions(store.url, ledger.path, self.token_interval)
            workers = [Worker(f"w{n}", options, arena.folder) for n in range(self.workers)]
            for worker in workers:
                stack.callback(worker.end)
            await asyncio.gather(*(worker.start() for worker in workers))
            servers = {worker.name: ("127.0.0.1", worker.port) for worker in workers}
            async with arena.balancer(servers, **self._config(0)) as balancer:

                def reconfigure(number: int) -> None:
                    self._write(balancer, servers, number)

                uids = itertools.count(1)
                for name in self.phases:
                    gaps = arena.folder / "gaps.log"
                    run = PhaseRun(self, name, PHASES[name], balancer, ledger, uids, gaps)
                    system = balancer, reconfigure, workers, store, ledger
                    log = arena.folder / "faults.log"
                    faults = Faults(*system, run.served_by, run.figures, log)
                    await run.run(faults, arena.report)
            traces = {w.name: found[:1] for w in workers if (found := w.unforeseen())}
            arena.report.must(not traces, "no worker logs an exception", traces)

    def _config(self, number: int) -> dict[str, Any]:
        """The n-th one: with another timeout, so that a reload has something to do."""
        return {
            "frontend": {"routes": [{"path_prefix": "/", "backend": "agents", "resume": True}]},
            "backend": {
                "balance": "leastconn",
                # A worker that stands still is noticed within 1.4 s: with the 2.5 s of a takeover
                # that it has interrupted, this is below 4 s.
                "health": {"path": "/health", "interval": "300ms", "timeout": "400ms", "fall": 2},
            },
            "process": {"workers": self.processes, "drain_timeout": "10m"},
            "timeouts": {"server": f"{60 + number}s"},
        }

    def _write(
        self, balancer: Balancer, servers: Mapping[str, tuple[str, int]], number: int
    ) -> None:
        config = self._config(number)
        sections = {name: config.pop(name) for name in ("process", "timeouts")}
        log, bind = balancer.access_log, "127.0.0.1"
        text = configuration(servers, access_log=log, bind=bind, sections=sections, **config)
        new = balancer.config.with_suffix(".new")
        new.write_text(text)
        new.replace(balancer.config)
