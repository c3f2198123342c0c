"""`ctl top`: the live stream as a table."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.segment import Segment, Segments
from rich.text import Text

from hermes_lb.ctl.tables import STYLES, Table, count, duration, flight, latency, state

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

_COLUMNS = [
    "BACKEND/SERVER", "STATE", ">IN FLIGHT", ">QUEUED", ">REQ/S", ">ERR/S",
    ">P50", ">P95", ">P99", ">1ST BYTE P95",
]  # fmt: skip
# Columns dropped on a narrow terminal, in order.
_LESS = ["P50", "P99", "1ST BYTE P95", "QUEUED", "P95", "ERR/S", "REQ/S"]


def show(moments: Iterable[dict[str, Any]], screen: Console, backend: str | None = None) -> None:
    """Show moments in place on a terminal, until Ctrl-C."""
    from rich.live import Live

    with Live(console=screen, screen=True, auto_refresh=False) as live:
        for moment in moments:
            live.update(Cut(view(moment, backend)), refresh=True)


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


def view(moment: dict[str, Any], only: str | None = None) -> RenderableType:
    """One moment: a line about the balancer, then each backend and its servers.

    Problems come first: backends that have some, and servers in that order; then the configured
    order. `only`: a pattern of backends' names.
    """
    status = moment["status"]
    connections = sum(f["connections"] for f in status["frontends"])
    streams = sum(f["http2_streams"] for f in status["frontends"])
    of_http2 = f"{count(streams)} streams  " if streams else ""
    lag = max((p["loop_lag_p99"] for p in status["processes"]), default=0.0)
    head = (
        f"hermes_lb {status['version']}  up {duration(moment['time'] - status['started_at'])}  "
        f"{count(connections)} connections  {of_http2}{len(status['processes'])} processes  "
        f"loop lag p99 {latency(lag)}{'  DRAINING' if status['is_draining'] else ''}"
    )
    servers: dict[str, list[dict[str, Any]]] = {one["name"]: [] for one in status["backends"]}
    for server in moment["servers"]:
        servers.setdefault(server["backend"], []).append(server)
    ranked = {name: sorted(own, key=badness, reverse=True) for name, own in servers.items()}
    backends = [one for one in status["backends"] if only is None or fnmatchcase(one["name"], only)]
    worst = {name: badness(own[0]) for name, own in ranked.items() if own}
    backends.sort(key=lambda one: worst.get(one["name"], 0), reverse=True)
    rows: list[list[Text | str]] = []
    for backend in backends:
        available = f"{backend['available']}/{backend['servers']} available"
        shown = [backend["name"], available, count(backend["in_flight"])]
        rows.append([Text(cell, "bold") for cell in (*shown, *_numbers(backend))])
        rows += [
            [f"  {server['name']}", state(server), flight(server), *_numbers(server)]
            for server in ranked[backend["name"]]
        ]
    return Group(Text(head), *_problems(moment["servers"]), Table(_COLUMNS, rows, less=_LESS))


# By state: how bad it is, as the dashboard ranks them.
_BADNESS = {"down": 6, "ejected": 5, "failing": 4, "degraded": 3, "maint": 2, "drain": 2}


def badness(server: dict[str, Any]) -> int:
    """0: nothing to see. As in `page/problems.js`."""
    by_state = _BADNESS.get(server["state"], 0)
    is_busy = server["queued"] > 0 or 0 < server["max_connections"] <= server["in_flight"]
    fails = (server["sample"].get("errors") or 0) > 0
    return max(by_state, 3 if fails else 0, 1 if is_busy else 0)


def _problems(servers: Iterable[dict[str, Any]]) -> list[Text]:
    counts = Counter(one["state"] for one in servers if one["state"] in _BADNESS)
    if not counts:
        return [Text()]
    shown = sorted(counts, key=lambda name: -_BADNESS[name])
    line = Text("problems: ", "bold")
    for name in shown:
        line.append(f"{count(counts[name])} {name}  ", STYLES[name])
    return [line]


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
