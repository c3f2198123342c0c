"""Measurements during a run, and their summary."""

from __future__ import annotations

from array import array
from collections import Counter
from math import isnan, nan
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PERCENTILES: Final = (50, 90, 99, 99.9)
# Up to this number of servers, the requests in flight of each are kept, for the plots.
MOST_LINES: Final = 12


class Measures:
    """Times in seconds, by request number; NaN if missing."""

    def __init__(self, servers: int, requests: int) -> None:
        self.latencies = array("d", [nan]) * requests  # arrival to end
        self.arrivals = array("d", [nan]) * requests  # since the start
        self.firsts = array("d", [nan]) * requests  # arrival to first byte
        self.waits = array("d", [nan]) * requests  # arrival to the start of the work
        self.counts = [0] * servers
        self.peak = 0
        self.served = 0
        self.refused = 0  # connections; most are retried elsewhere
        self.moved = 0  # requests of a user whose previous one was on another server
        self.cached = array("L", [0]) * requests  # input tokens found in a prefix cache
        self.errors: Counter[str] = Counter()
        self.samples: list[dict[str, Any]] = []
        self._counts_before = [0] * servers

    @property
    def ended(self) -> int:
        return self.served + self.errors.total()

    def sent(self, place: int, in_flight: int) -> None:
        """A request goes to the server of this index; it is counted in `in_flight`."""
        self.counts[place] += 1
        if in_flight > self.peak:
            self.peak = in_flight

    def failed(self, number: int, kind: str) -> None:
        """It ended without a good response; a partial one does not count."""
        self.errors[kind] += 1
        self.firsts[number] = nan

    def sample(self, now: float, loads: Sequence[int], every: Sequence[int]) -> None:
        """Record requests in flight, of servers in rotation and of all, and requests since the last
        sample."""
        loads = loads or [0]
        recent = [a - b for a, b in zip(self.counts, self._counts_before, strict=True)]
        self._counts_before = list(self.counts)
        sample: dict[str, Any] = {
            "at": round(now, 6),
            "servers": len(loads),
            "least": min(loads),
            "mean": round(fmean(loads), 4),
            "most": max(loads),
            "most_share": round(max(recent) / sum(recent), 5) if any(recent) else 0.0,
        }
        if len(every) <= MOST_LINES:
            sample["in_flight"] = list(every)
            sample["sent"] = recent
        self.samples.append(sample)

    def summary(self) -> dict[str, Any]:
        """JSON, byte for byte the same for the same run."""
        total = sum(self.counts)
        shares = [count / total if total else 0.0 for count in self.counts]
        loaded = [s for s in self.samples if s["mean"] > 0]
        return {
            "requests": len(self.latencies),
            "served": self.served,
            "errors": dict(sorted(self.errors.items())),
            "refused": self.refused,
            "moved": self.moved,
            "in_flight_most": self.peak,
            "share_least": round(min(shares), 6),
            "share_most": round(max(shares), 6),
            # The fullest server over the average one, at an average time; 1 is even.
            "imbalance": round(fmean(s["most"] / s["mean"] for s in loaded), 4) if loaded else 1.0,
            "latency": percentiles(self.latencies),
            "first_token": percentiles(self.firsts),
            "wait": percentiles(self.waits),
            "shares": [round(share, 6) for share in shares],
            "samples": self.samples,
        }


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Mean and percentiles (nearest rank), in seconds; empty if there are no values."""
    ordered = sorted(v for v in values if not isnan(v))
    if not ordered:
        return {}
    found = {f"p{p:g}": ordered[rank(len(ordered), p)] for p in PERCENTILES}
    found["most"] = ordered[-1]
    return {"mean": round(fmean(ordered), 6), **{k: round(v, 6) for k, v in found.items()}}


def rank(count: int, percent: float) -> int:
    """The index of the percentile among `count` sorted values."""
    return max(0, min(count - 1, -int(-count * percent // 100) - 1))
