"""The results as a table for people, in a terminal or a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

#: Times shown for a strategy: which, and the percentile.
TIMES: Final = (
    ("latency", "p50"), ("latency", "p99"), ("first_token", "p50"), ("first_token", "p99"),
)  # fmt: skip


def print_result(console: Console, result: dict[str, Any]) -> None:
    """A table of one scenario, with a line per strategy; the best of a column is bold."""
    console.print()
    console.print(Text(result["scenario"], "bold"), Text(result["text"], "dim"))
    console.print(Text(condition(result), "dim"))
    console.print(table(result))
    for strategy, lines in result.get("why", {}).items():
        console.print(Text(f"why {strategy} did so", "bold"))
        for line in lines or ["no strategy was asked: the cookie decided, or there is none such"]:
            console.print(Text(f"  {line}"))


def condition(result: dict[str, Any]) -> str:
    """The parameters of the run, in a line."""
    slots = f"{result['slots']} at a time each" if result["slots"] else "any number at a time"
    load = f", load {result['load']:g}" if "load" in result else ""
    return (
        f"{result['servers']} servers, {slots}{load}; {result['requests']:,} requests in "
        f"{seconds(result['seconds'])}; lengths: {result['lengths']}; seed {result['seed']}"
    )


def table(result: dict[str, Any]) -> Table:
    drawn = Table(box=box.SIMPLE, pad_edge=False)
    drawn.add_column("strategy", no_wrap=True)
    for name in (
        "largest share", "imbalance", "in flight, most", "latency p50", "p99", "first p50", "p99",
        "errors", "moved",
    ):  # fmt: skip
        drawn.add_column(name, justify="right")
    rows = result["strategies"]
    best = [
        min((row[kind][p] for row in rows.values() if row[kind]), default=None) for kind, p in TIMES
    ]
    for strategy, row in rows.items():
        times: list[Text] = []
        for (kind, p), least in zip(TIMES, best, strict=True):
            value = row[kind].get(p)
            text = "-" if value is None else seconds(value)
            times.append(Text(text, "bold" if value is not None and value == least else ""))
        errors = sum(row["errors"].values())
        drawn.add_row(
            strategy,
            f"{row['share_most']:.1%}",
            f"{row['imbalance']:.2f}",
            f"{row['in_flight_most']:,}",
            *times,
            Text(f"{errors:,}", "red" if errors else ""),
            f"{row['moved'] / row['requests']:.0%}",
        )
    return drawn


def seconds(value: float) -> str:
    """Three digits with a unit: 0.0123 -> "12.3 ms"."""
    if value < 1.0:
        return f"{value * 1000:.3g} ms"
    if value < 100.0:
        return f"{value:.3g} s"
    if value < 6000.0:
        return f"{value / 60:.3g} min"
    return f"{value / 3600:.3g} h"
