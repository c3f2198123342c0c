"""The same workload twice: on the virtual clock, and through a real balancer to real servers.

`sockets` runs it live. Differences come from chance (other random numbers) and from sockets. So the
model is run `PLAYS` times, with other seeds and each request delayed by some milliseconds as live
ones are; live agrees if it is within four standard deviations of these runs plus `ALLOWED` of their
mean plus `OVERHEAD`. The live loop's lag is measured during the run: on a machine with other work
the model's responses hold their slots longer, as live ones do, and the stated error is larger.

The run is as fast as the machine can play it: the time that a request costs here and now is
measured first, and all times of the workload are stretched if it is too much. A run whose loop was
too late in spite of that says nothing of the model: it is repeated, slower, and if that does not
help either its figures are undecided, which is no failure.
"""

from __future__ import annotations

from array import array
from random import Random
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from hermes_lb.lab import agents, sockets
from hermes_lb.lab.fleet import make_fleet, maker
from hermes_lb.lab.interruption import run
from hermes_lb.lab.report import seconds
from hermes_lb.lab.workloads import Workload, exponential, poisson

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from hermes_lb.lab.fleet import Fleet

LOAD: Final = 0.6
PLAYS: Final = 20
ALLOWED: Final = 0.05
OVERHEAD: Final = 0.02  # seconds: two hops, and one core for all of it
_DEVIATIONS: Final = 4.0
_LATE: Final = 0.003  # seconds, on average; of a loop on an otherwise idle machine
_TURNS: Final = 6  # loop iterations until a response: client, balancer, server, and back
#: The part of its time that the loop may spend on requests; the rest is for what disturbs it.
_BUSY: Final = 0.25
_MOST_STRETCH: Final = 8.0
_TOO_LATE: Final = 0.02  # seconds, on average, at a stretch of 1: a twelfth of a response
_ATTEMPTS: Final = 3
_HELD: Final = 2  # iterations for which a response holds its slot longer: its end, the next start
_FIRST, _REST = exponential(0.05), exponential(0.2)

Row = dict[str, Any]


