"""Several seeds at several loads and fleet sizes, with all strategies."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from hermes_lb.lab.figures import FIGURES
from hermes_lb.lab.intervals import estimate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hermes_lb.lab.experiment import Experiment
    from hermes_lb.lab.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Sweep:
    """Points to run: each load with the usual fleet, and each fleet with the usual load."""

    loads: Sequence[float] = ()
    fleets: Sequence[int] = ()

    def points(self, servers: int) -> list[tuple[float | None, int]]:
        """Loads and servers; the first one is the usual of both."""
        more = [(load, servers) for load in self.loads]
        return [(None, servers), *more, *((None, fleet) for fleet in self.fleets)]


def study(
    experiment: Experiment, traffic: Traffic, seeds: int, sweep: Sweep
) -> Iterator[dict[str, Any]]:
    """A point after the other, as JSON: `load` (None: the traffic's own), `servers`, and `runs`:
    by strategy and figure, a value of each seed."""
    for load, servers in sweep.points(experiment.servers):
        runs: dict[str, dict[str, list[float]]] = {
            name: {figure: [] for figure in FIGURES} for name in experiment.strategies
        }
        for seed in range(experiment.seed, experiment.seed + seeds):
            for name, figures in experiment.figures(traffic, seed, servers, load).items():
                for figure, value in figures.items():
                    runs[name][figure].append(value if isfinite(value) else -1.0)
        yield {"load": load, "servers": servers, "runs": runs}


def means(point: dict[str, Any], figure: str) -> dict[str, tuple[float, float]]:
    """By strategy: the mean over the seeds, and half of its interval's width."""
    return {
        name: (found.mean, found.half)
        for name, found in ((name, estimate(runs[figure])) for name, runs in point["runs"].items())
    }
