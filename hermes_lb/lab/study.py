"""Several seeds at several loads and fleet sizes, with all strategies."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.lab.figures import FIGURES
from hermes_lb.lab.summary import GOAL, summary

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


ONE_POINT: Final = Sweep()


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
                    runs[name][figure].append(_finite(value))
        yield {"load": load, "servers": servers, "runs": runs}


def compared(
    experiment: Experiment,
    traffic: Traffic,
    seeds: int = 1,
    sweep: Sweep = ONE_POINT,
    goal: str = GOAL,
) -> dict[str, Any]:
    """One run in full; `points`: the figures of all seeds; and the `summary` that follows."""
    result = experiment.play(traffic)
    if seeds > 1 or sweep != ONE_POINT:
        points = list(study(experiment, traffic, seeds, sweep))
    else:
        runs = {
            name: {figure: [_finite(value)] for figure, value in row["figures"].items()}
            for name, row in result["strategies"].items()
        }
        points = [{"load": None, "servers": experiment.servers, "runs": runs}]
    for row in result["strategies"].values():
        row["figures"] = {name: _finite(value) for name, value in row["figures"].items()}
    return result | {"points": points, "summary": summary(points, goal)}


def _finite(value: float) -> float:
    """-1 for infinity, which JSON does not have: nothing was served."""
    return value if isfinite(value) else -1.0
