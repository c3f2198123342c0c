"""What the tests of the laboratory share: one run, put together by hand."""

from __future__ import annotations

from random import Random
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from hermes_lb.balancing import STRATEGIES
from hermes_lb.lab.fleet import make_fleet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.balancing import Strategy, StrategyOptions
    from hermes_lb.lab.engine import Run
    from hermes_lb.lab.fleet import Fleet
    from hermes_lb.lab.workloads import Workload


def make_run(
    strategy: str,
    workload: Workload,
    *,
    servers: int = 1,
    slots: int = 1,
    limit: int = 0,
    fleet: Fleet | None = None,
    options: StrategyOptions | None = None,
    seed: int = 1,
    sticky: bool = False,
    queue_timeout: float = float("inf"),
) -> Run:
    fleet = fleet or make_fleet(servers, slots, limit=limit)

    def make() -> Strategy:
        return STRATEGIES[strategy](options) if options else STRATEGIES[strategy]()

    return fleet.run(make, workload, Random(seed), sticky=sticky, queue_timeout=queue_timeout)


def mean_and_error(values: Sequence[float], batches: int = 20) -> tuple[float, float]:
    """The mean and its standard error by batch means, as neighbours in a queue depend on each
    other."""
    size = len(values) // batches
    means = [fmean(values[i * size : (i + 1) * size]) for i in range(batches)]
    return fmean(means), stdev(means) / batches**0.5
