"""Why a server was picked, in words: what every strategy's `explain` is written with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.request import Request

_MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class View:
    """The state just before a pick. `rng`: a copy of the random numbers that the pick will draw."""

    pool: Pool
    request: Request
    now: float
    candidates: Sequence[Server]
    rng: Random


class Explanation(NamedTuple):
    """`rows`: the servers that were compared, best first or in the order in which they were drawn
    or asked, each with words that begin with a comma, or none. `because` completes a sentence that
    begins with the name of the picked server. `fact` stands before it."""

    rows: list[tuple[Server, str]]
    because: str
    fact: str = ""


def explain_turns(
    view: View,
    credits_of: Callable[[Sequence[Server]], Mapping[Server, float]],
    *,
    by_load: bool,
) -> Explanation:
    """Smooth weighted round-robin: of all candidates, or of those with the least load. Call it
    before the pick, which changes the credits."""
    candidates, credit = view.candidates, credits_of(view.candidates)
    loads = {s: s.load / s.weight if by_load else 0.0 for s in candidates}
    total = {s: credit[s] + s.effective_weight for s in candidates}
    least = min(loads.values(), default=0.0)
    ties = [s for s in candidates if loads[s] == least]
    rows = []
    for server in sorted(candidates, key=lambda s: (loads[s], -total[s])):
        text = for_weight(loads[server], server) if by_load else ""
        if loads[server] == least and (len(ties) > 1 or not by_load):
            gain = server.effective_weight
            text += f", credit {credit[server]:g} + {gain:g} = {total[server]:g}"
        rows.append((server, text))
    if len(ties) <= 1:
        return Explanation(
            rows, "is the only one with so little" if by_load else "is the only one that can"
        )
    compared = f"the {len(ties)} with the least" if by_load else f"all {len(ties)}"
    most = max(total[s] for s in ties)
    richest = sum(total[s] == most for s in ties)
    if richest == 1:
        return Explanation(rows, f"has the turn: of {compared} it has the most credit")
    return Explanation(
        rows,
        f"has the turn: of {compared}, {richest} have the most credit; it is configured first",
    )


def for_weight(load: float, server: Server) -> str:
    """A load that was divided by the server's weight."""
    return "" if server.weight == 1 else f", {load:.4g} for its weight"


def drawn(servers: Sequence[Server]) -> str:
    return "drawn: " + " ".join(server.name for server in servers) if servers else ""


def hindrance(server: Server, view: View) -> str:
    """Why it is no candidate; empty if it is one."""
    if server in view.candidates:
        return ""
    if server.state != "up":
        return f", cannot take it: {server.state}"
    if not server.weight:
        return ", cannot take it: its weight is 0"
    return f", cannot take it: {'full' if server.is_full else 'it has failed'}"


def names(servers: Sequence[Server]) -> str:
    """The first few, and how many more there are."""
    first = " ".join(server.name for server in servers[:_MOST_NAMES])
    more = len(servers) - _MOST_NAMES
    return f"{first} and {more} more" if more > 0 else first
