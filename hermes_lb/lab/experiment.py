"""One scenario, or a trace, with several strategies: the same requests and events for each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from hermes_lb.balancing import STRATEGIES
from hermes_lb.lab.engine import SAMPLES, Run
from hermes_lb.lab.scenarios import SCENARIOS, Fleet, make_fleet
from hermes_lb.lab.why import Why

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hermes_lb.lab.trace import Trace
    from hermes_lb.lab.workloads import Workload

    Progress = Callable[[str, str, float], None]  # scenario, strategy, share done


@dataclass(slots=True)
class Experiment:
    """The parameters of a run, which is deterministic."""

    strategies: Sequence[str]
    servers: int = 10
    requests: int = 20_000
    seed: int = 1
    why: int | None = None  # the number of the request to explain, from 1
    progress: Progress = field(default=lambda *_: None)
    finished: Callable[[str, str], None] = field(default=lambda *_: None)  # scenario, strategy

    def scenario(self, name: str) -> dict[str, Any]:
        """A scenario by its name, as JSON."""
        scenario = SCENARIOS[name]
        workload = scenario.workload(self.seed, self.requests, self.servers)
        result = {
            "scenario": name,
            "text": scenario.text,
            "lengths": scenario.lengths.text,
            "load": scenario.load,
            "slots": scenario.slots,
        }
        return result | self._compare(
            name, workload, lambda: scenario.fleet(self.servers, workload.horizon), scenario.sticky
        )

    def trace(self, trace: Trace, name: str) -> dict[str, Any]:
        """A trace's requests, as JSON; with the servers that the log names."""
        logged = Counter(trace.servers)
        total = len(trace.servers)
        result = {
            "scenario": name,
            "text": _of_a_trace(trace),
            "lengths": "as they were",
            "slots": 0,
            "logged_shares": {
                server: round(logged[server] / total, 6) for server in sorted(logged)
            },
        }
        return result | self._compare(
            name, trace.workload, lambda: make_fleet(self.servers, 0), False
        )

    def _compare(
        self, name: str, workload: Workload, make: Callable[[], Fleet], sticky: bool
    ) -> dict[str, Any]:
        results: dict[str, Any] = {}
        decisions: dict[str, list[str]] = {}
        marks: list[tuple[float, str]] = []
        for strategy in self.strategies:
            fleet = make()
            marks = fleet.marks
            run = self._run(strategy, fleet, workload, sticky)
            run.progress = lambda ended, strategy=strategy: self.progress(
                name, strategy, ended / len(workload.arrivals)
            )
            why = Why(run, self.why - 1) if self.why is not None else None
            results[strategy] = run.play(fleet.changes).summary()
            self.finished(name, strategy)
            if why is not None:
                decisions[strategy] = why.lines
        return {
            "servers": self.servers,
            "requests": len(workload.arrivals),
            "seed": self.seed,
            "seconds": round(workload.horizon, 6),
            "marks": marks,
            "samples": SAMPLES,
            "strategies": results,
        } | ({"why": decisions} if decisions else {})

    def _run(self, strategy: str, fleet: Fleet, workload: Workload, sticky: bool) -> Run:
        return Run(
            fleet.pool,
            fleet.machines,
            STRATEGIES[strategy](),
            workload,
            Random(f"{self.seed} {strategy}"),
            sticky=sticky,
        )


def _of_a_trace(trace: Trace) -> str:
    """The played part of the log, in a sentence or two."""
    text = f"{len(trace.servers)} requests of a trace; {trace.skipped} lines could not be used"
    if trace.apart:
        text += f", and {trace.apart} are a week or more away from the others"
    if len(trace.backends) > 1:
        text += f". One pool serves the backends {', '.join(trace.backends)}; --backend takes one"
    return f"{text}."
