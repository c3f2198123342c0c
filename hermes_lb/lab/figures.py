"""The figures of a run by which strategies are compared, with their units."""

from __future__ import annotations

from math import inf, isnan
from statistics import fmean
from typing import TYPE_CHECKING, Final, NamedTuple

from hermes_lb.lab.intervals import jain
from hermes_lb.lab.measures import rank
from hermes_lb.lab.recording import uncached
from hermes_lb.lab.report import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hermes_lb.lab.llm import Model
    from hermes_lb.lab.measures import Measures
    from hermes_lb.lab.workloads import Workload


class Figure(NamedTuple):
    title: str
    unit: str  # "s", "%" or none
    is_better_low: bool = True


FIGURES: Final = {
    "latency_mean": Figure("response time, mean", "s"),
    "latency_p99": Figure("response time, p99", "s"),
    "first_mean": Figure("time to first token, mean", "s"),
    "first_p99": Figure("time to first token, p99", "s"),
    "session_mean": Figure("time per session, mean", "s"),
    "cached": Figure("input tokens found in cache", "%", is_better_low=False),
    "fairness": Figure("fairness over sessions (Jain)", "", is_better_low=False),
    "moved": Figure("turns that moved", "%"),
    "errors": Figure("errors", "%"),
    "imbalance": Figure("imbalance", ""),
}
#: Sessions start one after the other, so a run begins empty: what arrives in this first part of it
#: is not counted, nor what arrives after the last session's start.
_WARM_UP: Final = 0.2


class Yardstick:
    """What a workload's requests would take alone, and which of them count: computed once."""

    def __init__(self, workload: Workload, model: Model | None) -> None:
        self.workload = workload
        tokens, lengths = workload.tokens, workload.lengths
        self.input = sum(tokens.inputs) if tokens is not None else 0
        if tokens is None or model is None:
            self.alone: Sequence[float] = lengths
            return
        stops: dict[int, dict[int, int]] = {}
        self.alone = [
            model.alone(
                uncached(
                    tokens.inputs[i], tokens.blocks[i], stops.setdefault(workload.users[i], {})
                ),
                tokens.outputs[i],
            )
            for i in range(len(lengths))
        ]

    def figures(self, measures: Measures, *, has_warm_up: bool) -> dict[str, float]:
        """All of `FIGURES`; infinite times if nothing was served."""
        workload, horizon = self.workload, self.workload.horizon
        begin, end = (_WARM_UP * horizon, horizon) if has_warm_up else (-inf, inf)
        arrivals, latencies = measures.arrivals, measures.latencies
        counted = [i for i, at in enumerate(arrivals) if begin <= at <= end]
        times = sorted(latencies[i] for i in counted if not isnan(latencies[i]))
        firsts = sorted(measures.firsts[i] for i in counted if not isnan(measures.firsts[i]))
        tokens = workload.tokens
        total = sum(tokens.inputs[i] for i in counted) if tokens is not None else 0
        samples = [s for s in measures.samples if s["mean"] > 0 and begin <= s["at"] <= end]
        sent = sum(measures.counts)
        return {
            "latency_mean": fmean(times) if times else inf,
            "latency_p99": times[rank(len(times), 99)] if times else inf,
            "first_mean": fmean(firsts) if firsts else inf,
            "first_p99": firsts[rank(len(firsts), 99)] if firsts else inf,
            **self._of_sessions(measures, begin, end),
            "cached": sum(measures.cached[i] for i in counted) / total if total else 0.0,
            "moved": measures.moved / sent if sent else 0.0,
            "errors": 1.0 - len(times) / len(counted) if counted else 0.0,
            "imbalance": fmean(s["most"] / s["mean"] for s in samples) if samples else 1.0,
        }

    def _of_sessions(self, measures: Measures, begin: float, end: float) -> dict[str, float]:
        """Of those that began in the counted time and had no error."""
        users, alone = self.workload.users, self.alone
        count = len(self.workload.addresses)
        took, least = [0.0] * count, [0.0] * count
        starts, ends = [inf] * count, [-inf] * count
        for i, latency in enumerate(measures.latencies):
            user, at = users[i], measures.arrivals[i]
            took[user] += latency  # NaN remains
            least[user] += alone[i]
            starts[user] = min(starts[user], at)
            ends[user] = max(ends[user], at + latency)
        counted = [
            user for user in range(count) if begin <= starts[user] <= end and took[user] > 0.0
        ]
        if not counted:
            return {"session_mean": inf, "fairness": 1.0}
        return {
            "session_mean": fmean(ends[user] - starts[user] for user in counted),
            "fairness": jain([least[user] / took[user] for user in counted]),
        }


def shown(name: str, value: float) -> str:
    """With its unit."""
    unit = FIGURES[name].unit
    if value == inf:
        return "-"
    if unit == "s":
        return seconds(value)
    return f"{value:.1%}" if unit == "%" else f"{value:.3f}"
