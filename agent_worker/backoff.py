"""Pauses between attempts: exponential backoff with jitter."""

from __future__ import annotations

import asyncio
import random

# Seconds, of a reader's first pause and of its longest.
_FIRST_S, _LONGEST_S = 0.1, 1.0


class Backoff:
    """Retries of one reader while a store is away. `bound_s`: the longest outage that it waits for.

    For a reader of events the length of a lease is the right bound: until then the turn that it
    follows may itself continue.
    """

    def __init__(self, bound_s: float) -> None:
        self._bound_s = bound_s
        self._clock = asyncio.get_running_loop().time
        self.reset()

    def reset(self) -> None:
        """The store has answered."""
        self._failures = 0
        self._give_up_at = self._clock() + self._bound_s

    def next_pause_s(self, error: Exception) -> float:
        """Seconds until the next attempt. Raises `error` once the bound is exceeded."""
        if self._clock() >= self._give_up_at:
            raise error
        self._failures = min(self._failures + 1, 16)
        return jittered(self._failures, _FIRST_S, _LONGEST_S)


def jittered(failures: int, first_s: float, longest_s: float) -> float:
    """The pause in seconds after `failures` failures in a row.

    Drawn from the upper half of an interval that doubles each time, so that the requests that one
    outage has failed do not return in the same moment.
    """
    longest = min(first_s * 2.0 ** (failures - 1), longest_s)
    return random.uniform(longest / 2, longest)
