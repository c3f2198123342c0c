"""Runs that claims are checked by: one strategy beside another, on the same workloads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING

from hermes_lb.lab import traces
from hermes_lb.lab.experiment import Experiment
from hermes_lb.lab.traffic import RecordedTraffic, ScenarioTraffic, Setup

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hermes_lb.lab.recording import Recording
    from hermes_lb.lab.traffic import Traffic

SERVERS = 4


@dataclass(frozen=True, slots=True)
class Lab:
    """`folder` has the published traces, by their usual names; `seeds` is the number of pairs."""

    folder: Path
    seeds: int = 5

    def recorded(self, name: str, requests: int, setup: Setup) -> Traffic:
        """The first sessions of a trace, with this number of requests."""
        return RecordedTraffic(self.recording(name, requests), name, setup)

    def recording(self, name: str, requests: int) -> Recording:
        return _read(self.folder, name).first(requests)

    def pairs(
        self,
        traffic: Traffic,
        setup: Setup,
        figure: str,
        strategies: tuple[str, str],
        servers: int = SERVERS,
    ) -> tuple[list[float], list[float]]:
        """The figure of both strategies, for each seed's workload."""
        experiment = Experiment(strategies, servers, setup=setup)
        found = [
            experiment.figures(traffic, seed, servers, None) for seed in range(1, self.seeds + 1)
        ]
        one, two = strategies
        return [run[one][figure] for run in found], [run[two][figure] for run in found]

    def capacities(
        self,
        traffic: Traffic,
        setup: Setup,
        strategies: tuple[str, str],
        loads: Sequence[float],
        most: float,
    ) -> tuple[list[float], list[float]]:
        """The highest of the loads at which the p99 time to first token is below `most` seconds,
        and at all lower ones, for each seed."""
        experiment = Experiment(strategies, SERVERS, setup=setup)
        found: dict[str, list[float]] = {name: [] for name in strategies}
        for seed in range(1, self.seeds + 1):
            reached = dict.fromkeys(strategies, 0.0)
            holds = dict.fromkeys(strategies, True)
            for load in loads:
                for name, figures in experiment.figures(traffic, seed, SERVERS, load).items():
                    holds[name] &= figures["first_p99"] < most
                    if holds[name]:
                        reached[name] = load
            for name, load in reached.items():
                found[name].append(load or loads[0] / 2.0)
        return found[strategies[0]], found[strategies[1]]

    def scenario(self, name: str, requests: int, setup: Setup) -> Traffic:
        return ScenarioTraffic(name, requests, setup)


@lru_cache(maxsize=4)
def _read(folder: Path, name: str) -> Recording:
    return traces.read(folder / name)


PATIENT = inf  # seconds in the balancer's queue: no run is cut short by it
