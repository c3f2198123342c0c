"""A reader's patience with Redis: retries with backoff, for as long as a turn itself would wait."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_worker.errors import StoreUnavailable

# Seconds. The first pause and the longest; each is drawn from its upper half, so that the streams
# that one outage has hit do not come back at one moment.
_FIRST_S, _LONGEST_S = 0.1, 1.0


class Outage:
    """One reader's. `bound_s`: how long Redis may be away before it gives up.

    The lease is the right bound: until it is over, the turn that is read may itself go on.
    """

    def __init__(self, bound_s: float) -> None:
        self._bound_s = bound_s
        self._clock = asyncio.get_running_loop().time
        self._failures = 0
        self._give_up_at = self._clock() + bound_s

    def over(self) -> None:
        """Redis has answered."""
        self._failures = 0
        self._give_up_at = self._clock() + self._bound_s

    def pause_s(self, error: StoreUnavailable) -> float:
        """How long to wait before the next try. Raises `error` beyond the bound."""
        if self._clock() >= self._give_up_at:
            raise error
        longest = min(_FIRST_S * 2.0**self._failures, _LONGEST_S)
        self._failures = min(self._failures + 1, 16)
        return random.uniform(longest / 2, longest)
