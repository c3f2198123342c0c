"""What each strategy went by when it picked: its numbers, for those that it compared, in words."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from hermes_lb.balancing import (
    AtRandom,
    ConsistentHash,
    IpHash,
    LeastConn,
    LeastLoad,
    Maglev,
    PeakEwma,
    PowerOfTwo,
    Prequal,
    RoundRobin,
)
from hermes_lb.balancing.least_load import COMPARED
from hermes_lb.balancing.peak_ewma import UNKNOWN
from hermes_lb.balancing.prequal import MAX_AGE, QUANTILE
from hermes_lb.balancing.response_times import PENALTY, seconds_after_failure
from hermes_lb.config import StrategyOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hermes_lb.backends import Pool, Server
    from hermes_lb.balancing.prequal import Probed
    from hermes_lb.lab.engine import Job

_MOST_NAMES = 3

RULES: dict[type, str] = {
    RoundRobin: "each in turn: every candidate gains its weight as credit, the richest is picked "
    "and pays what all have gained",
    LeastConn: "the fewest in flight for its weight; of equals the one whose turn it is: each of "
    "them gains its weight as credit, the richest is picked and pays what all have gained",
    IpHash: "the hash of the client's network, whatever the loads are",
    AtRandom: "one draw, by weight, whatever the loads are",
    ConsistentHash: "the key's own server, or the next on the ring while one is over the bound",
    Maglev: "the key's own server, or its next entry while one is over the bound",
    PowerOfTwo: "the less loaded of two that were drawn, of equals the first",
    PeakEwma: "of two drawn the first, unless the second's cost is lower by more than a tenth; "
    "cost = average time to first byte x (in flight for its weight + 1)",
    Prequal: "of those probed that are not hot the lowest latency; "
    "latency = average time to first byte x (in flight for its weight + 1)",
    LeastLoad: "the least load for its weight, as servers report it, of all up to "
    f"{COMPARED} servers, or else of {COMPARED} drawn",
}


@dataclass(frozen=True, slots=True)
class View:
    """What there was just before the pick."""

    pool: Pool
    strategy: Any  # one of `RULES`
    job: Job
    now: float
    candidates: Sequence[Server]
    able: frozenset[Server]  # the same
    drawn: Sequence[Server]  # in order, each once
    turns: dict[Server, tuple[float, float]]  # the credit that each has, and what it gains


@dataclass(slots=True)
class Told:
    """What is said of a pick."""

    rows: list[tuple[Server, str]]  # who was compared, and what of it
    because: str
    fact: str = ""


# By strategy: the view, and who was picked -> what is told of it.


def _by_turns(view: View, picked: Server) -> Told:
    """Of all for `RoundRobin`; of those with the least load for `LeastConn`."""
    by_load = isinstance(view.strategy, LeastConn)
    loads = {s: s.load / s.weight if by_load else 0.0 for s in view.candidates}
    held = {s: sum(view.turns[s]) for s in view.candidates}
    least = min(loads.values())
    ties = [s for s in view.candidates if loads[s] == least]
    order = sorted(view.candidates, key=lambda s: (loads[s], -held[s]))
    rows = []
    for server in order:
        text = _for_weight(loads[server], server) if by_load else ""
        if loads[server] == least and (len(ties) > 1 or not by_load):
            has, gains = view.turns[server]
            text += f", credit {has:g} + {gains:g} = {has + gains:g}"
        rows.append((server, text))
    if len(ties) == 1:
        return Told(
            rows, "is the only one with so little" if by_load else "is the only one that can"
        )
    those = f"the {len(ties)} with the least" if by_load else f"all {len(ties)}"
    most = max(held[s] for s in ties)
    rich = sum(held[s] == most for s in ties)
    if rich == 1:
        return Told(rows, f"has the turn: of {those} it has the most credit")
    because = f"has the turn: of {those}, {rich} have the most credit; it is configured first"
    return Told(rows, because)


def _by_network(view: View, picked: Server) -> Told:
    asked: list[Server] = []
    for server in view.strategy.asked(view.pool, view.job.client_address):
        if server not in asked:
            asked.append(server)
        if server is picked:
            because = "has the hash of the client's network"
            if len(asked) > 1:
                because += f"; by the hash {len(asked) - 1} came before it that cannot take it"
            return Told([(server, _hindrance(server, view)) for server in asked], because)
    told = _by_turns(view, picked)
    if asked:
        told.fact = f"the hash has come upon {names(asked)}, none of which can take it: in turn"
    return told


def _by_lot(view: View, picked: Server) -> Told:
    rows = [(server, "") for server in view.drawn]
    return Told(rows, "was drawn", _drawn_in_words(view))


def _by_two(view: View, picked: Server) -> Told:
    loads = [server.load / server.weight for server in view.drawn]
    rows = [(s, _for_weight(load, s)) for s, load in zip(view.drawn, loads, strict=True)]
    if len(rows) == 1:
        because = "is the only one that can"
    elif loads[0] == loads[1]:
        because = "was drawn first, and the other has as much"
    else:
        because = "is the less loaded"
    return Told(rows, because, _drawn_in_words(view))


def _by_cost(view: View, picked: Server) -> Told:
    costs = [view.strategy.cost(server, view.now) for server in view.drawn]
    rows = [(server, figure(server, view)) for server in view.drawn]
    if len(rows) == 1:
        because = "is the only one that can"
    elif picked is not view.drawn[0]:
        because = "costs less by more than a tenth"
    elif costs[0] < costs[1]:
        because = "was drawn first, and costs less"
    else:
        because = "was drawn first; the other's cost is not lower by more than a tenth"
    return Told(rows, because, _drawn_in_words(view))


def _by_probes(view: View, picked: Server) -> Told:
    probed, limit = view.strategy.probed(view.pool)
    kinds = {row.server: _kind(row, limit, view) for row in probed}
    if picked not in kinds:
        return Told([(picked, "")], "was drawn: no primary can take it")
    places = {row.server: place for place, row in enumerate(probed)}
    order = sorted(probed, key=lambda r: (kinds[r.server], r.latency, r.load, -places[r.server]))
    rows = [(row.server, _of_a_probe(row, kinds[row.server], limit, view)) for row in order]
    best = probed[places[picked]]
    because = {
        (False, False, False): "has the lowest latency of those that are not hot",
        (False, False, True): "has the lowest latency: nobody who is not hot can take it",
        (False, True, False): "has the lowest latency: all that can take it have failed",
    }.get(kinds[picked], "was drawn")
    equals = [r for r in order if (kinds[r.server], r.latency) == (kinds[picked], best.latency)]
    if len(equals) > 1:
        because += f"; of {len(equals)} with it, it has the least in flight"
        alike = sum(row.load == best.load for row in equals)
        because += f", and of {alike} such it was probed last" if alike > 1 else ""
    now = " ".join(row.server.name for row in probed if row.at == view.now)
    fact = (
        f"{len(probed)} were probed within {MAX_AGE:g} s, the last of them {now}; hot is who has "
        f"more than {limit:.4g} in flight for its weight, their {QUANTILE:g} quantile"
    )
    return Told(rows, because, fact)


def _kind(row: Probed, limit: float, view: View) -> tuple[bool, bool, bool]:
    """It can't take the request, it has failed, it is hot: the first counts most against it."""
    server = row.server
    has_failed = server.fails > 0 and seconds_after_failure(server, view.now) >= PENALTY
    return server not in view.able, has_failed, row.load > limit and not has_failed


