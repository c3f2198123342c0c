"""What a scenario found: figures, and what should have held and did not."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

# Seconds that nothing may hold up the balancer's event loop.
MOST_LAG = 0.050
_MOST_SEEN = 5_000  # characters


@dataclass(frozen=True)
class Lag:
    """How late timers fired while one balancer ran, in seconds."""

    balancer: float | None  # of its event loop; None: it does not tell
    control: float  # of a process beside it that does nothing else: the machine's own share
    waited: float  # the most that the kernel let it wait for a core, within as long as it was late
    stopped: float = 0.0  # by a SIGSTOP of ours

    @property
    def is_blocked(self) -> bool:
        """True if the loop was late by more than it may be, and nothing else explains that."""
        excuse = max(self.control, self.waited) + self.stopped
        return self.balancer is not None and self.balancer > MOST_LAG + excuse


@dataclass
class Report:
    """One run of one scenario."""

    figures: dict[str, float | str] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    lags: list[Lag] = field(default_factory=list)
    lag_excuse: str = ""  # why the scenario itself makes the event loop late
    skipped: str = ""  # why nothing was measured

    def count(self, name: str) -> float:
        """A figure that is a number."""
        return float(self.figures[name])

    def figure(self, name: str, value: float | str) -> None:
        """A figure of that name, with its unit in it."""
        self.figures[name] = value

    def must(self, holds: bool, what: str, saw: object = None) -> None:
        """An invariant, as a statement; `saw` is shown with it if it does not hold."""
        if holds:
            self.held.append(what)
        else:
            self.broken.append(what if saw is None else f"{what}; but: {str(saw)[:_MOST_SEEN]}")

    @property
    def worst_lag(self) -> Lag | None:
        return max(self.lags, key=lambda lag: lag.balancer or 0.0, default=None)

    def judge_lags(self) -> None:
        for lag in [] if self.lag_excuse else self.lags:
            self.must(not lag.is_blocked, "the event loop was never blocked for 50 ms", lag)

    def to_json(self) -> dict[str, Any]:
        return {
            "figures": self.figures,
            "held": self.held,
            "broken": self.broken,
            "skipped": self.skipped,
            "lag_excuse": self.lag_excuse,
            "loop_lag_s": [asdict(lag) for lag in self.lags],
        }


def print_reports(console: Console, titles: Mapping[str, str], reports: dict[str, Report]) -> None:
    """All figures, and then one line for each scenario."""
    for name, report in reports.items():
        if not report.skipped:
            console.print(_figures_table(titles[name], report))
    console.print(_summary_table(reports))
    for name, report in reports.items():
        if report.lag_excuse:
            console.print(f"{name}: the event loop is not judged: {report.lag_excuse}")
        for what in report.broken:
            console.print(Text.assemble(("BROKEN ", "bold red"), (f"{name}: ", "bold"), what))


def _figures_table(title: str, report: Report) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in report.figures.items():
        table.add_row(name, value if isinstance(value, str) else _number(value))
    return table


def _summary_table(reports: Mapping[str, Report]) -> Table:
    table = Table(title="All scenarios", title_justify="left", box=box.SIMPLE)
    table.add_column("")
    table.add_column("invariants\nthat held", justify="right")
    table.add_column("\nbroken", justify="right")
    table.add_column("event loop\nlate, worst ms", justify="right")
    table.add_column("a control process\nbeside it, ms", justify="right")
    table.add_column("kept off its core\nmeanwhile, ms", justify="right")
    table.add_column("stopped\nby us, ms", justify="right")
    for name, report in reports.items():
        if report.skipped:
            table.add_row(name, Text(f"not run: {report.skipped}", "yellow"))
            continue
        lag = report.worst_lag
        broken = Text(str(len(report.broken)), "bold red" if report.broken else "green")
        table.add_row(name, str(len(report.held)), broken, *_lag_cells(lag))
    return table


def _lag_cells(lag: Lag | None) -> list[str]:
    if lag is None:
        return ["-"] * 4
    late = "-" if lag.balancer is None else _ms(lag.balancer)
    return [late, *map(_ms, (lag.control, lag.waited, lag.stopped))]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def write_json(path: Path, reports: Mapping[str, Report], run: Mapping[str, Any]) -> None:
    found = {name: report.to_json() for name, report in reports.items()}
    path.write_text(json.dumps({"run": run, "scenarios": found}, indent=2) + "\n")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
