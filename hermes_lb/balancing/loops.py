"""Picks by a loop over all candidates, as nginx makes them: for a few servers nothing is faster."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_lb.backends import Server


def least_loaded(candidates: Iterable[Server]) -> Server:
    """The candidate with the lowest load for its weight, of equals the one whose turn it is; there
    must be at least one."""
    least = inf
    tied: list[Server] = []
    for server in candidates:
        load = (server.in_flight + server.queued) / server.weight
        if load < least:
            least = load
            tied = [server]
        elif load == least:
            tied.append(server)
    return tied[0] if len(tied) == 1 else next_by_wrr(tied)


def next_by_wrr(candidates: Iterable[Server]) -> Server:
    """The candidate with the most credit, which pays for it; there must be at least one."""
    total = most = 0.0
    best: Server | None = None
    for server in candidates:
        gain = server.effective_weight
        server.current_weight = credit = server.current_weight + gain
        total += gain
        if credit > most or best is None:
            best, most = server, credit
        if gain != server.weight:
            server.effective_weight = gain + 1
    assert best is not None
    best.current_weight = most - total
    return best