def _of_a_probe(row: Probed, kind: tuple[bool, bool, bool], limit: float, view: View) -> str:
    text = _for_weight(row.load, row.server) if row.load != row.server.in_flight else ""
    text += ", latency " + _seconds(row.latency, row.load)
    text += f", probed {view.now - row.at:.2f} s ago" if row.at < view.now else ", probed now"
    text += ", hot" if row.load > limit else ""
    text += ", comes last: it has failed" if kind[1] else ""
    return text + _hindrance(row.server, view)


def _by_report(view: View, picked: Server) -> Told:
    compared = view.drawn or view.candidates
    loads = {s: view.strategy.load(s, view.now) / s.weight for s in compared}
    order = sorted(compared, key=lambda s: loads[s])
    rows = [(s, figure(s, view) + _for_weight(loads[s], s)) for s in order]
    ties = sum(load == loads[order[0]] for load in loads.values())
    if ties == 1:
        because = "is the least loaded"
    elif view.drawn:
        because = f"was drawn first of the {ties} least loaded"
    else:
        because = f"was drawn by lot from the {ties} least loaded"
    return Told(rows, because, _drawn_in_words(view))


def _by_key(view: View, picked: Server) -> Told:
    pool, key = view.pool, view.job.client_address
    total = sum(server.weight for server in pool.up)
    allowed = StrategyOptions().load_factor * (pool.in_flight + 1)
    asked: list[Server] = []
    rows: list[tuple[Server, str]] = []
    while picked not in asked:
        server = view.strategy.owner(pool, key.encode(), view.now, is_strict=True, tried=asked)
        if server is None:
            break
        asked.append(server)
        text = _hindrance(server, view)
        if not text:
            is_over = server.in_flight * total >= allowed * server.weight
            text = f", bound {ceil(allowed * server.weight / total)}"
            text += ": no room" if is_over else ""
        rows.append((server, text))
    fact = (
        f"the key belongs to {names(asked[:1]) or 'nobody'}, by the hash of {key}; "
        "the bound is what a server may have with this request"
    )
    if picked not in asked:
        because = (
            "is the choice of rendezvous hashing among all that can: none of the key's own can"
        )
    elif len(asked) == 1:
        because = "is the key's own server"
    else:
        because = f"is the first of the key's servers with room; {len(asked) - 1} came before it"
    return Told(rows, because, fact)


