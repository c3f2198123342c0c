"""Smooth weighted round-robin, of all servers or of the least loaded: the base of `round_robin` and
`leastconn`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hermes_lb.balancing.base import NO_OPTIONS, Strategy, StrategyOptions
from hermes_lb.balancing.explanation import explain_turns
from hermes_lb.balancing.load_heap import LoadHeap
from hermes_lb.balancing.smooth_wrr import FEW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.explanation import Explanation, View

# Sums of such weights, and their products with counts, are never rounded.
_EXACT = 16


class InTurn(Strategy):
    """It keeps a heap of many servers, which `pick` has to `_refresh` when `_version` is not the
    pool's."""

    by_load: ClassVar[bool]

    def __init__(self, options: StrategyOptions = NO_OPTIONS) -> None:
        self._heap: LoadHeap | None = None
        self._version = -1

    def detach(self, pool: Pool) -> None:
        """Write the credits back and drop the heap, until the next pick."""
        if self._heap is not None:
            self._heap.settle()
        self._heap = None
        self._version = -1

    def credits(self, servers: Iterable[Server]) -> dict[Server, float]:
        """The credit of each before a pick, which adds the effective weights first; it changes
        nothing."""
        known = self._heap.credits() if self._heap is not None else {}
        return {server: known.get(server, server.current_weight) for server in servers}

    def explain(self, view: View) -> Callable[[Server], Explanation]:
        explanation = explain_turns(view, self.credits, by_load=self.by_load)
        return lambda picked: explanation

    def _refresh(self, pool: Pool) -> None:
        """Set the heap; None: a loop is as fast, or the picks would differ from the loop's.

        The fractional weights of a slow start must be exact, or heaps would round differently.
        """
        if self._heap is None or not self._heap.follow():
            self.detach(pool)
            if len(pool.up) > FEW and not any(server.weight * _EXACT % 1 for server in pool.up):
                self._heap = LoadHeap(pool, by_load=self.by_load)
        self._version = pool.version
