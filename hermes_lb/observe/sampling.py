"""Sampling: which requests are logged if only a share of them is."""

from __future__ import annotations

# The fraction of the golden ratio: its multiples are spread most evenly of all numbers', and never
# fall into step with traffic that repeats itself, as each tenth request would.
_STEP = 0.6180339887498949


class Sampler:
    """Takes a `share` (0 to 1) of the normal requests, evenly spread; the same at each start.

    `slow`: seconds; a request whose response head takes longer is not normal.
    """

    __slots__ = ("_point", "share", "slow")

    def __init__(self, share: float, slow: float) -> None:
        self.share = share
        self.slow = slow
        self._point = 0.0

    def takes(self) -> bool:
        """Whether the next request is logged."""
        self._point = point = (self._point + _STEP) % 1.0
        return point < self.share


def sampler_of(share: float, slow: float) -> Sampler | None:
    """None: all requests are logged."""
    return Sampler(share, slow) if share < 1.0 else None