EXPLAINED: dict[type, Callable[[View, Server], Told]] = {
    RoundRobin: _by_turns,
    LeastConn: _by_turns,
    IpHash: _by_network,
    AtRandom: _by_lot,
    ConsistentHash: _by_key,
    Maglev: _by_key,
    PowerOfTwo: _by_two,
    PeakEwma: _by_cost,
    Prequal: _by_probes,
    LeastLoad: _by_report,
}


def figure(server: Server, view: View) -> str:
    """What the strategy knows of it at any time."""
    strategy = view.strategy
    if isinstance(strategy, PeakEwma):
        cost = strategy.cost(server, view.now)
        return ", cost " + _seconds(cost, server.load / server.weight)
    if isinstance(strategy, Prequal):
        latency = strategy.latency(server, view.now)
        return ", latency " + _seconds(latency, server.in_flight / server.weight)
    if isinstance(strategy, LeastLoad):
        return f", load {strategy.load(server, view.now):g}"
    return ""


def _for_weight(load: float, server: Server) -> str:
    return "" if server.weight == 1 else f", {load:.4g} for its weight"


def _seconds(product: float, load: float) -> str:
    """A time, in seconds, that was multiplied by what is in flight and one more."""
    average = round(product / (load + 1.0), 9)
    if not average:
        return "0 s (no answer of late: worth a try)"
    text = f"{product:.4g} s = {average:.4g} s x {load + 1.0:.4g}"
    if average >= PENALTY:
        text += " (for its failures)"
    elif average == UNKNOWN:
        text += " (it has never answered)"
    return text


def _drawn_in_words(view: View) -> str:
    return "drawn: " + " ".join(server.name for server in view.drawn) if view.drawn else ""


def _hindrance(server: Server, view: View) -> str:
    """Why it is no candidate, or nothing."""
    if server in view.able:
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
