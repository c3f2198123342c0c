"""What a run found: every round's sample, medians, spreads, and what went wrong."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from bench.live.cases.base import FOREIGN, FOREIGN_LIMIT, Sample
from bench.live.spread import LIMIT, is_wide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Results:
    """Samples by case, peer and round, in the order measured. Medians are taken over the rounds."""

    def __init__(self, order: Sequence[str] = ()) -> None:
        """`order`: of the peers, in tables."""
        self._order = list(order)
        self._samples: dict[tuple[str, str], dict[int, Sample]] = defaultdict(dict)
        self.problems: list[str] = []  # "case, peer: what"; failures and doubts alike

    @classmethod
    def from_json(cls, cases: Mapping[str, Any]) -> Results:
        """The inverse of `to_json`."""
        results = cls()
        for case, peers in cases.items():
            for peer, found in peers.items():
                for number, values in found["rounds"].items():
                    results.add(case, peer, Sample(values), int(number))
        return results

    def add(self, case: str, peer: str, sample: Sample, number: int = 1) -> None:
        """`number`: of the round."""
        self._samples[case, peer][number] = sample
        self.problems += [f"{case}, {peer}: {warning}" for warning in sample.warnings]

    def fail(self, case: str, peer: str, error: Exception) -> None:
        self.problems.append(f"{case}, {peer}: FAILED: {error}")

    def cases(self) -> list[str]:
        return list(dict.fromkeys(case for case, _ in self._samples))

    def peers(self, case: str) -> list[str]:
        measured = [peer for each, peer in self._samples if each == case]
        known = [peer for peer in self._order if peer in measured]
        return [*known, *(peer for peer in measured if peer not in known)]

    def values(self, case: str, peer: str, metric: str) -> list[float]:
        """One value a round."""
        return list(self._by_round(case, peer, metric).values())

    def median(self, case: str, peer: str, metric: str) -> float | None:
        return _median(self.values(case, peer, metric))

    def ratios(self, case: str, peer: str, metric: str, to: str) -> list[float]:
        """`peer`'s value over `to`'s of the same round, for the rounds that have both."""
        bases = self._by_round(case, to, metric)
        return [
            value / bases[number]
            for number, value in self._by_round(case, peer, metric).items()
            if bases.get(number)
        ]

    def figures(self, case: str, peer: str, metric: str, to: str | None) -> list[float]:
        """`ratios` to `to`, or `values` where it is None."""
        return self.ratios(case, peer, metric, to) if to else self.values(case, peer, metric)

    def ratio(self, case: str, peer: str, metric: str, to: str) -> float | None:
        """The median of `ratios`; None where there are none."""
        return _median(self.ratios(case, peer, metric, to))

    def doubt(self, case: str, peer: str, metric: str, to: str | None) -> str | None:
        """Why the figure, or its ratio to that of `to`, is not to be relied on; None if it is."""
        for each in (peer, to) if to else (peer,):
            foreign = self.median(case, each, FOREIGN.key)
            if foreign is not None and foreign > FOREIGN_LIMIT:
                return f"noisy: others used {foreign:.0%} of a core"
        is_noisy = is_wide(self.figures(case, peer, metric, to))
        return f"noisy: not known within {LIMIT:.0%}" if is_noisy else None

    def to_json(self) -> dict[str, Any]:
        """case -> peer -> {"median": {metric: value}, "rounds": {number: {metric: value}}}."""
        found: dict[str, Any] = {}
        for (case, peer), samples in self._samples.items():
            keys = dict.fromkeys(key for sample in samples.values() for key in sample.values)
            found.setdefault(case, {})[peer] = {
                "median": {key: self.median(case, peer, key) for key in keys},
                "rounds": {number: sample.values for number, sample in samples.items()},
            }
        return found

    def _by_round(self, case: str, peer: str, metric: str) -> dict[int, float]:
        samples = self._samples.get((case, peer), {})
        return {
            number: sample.values[metric]
            for number, sample in samples.items()
            if metric in sample.values
        }


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
