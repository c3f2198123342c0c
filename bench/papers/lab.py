"""Runs that claims are checked by: one strategy beside another, on the same workload."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from hermes_lb.lab import traces
from hermes_lb.lab.experiment import Experiment
from hermes_lb.lab.traffic import RecordedTraffic, ScenarioTraffic, Setup

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hermes_lb.lab.experiment import Figures
    from hermes_lb.lab.recording import Recording
    from hermes_lb.lab.traffic import Traffic

    Point = tuple[Traffic, Setup, int, int, float | None]  # ..., seed, servers, load

SERVERS: Final = 4
PATIENT: Final = inf  # seconds in the balancer's queue: no run is cut short by it


class Pair(NamedTuple):
    """A figure of both, in the same workload."""

    baseline: float
    strategy: float


@dataclass(slots=True)
class Lab:
    """`folder` has the published traces, by their usual names.

    A strategy's run is made once, however many claims are about it.
    """

    folder: Path
    _traffics: dict[tuple[str, int, Setup], Traffic] = field(default_factory=dict)
    _runs: dict[Point, dict[str, Figures]] = field(default_factory=dict)

    def recorded(self, name: str, setup: Setup) -> Traffic:
        """A whole trace."""
        key = name, 0, setup
        if key not in self._traffics:
            self._traffics[key] = RecordedTraffic(self.recording(name), name, setup)
        return self._traffics[key]

    def recording(self, name: str) -> Recording:
        return _read(self.folder, name)

    def scenario(self, name: str, setup: Setup, requests: int) -> Traffic:
        key = name, requests, setup
        if key not in self._traffics:
            self._traffics[key] = ScenarioTraffic(name, requests, setup)
        return self._traffics[key]

    def pair(
        self,
        traffic: Traffic,
        setup: Setup,
        figure: str,
        strategies: tuple[str, str],
        seed: int,
        servers: int = SERVERS,
    ) -> Pair:
        """The figure of both strategies, in this seed's workload."""
        one, two = self._figures(traffic, setup, strategies, seed, servers, None)
        return Pair(one[figure], two[figure])

    def capacities(
        self,
        traffic: Traffic,
        setup: Setup,
        strategies: tuple[str, str],
        loads: Sequence[float],
        most: float,
        seed: int,
    ) -> Pair:
        """The highest of the loads at which the p99 time to first token is below `most` seconds,
        and at all lower ones."""
        reached = [0.0, 0.0]
        holds = [True, True]
        for load in loads:
            found = self._figures(traffic, setup, strategies, seed, SERVERS, load)
            for place, figures in enumerate(found):
                holds[place] &= figures["first_p99"] < most
                if holds[place]:
                    reached[place] = load
            if not any(holds):
                break
        return Pair(*(load or loads[0] / 2.0 for load in reached))

    def _figures(
        self,
        traffic: Traffic,
        setup: Setup,
        strategies: tuple[str, str],
        seed: int,
        servers: int,
        load: float | None,
    ) -> list[Figures]:
        known = self._runs.setdefault((traffic, setup, seed, servers, load), {})
        if missing := [name for name in strategies if name not in known]:
            experiment = Experiment(missing, servers, setup=setup)
            known |= experiment.figures(traffic, seed, servers, load)
        return [known[name] for name in strategies]


@lru_cache(maxsize=4)
def _read(folder: Path, name: str) -> Recording:
    return traces.read(folder / name)
