"""One traffic with several strategies: the same requests and events for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from hermes_lb.lab.engine import SAMPLES, Run
from hermes_lb.lab.figures import Yardstick
from hermes_lb.lab.fleet import maker
from hermes_lb.lab.traffic import ScenarioTraffic, Setup
from hermes_lb.lab.why import Why

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hermes_lb.lab.fleet import Fleet
    from hermes_lb.lab.traffic import Traffic
    from hermes_lb.lab.workloads import Workload

    Progress = Callable[[str, str, float], None]  # scenario, strategy, share done
    Figures = dict[str, float]


@dataclass(slots=True)
class Experiment:
    """The parameters of a run, which is deterministic."""

    strategies: Sequence[str]
    servers: int = 10
    requests: int = 20_000
    seed: int = 1
    why: int | None = None  # the number of the request to explain, from 1
    setup: Setup = field(default_factory=Setup)
    progress: Progress = field(default=lambda *_: None)
    finished: Callable[[str, str], None] = field(default=lambda *_: None)  # scenario, strategy

    def scenario(self, name: str) -> dict[str, Any]:
        """A scenario by its name, as JSON."""
        return self.play(ScenarioTraffic(name, self.requests, self.setup))

    def play(self, traffic: Traffic) -> dict[str, Any]:
        """The whole of one run for each strategy, as JSON."""
        workload = traffic.workload(self.seed, self.servers, None, is_drawn=False)
        yardstick = Yardstick(workload, traffic.model)
        results: dict[str, Any] = {}
        decisions: dict[str, list[str]] = {}
        marks: list[tuple[float, str]] = []
        for strategy in self.strategies:
            fleet = traffic.fleet(self.servers, workload.horizon)
            marks = fleet.marks
            run = self._run(traffic, strategy, self.seed, fleet, workload)
            run.progress = lambda ended, strategy=strategy: self.progress(
                traffic.name, strategy, ended / len(workload.arrivals)
            )
            why = Why(run, self.why - 1) if self.why is not None else None
            measures = run.play(fleet.changes)
            figures = yardstick.figures(measures, has_warm_up=traffic.is_recorded)
            results[strategy] = measures.summary() | {"figures": rounded(figures)}
            self.finished(traffic.name, strategy)
            if why is not None:
                decisions[strategy] = why.lines
        return (
            traffic.described(self.servers)
            | {
                "servers": self.servers,
                "requests": len(workload.arrivals),
                "seed": self.seed,
                "seconds": round(workload.horizon, 6),
                "marks": marks,
                "samples": SAMPLES,
                "balancers": self.setup.balancers,
                "share": self.setup.share,
                "strategies": results,
            }
            | ({"why": decisions} if decisions else {})
        )

    def figures(
        self, traffic: Traffic, seed: int, servers: int, load: float | None
    ) -> dict[str, Figures]:
        """Of one seed's workload, by strategy."""
        workload = traffic.workload(seed, servers, load, is_drawn=True)
        yardstick = Yardstick(workload, traffic.model)
        found: dict[str, Figures] = {}
        for strategy in self.strategies:
            fleet = traffic.fleet(servers, workload.horizon)
            run = self._run(traffic, strategy, seed, fleet, workload)
            measures = run.play(fleet.changes)
            found[strategy] = rounded(yardstick.figures(measures, has_warm_up=traffic.is_recorded))
        return found

    def _run(
        self, traffic: Traffic, strategy: str, seed: int, fleet: Fleet, workload: Workload
    ) -> Run:
        rng = Random(f"{seed} {strategy}")
        timeout = self.setup.queue_timeout
        return fleet.run(
            maker(strategy), workload, rng, sticky=traffic.sticky, queue_timeout=timeout
        )


def rounded(figures: Figures) -> Figures:
    return {name: round(value, 6) for name, value in figures.items()}