def compare(
    strategies: Sequence[str],
    servers: int,
    requests: int,
    seed: int,
    *,
    with_agents: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> list[Row]:
    """A row for each strategy and measure: model, live, allowed difference, agreement (None:
    undecided, as the machine was too busy).

    `report` gets a line before long operations. Raises RuntimeError if the agents do not start or
    do not respond.
    """
    rng = Random(f"{seed} live")
    stretch = 1.0
    if with_agents:
        workload = agents.turns(rng, requests, servers)
        seen = run(sockets.play_with_agents(strategies, servers, workload, report))
    else:
        rate = LOAD * servers * sockets.SLOTS / (_FIRST.mean + _REST.mean)
        users = max(10, requests // 20)
        workload = poisson(rng, requests, rate, _REST, first=_FIRST, users=users)
        count = "1 strategy" if len(strategies) == 1 else f"{len(strategies)} strategies at once"
        busy = run(sockets.cost()) * rate * len(strategies)
        stretch = min(_MOST_STRETCH, max(1.0, busy / _BUSY))
        fast = workload
        for _ in range(_ATTEMPTS):
            workload = _stretched(fast, stretch)
            report(f"live: {count}, for {seconds(workload.horizon)}")
            seen = run(sockets.play(strategies, servers, workload))
            late = max(late for _, late in seen.values())
            if late <= _TOO_LATE * stretch or stretch >= _MOST_STRETCH:
                break
            stretch = min(_MOST_STRETCH, 2.0 * stretch)
            report(f"live: the loop was {seconds(late)} late on average; again, slower")
    slots = 0 if with_agents else sockets.SLOTS
    sleeps = 1.0 / agents.INTERVAL if with_agents else 0.0  # a second of an answer
    rows: list[Row] = []
    for name in strategies:
        figures, late = seen[name]
        noise = agents.FIRST if with_agents else _HELD * late
        rngs = [Random(f"{seed} {i}") for i in range(PLAYS)]
        plays = [
            _model(name, make_fleet(servers, slots), workload, rng, max(late, _LATE), noise)
            for rng in rngs
        ]
        for measure, value in figures.items():
            compared = _compared(measure, value, [play[measure] for play in plays], late, sleeps)
            if late > _TOO_LATE * stretch and not compared["agrees"]:
                compared["agrees"] = None
            rows.append({"strategy": name, **compared})
    return rows


def print_comparison(console: Console, rows: Sequence[Row]) -> None:
    """A line for each strategy: the model and, behind a stroke, what was seen live."""
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    drawn = Table(box=box.SIMPLE, pad_edge=False)
    drawn.add_column("model / live", no_wrap=True)
    for measure in measures:
        drawn.add_column(measure.replace("_", " ").removesuffix(" seconds"), justify="right")
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        cells = [_cell(row) for row in rows if row["strategy"] == strategy]
        drawn.add_row(strategy, *cells)
    console.print(drawn)
    far = sum(row["agrees"] is False for row in rows)
    undecided = sum(row["agrees"] is None for row in rows)
    if far:
        console.print(Text(f"{far} of {len(rows)} figures do not agree", "bold red"))
    elif undecided:
        console.print(f"{undecided} of {len(rows)} figures are undecided; the others agree")
    else:
        console.print(f"all {len(rows)} figures agree, each within its stated error (live.json)")
    late = max(row["loop_late_seconds"] for row in rows)
    console.print(
        f"the loop was {seconds(late)} late on average, for which model and error allow; "
        "where that is too much, figures that do not agree are undecided",
        soft_wrap=True,
    )


def _compared(
    measure: str, value: float, expected: Sequence[float], late: float, sleeps: float
) -> Row:
    """A live figure and those of the model's runs."""
    mean = fmean(expected)
    allowed = _DEVIATIONS * stdev(expected) + ALLOWED * mean
    if measure.endswith("seconds"):
        allowed += OVERHEAD + late * (_TURNS + sleeps * mean)
    return {
        "measure": measure,
        "model": round(mean, 6),
        "live": round(value, 6),
        "allowed": round(allowed, 6),
        "loop_late_seconds": round(late, 6),
        "agrees": abs(value - mean) <= allowed,
    }


def _cell(row: Row) -> Text:
    """Red, with the allowed difference, if they do not agree; yellow if that is undecided."""

    def shown(value: float) -> str:
        return seconds(value) if row["measure"].endswith("seconds") else f"{value:.3g}"

    text = f"{shown(row['model'])} / {shown(row['live'])}"
    if row["agrees"]:
        return Text(text)
    colour = "yellow" if row["agrees"] is None else "bold red"
    return Text(f"{text} (may differ by {shown(row['allowed'])})", colour)


def _stretched(workload: Workload, times: float) -> Workload:
    """The same requests with all times this many times as long."""
    arrivals, firsts, lengths = (
        array("d", [times * value for value in column]) for column in workload[:3]
    )
    return workload._replace(arrivals=arrivals, firsts=firsts, lengths=lengths)


def _model(
    name: str, fleet: Fleet, workload: Workload, rng: Random, late: float, noise: float
) -> dict[str, float]:
    """`late`, `noise`: seconds, on average, by which each request and each response is delayed."""
    arrivals = [arrival + rng.expovariate(1.0 / late) for arrival in workload.arrivals]
    order = sorted(range(len(arrivals)), key=arrivals.__getitem__)
    more = [rng.expovariate(1.0 / noise) if noise else 0.0 for _ in order]
    moved = Workload(
        array("d", [arrivals[i] for i in order]),
        array("d", [workload.firsts[i] + more[i] for i in order]),
        array("d", [workload.lengths[i] + more[i] for i in order]),
        array("L", [workload.users[i] for i in order]),
        workload.addresses,
    )
    measures = fleet.run(maker(name), moved, rng).play()
    return sockets.figures(
        measures.latencies, measures.firsts, measures.counts, measures.errors.total()
    )
