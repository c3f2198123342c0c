"""Seeded faults of the scripted engine: which steps fail on purpose, and where."""

from __future__ import annotations

import hashlib
import json
import random
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_worker.models.base import StepRequest

# Requests whose attempts are counted. A forgotten one would fail in the same place again, so there
# are more than steps between two attempts of a turn.
_MAX_COUNTED = 4096


class Faults:
    """The same seed, requests and order of attempts give the same faults, on any worker.

    Each attempt is drawn independently, so that a retry can succeed.
    """

    def __init__(self, rate: float, seed: int) -> None:
        """`rate` is the share of attempts that fail, 0 to 1. Raises ValueError."""
        if not 0 <= rate <= 1:
            raise ValueError(f"the fault rate must be from 0 to 1, not {rate:g}")
        self._rate = rate
        self._seed = seed
        self._attempts: OrderedDict[str, int] = OrderedDict()

    def next_fault(self, request: StepRequest, pieces: int) -> int | None:
        """The number of pieces after which this attempt fails, 0 to `pieces`; None: it succeeds."""
        if not self._rate:
            return None
        key = _digest(request)
        attempt = self._attempts.pop(key, 0) + 1
        self._attempts[key] = attempt
        if len(self._attempts) > _MAX_COUNTED:
            self._attempts.popitem(last=False)
        rng = random.Random(f"{self._seed}:{key}:{attempt}")
        return rng.randint(0, pieces) if rng.random() < self._rate else None


def _digest(request: StepRequest) -> str:
    parts = [list(request.messages), request.prefix, request.session_id]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
