"""`ctl top`: the live stream as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.segment import Segment, Segments
from rich.text import Text

from hermes_lb.ctl.tables import Table, count, duration, flight, latency, state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

_COLUMNS = [
    "BACKEND/SERVER", "STATE", ">IN FLIGHT", ">QUEUED", ">REQ/S", ">ERR/S",
    ">P50", ">P95", ">P99", ">1ST BYTE P95",
]  # fmt: skip
# Columns dropped on a narrow terminal, in order.
_LESS = ["P50", "P99", "1ST BYTE P95", "QUEUED", "P95", "ERR/S", "REQ/S"]


def show(moments: Iterable[dict[str, Any]], screen: Console) -> None:
    """Show moments in place on a terminal, until Ctrl-C."""
    from rich.live import Live

    with Live(console=screen, screen=True, auto_refresh=False) as live:
        for moment in moments:
            live.update(Cut(view(moment)), refresh=True)


class Cut:
    """As many lines as fit on the screen; the last one counts the rest."""

    def __init__(self, whole: RenderableType) -> None:
        self._whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.update(height=None)
        lines = console.render_lines(self._whole, options, pad=False)
        if (room := console.height - 1) < len(lines):
            more = f"{count(len(lines) - room)} more lines: `hermes-lb ctl servers` shows all"
            text = Text(more, "bold", no_wrap=True, overflow="ellipsis")
            lines[room:] = console.render_lines(text, options, pad=False)
        yield Segments(segment for line in lines for segment in (*line, Segment.line()))


def view(moment: dict[str, Any]) -> RenderableType:
    """One moment: a line about the balancer, then each backend and its servers."""
    status = moment["status"]
    connections = sum(f["connections"] for f in status["frontends"])
    streams = sum(f["http2_streams"] for f in status["frontends"])
    of_http2 = f"{count(streams)} streams  " if streams else ""
    lag = max((p["loop_lag_p99"] for p in status["processes"]), default=0.0)
    head = (
        f"hermes_lb {status['version']}  up {duration(moment['time'] - status['started_at'])}  "
        f"{count(connections)} connections  {of_http2}{len(status['processes'])} processes  "
        f"loop lag p99 {latency(lag)}{'  DRAINING' if status['is_draining'] else ''}\n"
    )
    rows: list[list[Text | str]] = []
    for backend in status["backends"]:
        available = f"{backend['available']}/{backend['servers']} available"
        shown = [backend["name"], available, count(backend["in_flight"])]
        rows.append([Text(cell, "bold") for cell in (*shown, *_numbers(backend))])
        rows += [
            [f"  {server['name']}", state(server), flight(server), *_numbers(server)]
            for server in moment["servers"]
            if server["backend"] == backend["name"]
        ]
    return Group(Text(head), Table(_COLUMNS, rows, less=_LESS))


def _numbers(row: dict[str, Any]) -> list[str]:
    sample = row["sample"]
    return [
        count(row["queued"]),
        *(_rate(sample.get(name)) for name in ("requests", "errors")),
        *(
            latency(sample.get(name))
            for name in ("latency_p50", "latency_p95", "latency_p99", "first_byte_p95")
        ),
    ]


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
