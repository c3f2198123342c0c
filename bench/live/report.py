"""The tables that a run prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from bench.live.cases.base import FOREIGN, FOREIGN_LIMIT
from bench.live.requirements import US, judge
from bench.live.spread import interval, quartiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from bench.live.cases.base import Case
    from bench.live.results import Results

_BASES = ("haproxy", "nginx", "envoy", "aiohttp")  # what ratios refer to: the first measured


def choose_base(results: Results) -> str:
    """The peer that ratios refer to: HAProxy, or its substitute where it is missing."""
    measured = {peer for case in results.cases() for peer in results.peers(case)}
    return next((peer for peer in _BASES if peer in measured), US)


def print_report(
    console: Console, results: Results, cases: Sequence[Case], machine: dict[str, Any]
) -> None:
    """Print one table a case, the requirements, and everything that casts doubt."""
    base = choose_base(results)
    console.print(
        f"\n[bold]{machine['cpu']}[/], {machine['cores']} cores, Linux {machine['kernel']}, "
        f"load average {machine['load_average'][0]:.2f} at the start"
    )
    for peer, build in machine["pythons"].items():
        console.print(f"{peer}: {build}", highlight=False)
    for case in cases:
        if case.name in results.cases():
            console.print(_case_table(results, case, base))
    console.print(_requirements_table(results))
    for problem in doubts(results):
        console.print(Text.assemble(("! ", "yellow"), problem))


def doubts(results: Results) -> list[str]:
    """What failed, what was odd, and how many measurements had unruly neighbours."""
    shares = [
        share
        for case in results.cases()
        for peer in results.peers(case)
        for share in results.values(case, peer, FOREIGN.key)
    ]
    shared = [share for share in shares if share > FOREIGN_LIMIT]
    found = list(dict.fromkeys(results.problems))
    if shared:
        found.append(
            f"in {len(shared)} of {len(shares)} measurements other processes used more than "
            f"{FOREIGN_LIMIT:.0%} of a core (up to {max(shared):.0%}): "
            "repeat on a quiet machine"
        )
    return found


def _case_table(results: Results, case: Case, base: str) -> Table:
    table = Table(
        title=f"{case.title}  [dim]({case.name})[/]", title_justify="left", box=box.SIMPLE
    )
    table.add_column("", no_wrap=True)
    peers = results.peers(case.name)
    base = base if base in peers else US
    metrics = [
        metric
        for metric in case.metrics
        if any(results.values(case.name, peer, metric.key) for peer in peers)
    ]
    for metric in metrics:
        unit = f"\n{metric.unit}" if metric.unit else "\n"
        table.add_column(metric.title + unit, justify="right")
        if metric.is_main:
            table.add_column("\nquartiles", justify="right", style="dim", no_wrap=True)
            if metric.has_ratio:
                table.add_column(f"ratio\nto {base}", justify="right", style="bold")
                table.add_column("\n95 %", justify="right", style="dim", no_wrap=True)
    for peer in peers:
        cells: list[str] = []
        for metric in metrics:
            cells.append(_number(results.median(case.name, peer, metric.key), metric.digits))
            if metric.is_main:
                values = results.values(case.name, peer, metric.key)
                cells.append(_range(quartiles(values), metric.digits))
                if metric.has_ratio:
                    cells.append(_number(results.ratio(case.name, peer, metric.key, base), 2))
                    ratios = results.ratios(case.name, peer, metric.key, base)
                    cells.append("" if peer == base else _range(interval(ratios), 2))
        table.add_row(f"[bold]{peer}[/]" if peer == US else peer, *cells)
    return table


def _requirements_table(results: Results) -> Table:
    table = Table(title="Requirements", title_justify="left", box=box.SIMPLE)
    for heading in ("", "of", "must", "measured", "95 %", "met?", "aim", "reached?"):
        table.add_column(heading)
    for verdict in judge(results):
        wanted = verdict.requirement
        if wanted.case not in results.cases():
            continue
        values = results.figures(wanted.case, wanted.peer, wanted.metric, wanted.against)
        table.add_row(
            wanted.title,
            wanted.peer,
            verdict.asked,
            _number(verdict.value, 2),
            _range(interval(values), 2),
            _answer(verdict.is_met, verdict.doubt or "not measured"),
            verdict.aim,
            _answer(verdict.is_aim_met, "") if verdict.aim else "",
        )
    return table


def _answer(answer: bool | None, otherwise: str) -> str:
    if answer is None:
        return f"[dim]{otherwise}[/]"
    return "[green]yes[/]" if answer else "[red]NO[/]"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _range(found: tuple[float, float] | None, digits: int) -> str:
    return f"{_number(found[0], digits)} - {_number(found[1], digits)}" if found else ""
