"""The tables at the end of a run, and the dumps of the sessions that broke a promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from bench.chaos_sessions.tally import Tally

_ONCE = ("mails sent", "mails UNKNOWN", "mails UNKNOWN that were sent", "mails sent twice")
_MOST_SHOWN = 12
_MOST_REPORTED = 2000  # characters of a violation; a dump has all of it


def print_tally(console: Console, title: str, tally: Tally) -> None:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("")
    table.add_column("invariant")
    table.add_column("tested", justify="right")
    table.add_column("violations", justify="right")
    for number, name in tally.invariants.items():
        broken = tally.broken(number)
        tested = tally.tested[number]
        shown = Text(str(broken), "bold red" if broken else "green" if tested else "yellow")
        table.add_row(number if number.isdigit() else "", name, f"{tested:,}", shown)
    console.print(table)
    console.print(_figures("once tools", {name: tally.figures[name] for name in _ONCE}))
    others = {name: tally.figures[name] for name in sorted(tally.figures) if name not in _ONCE}
    console.print(_figures("what happened", others))
    for each in tally.violations[:_MOST_SHOWN]:
        about = f"{tally.invariants[each.invariant]} ({each.session_id}): "
        console.print(
            Text.assemble(("BROKEN ", "bold red"), (about, "bold"), _shortened(each.what))
        )
    if len(tally.violations) > _MOST_SHOWN:
        console.print(f"... and {len(tally.violations) - _MOST_SHOWN} more")
    if lost := {
        name: count for name, count in tally.figures.items() if "lost by" in name and count
    }:
        console.print(
            "Acknowledged by a master that died before a replica had it (docs/sessions.md, "
            f"“When something fails”); not violations: {lost}"
        )


def _shortened(text: str) -> str:
    return (
        text
        if len(text) <= _MOST_REPORTED
        else f"{text[:300]} [...] {text[300 - _MOST_REPORTED :]}"
    )


def _figures(title: str, figures: dict[str, int]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}")
    return table
