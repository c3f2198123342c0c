"""What a run found: every round's sample, medians, spreads, and what went wrong."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.live.cases.base import Sample


class Results:
    """Samples by case and peer, in the order measured. Medians are taken over the rounds."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
        self.problems: list[str] = []  # "case, peer: what"; failures and doubts alike

    def add(self, case: str, peer: str, sample: Sample) -> None:
        self._samples[case, peer].append(sample)
        self.problems += [f"{case}, {peer}: {warning}" for warning in sample.warnings]

    def fail(self, case: str, peer: str, error: Exception) -> None:
        self.problems.append(f"{case}, {peer}: FAILED: {error}")

    def cases(self) -> list[str]:
        return list(dict.fromkeys(case for case, _ in self._samples))

    def peers(self, case: str) -> list[str]:
        return [peer for each, peer in self._samples if each == case]

    def values(self, case: str, peer: str, metric: str) -> list[float]:
        """One value a round."""
        samples = self._samples.get((case, peer), [])
        return [sample.values[metric] for sample in samples if metric in sample.values]

    def median(self, case: str, peer: str, metric: str) -> float | None:
        values = self.values(case, peer, metric)
        return statistics.median(values) if values else None

    def ratio(self, case: str, peer: str, metric: str, to: str) -> float | None:
        """`peer`'s median over `to`'s, or None where either is missing or zero."""
        value, base = self.median(case, peer, metric), self.median(case, to, metric)
        return value / base if value is not None and base else None

    def to_json(self) -> dict[str, Any]:
        """case -> peer -> {"median": {metric: value}, "rounds": [{metric: value}]}."""
        found: dict[str, Any] = {}
        for (case, peer), samples in self._samples.items():
            keys = dict.fromkeys(key for sample in samples for key in sample.values)
            found.setdefault(case, {})[peer] = {
                "median": {key: self.median(case, peer, key) for key in keys},
                "rounds": [sample.values for sample in samples],
            }
        return found
