"""Tables, aligned on a terminal, plain in a pipe."""

from __future__ import annotations

import json
import sys
import time
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import rich.table
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import ConsoleOptions, JustifyMethod, RenderResult

    from hermes_lb.control.shapes import (
        Abort,
        Backend,
        Certificate,
        Change,
        Pins,
        Refusal,
        Resolved,
        Route,
        Server,
        Session,
        Sessions,
        Setting,
        Status,
        Turns,
    )

_GREY = "bright_black"

# Of each state.
STYLES = {
    "up": "green",
    "degraded": "yellow",
    "drain": "blue",
    "ejected": "magenta",
    "failing": "magenta",
    "down": "red bold",
    "maint": _GREY,
}

# Spaces between two columns.
_GAP = 2

# A pipe has no width: nothing is cut there.
_PIPE_WIDTH = 10_000


def console() -> Console:
    """Standard output, with colours and a width on a terminal only."""
    return Console(
        file=sys.stdout,
        highlight=False,
        width=None if sys.stdout.isatty() else _PIPE_WIDTH,
    )


class Table:
    """Without lines. If it is too wide, columns are dropped; words are never broken.

    A title that starts with `>` means numbers. `less`: columns to drop, in order. The others share
    the width.
    """

    def __init__(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[Text | str]],
        *,
        less: Sequence[str] = (),
    ) -> None:
        self._columns = [title.removeprefix(">") for title in columns]
        self._numbers = {title[1:] for title in columns if title.startswith(">")}
        self._less = less
        self._rows = [
            [cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._that_fit(options.max_width)
        made = rich.table.Table(
            box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold"
        )
        for place in shown:
            title = self._columns[place]
            justify: JustifyMethod = "right" if title in self._numbers else "left"
            made.add_column(title, justify=justify, overflow="fold")
        for row in self._rows:
            made.add_row(*(row[place] for place in shown))
        yield made

    def _that_fit(self, room: int) -> list[int]:
        widths = [
            max([cell_len(title), *(row[place].cell_len for row in self._rows)]) + _GAP
            for place, title in enumerate(self._columns)
        ]
        shown = list(range(len(widths)))
        for title in self._less:
            if sum(widths[place] for place in shown) - _GAP <= room:
                break
            shown.remove(self._columns.index(title))
        return shown


def status(answer: Status) -> Iterable[Table | Text]:
    now = time.time()
    draining = ", draining" if answer["is_draining"] else ""
    yield Text(
        f"hermes_lb {answer['version']}, up {duration(now - answer['started_at'])}, configuration "
        f"loaded {duration(now - answer['loaded_at'])} ago{draining}\n"
    )
    yield Table(
        ["BACKEND", ">AVAILABLE", ">SERVERS", ">IN FLIGHT", ">QUEUED", ">RESUMED", ">CUT"],
        [
            (b["name"], count(b["available"]), count(b["servers"]), count(b["in_flight"]),
             count(b["queued"]), *resumes(b))
            for b in answer["backends"]
        ],
        less=["CUT", "RESUMED", "SERVERS", "QUEUED"],
    )  # fmt: skip
    yield Text()
    yield Table(
        ["FRONTEND", ">CONNECTIONS", ">OF HTTP/2", ">STREAMS", ">REQUESTS", ">BY HTTP/2",
         ">REFUSED"],
        [
            (f["name"], count(f["connections"]), count(f["http2_connections"]),
             count(f["http2_streams"]), count(f["requests"]), count(f["http2_requests"]),
             count(f["refused"]))
            for f in answer["frontends"]
        ],
        less=["BY HTTP/2", "STREAMS", "OF HTTP/2", "REFUSED"],
    )  # fmt: skip
    yield Text()
    yield Table(
        ["ROUTE", "BACKEND", "STREAMS", "RULES"],
        [
            (f"{f['name']}: {printable(r['conditions'])}", printable(r["backend"]), _streams(r),
             printable(r["rules"]))
            for f in answer["frontends"]
            for r in f["routes"]
        ],
        less=["RULES", "STREAMS"],
    )  # fmt: skip
    yield Text()
    yield Table(
        ["PROCESS", ">PID", ">UP", ">CONNECTIONS", ">FILES", ">LOOP LAG P99", ">WORST"],
        [
            (f"{p['number']}{' (draining)' if p['is_draining'] else ''}", str(p["pid"]),
             duration(now - p["started_at"]), count(p["connections"]),
             f"{p['open_files']}/{p['max_files']}", latency(p["loop_lag_p99"]),
             latency(p["loop_lag_worst"]))
            for p in answer["processes"]
        ],
        less=["WORST", "FILES", "UP", "LOOP LAG P99"],
    )  # fmt: skip


def _streams(route: Route) -> str:
    """What protects the streams of a route: "turns, resume"."""
    return ", ".join(each for each in ("turns", "resume") if route[each])


def servers(rows: Iterable[Server]) -> Iterable[Table]:
    yield Table(
        ["SERVER", "ADDRESS", "SOURCE", "STATE", "WHY", ">IN FLIGHT", ">QUEUED", ">WEIGHT",
         ">REQUESTS", ">5XX", ">ABORTED"],
        [
            (
                f"{s['backend']}/{s['name']}{' (backup)' if s['backup'] else ''}",
                s["address"],
                s.get("source", ""),  # a balancer of before discovery has none
                state(s),
                printable(s["because"]),
                flight(s),
                count(s["queued"]),
                count(s["weight"]),
                count(sum(s["counters"]["responses"].values())),
                count(s["counters"]["responses"]["5xx"]),
                count(s["counters"]["aborted_by_server"]),
            )
            for s in rows
        ],
        less=["ABORTED", "5XX", "SOURCE", "REQUESTS", "ADDRESS", "WEIGHT", "QUEUED", "WHY",
              "IN FLIGHT"],
    )  # fmt: skip


def servers_in_full(rows: Iterable[Server]) -> Iterable[Table]:
    yield Table(
        ["SERVER", "STATE", ">SINCE", ">REQUESTS", ">5XX", ">IN", ">OUT", ">RETRIES", ">CONNECT",
         ">BY CLIENT", ">BY SERVER", ">MOST AT A TIME", ">MOST/S", ">DOWNS", ">DOWNTIME"],
        [
            (f"{s['backend']}/{s['name']}", state(s), *_tallied(s),)
            for s in rows
        ],
        less=["BY CLIENT", "CONNECT", "RETRIES", "MOST/S", "DOWNS", "IN", "MOST AT A TIME"],
    )  # fmt: skip


def _tallied(server: Server) -> list[str]:
    counters, tally = server["counters"], server["tally"]
    numbers = [
        sum(counters["responses"].values()), counters["responses"]["5xx"], counters["bytes_in"],
        counters["bytes_out"], counters["retries"], counters["connect_errors"],
        counters["aborted_by_client"], counters["aborted_by_server"],
    ]  # fmt: skip
    counted = [count(number) for number in numbers]
    if tally is None:
        return ["-", *counted, "-", "-", "-", "-"]
    changed_at, limit = tally["changed_at"], server["max_connections"]
    most = count(tally["max_in_flight"]) + (f"/{limit}" if limit else "")
    return [
        "-" if changed_at is None else duration(time.time() - changed_at), *counted, most,
        count(tally["max_rate"]), count(tally["downs"]), duration(tally["downtime"]),
    ]  # fmt: skip


def aborts(rows: Iterable[Abort]) -> Iterable[Table]:
    yield Table(
        ["AT", "CODE", "STATUS", ">AFTER", "SERVER", "CLIENT", "WHY", "REQUEST"],
        [
            (_clock(a["at"]), a["termination"], str(a["status"]) if a["status"] > 0 else "-",
             latency(a["duration_ms"] / 1000),
             "/".join(part for part in (a["backend"], a["server"]) if part) or a["frontend"],
             printable(a["client"]), printable(a["reason"] or a["means"]),
             printable(a["request"]))
            for a in rows
        ],
        less=["CLIENT", "STATUS", "REQUEST", "AFTER"],
    )  # fmt: skip


def changes(rows: Iterable[Change]) -> Iterable[Table]:
    yield Table(
        ["AT", "SERVER", "STATE", "WHY"],
        [
            (_clock(c["time"]), f"{c['backend']}/{c['server']}",
             Text(c["state"], STYLES.get(c["state"], "")), printable(c["because"]))
            for c in rows
        ],
    )  # fmt: skip


def errors(rows: Iterable[Refusal]) -> Iterable[Table]:
    yield Table(
        ["WHERE", "STATUS", ">COUNT", "WHY"],
        [
            (r["where"], str(r["status"] or "-"), count(r["count"]), printable(r["because"]))
            for r in rows
        ],
    )


def pins(answer: Pins) -> Iterable[Table | Text]:
    yield Table(
        ["ID", "SERVER"], [(p["id"], f"{p['backend']}/{p['server']}") for p in answer["pins"]]
    )
    if (more := answer["total"] - len(answer["pins"])) > 0:
        yield Text(f"and {count(more)} more: --limit N shows them")
    for store in answer.get("unread", ()):
        yield Text(f"{store['backend']}: not all that its store has: {printable(store['because'])}")


def resolvers(rows: Iterable[Resolved]) -> Iterable[Table]:
    yield Table(
        ["SERVER", "NAME", "STATE", ">EVERY", ">FAILURES", "ADDRESSES"],
        [
            (f"{r['backend']}/{r['server']}", printable(r["host"]),
             Text("failing", "red bold") if r["is_failing"] else "ok", duration(r["interval"]),
             count(r["failures"]), ", ".join(r["addresses"]) or "-")
            for r in rows
        ],
        less=["EVERY", "FAILURES"],
    )  # fmt: skip


def config(rows: Iterable[Setting]) -> Iterable[Table]:
    yield Table(
        ["KEY", "VALUE", "ORIGIN"],
        [
            (printable(r["key"]), printable(json.dumps(r["value"], ensure_ascii=False)),
             printable(r["origin"]))
            for r in rows
        ],
    )  # fmt: skip


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


# Seconds before a certificate expires: those that the alerts have.
_EXPIRES_SOON, _EXPIRES_NOW = 14 * 86_400, 2 * 86_400


def certificates(rows: Iterable[Certificate]) -> Iterable[Table]:
    now = time.time()
    yield Table(
        ["FRONTEND", "NAMES", "EXPIRES", ">IN", "FILE"],
        [
            (c["frontend"], printable(", ".join(c["names"])) or "-", _day(c["not_after"]),
             _left(c["not_after"] - now), printable(c["file"]))
            for c in sorted(rows, key=itemgetter("not_after"))
        ],
        less=["FILE", "NAMES"],
    )  # fmt: skip


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def _left(seconds: float) -> Text:
    if seconds <= 0:
        return Text("EXPIRED", "red bold")
    style = "red bold" if seconds < _EXPIRES_NOW else "yellow" if seconds < _EXPIRES_SOON else ""
    return Text(duration(seconds), style)


def sessions(answer: Sessions) -> Iterable[Table | Text]:
    rows = answer["sessions"]
    yield Table(
        ["ID", "CLIENT", "HTTP", "SERVER", "KIND", "PHASE", ">FOR", ">IN", ">OUT", "PINNED",
         "REQUEST"],
        [
            (s["id"], s["client"] or "-", version(s), f"{s['backend']}/{s['server'] or '-'}",
             s["kind"], s["phase"], duration(s["seconds"]), count(s["bytes_in"]),
             count(s["bytes_out"]), s["pinned_by"] or "-",
             printable(f"{s['method']} {s['target']}"))
            for s in rows
        ],
        less=["PINNED", "IN", "OUT", "HTTP", "KIND", "CLIENT", "PHASE", "REQUEST"],
    )  # fmt: skip
    if (more := answer["total"] - len(rows)) > 0:
        yield Text(f"and {count(more)} more: --limit N shows them")


def turns(answer: Turns) -> Iterable[Table | Text]:
    now = time.time()
    yield Table(
        ["TURN", "STATE", "WHY", "SERVER", ">BEGUN", ">TOOK", "KEY", "SESSION", ">ATTEMPT"],
        [
            (t["id"], t["state"], printable(t["reason"]) or "-", printable(t["server"]) or "-",
             duration(now - t["begun_at"]), duration((t["ended_at"] or now) - t["begun_at"]),
             "yes" if t["has_key"] else "-", "yes" if t["has_session"] else "-",
             count(t["attempt"]))
            for t in answer["turns"]
        ],
        less=["ATTEMPT", "SESSION", "KEY", "SERVER", "WHY"],
    )  # fmt: skip


def state(server: Mapping[str, Any]) -> Text:
    """Green only if a check has said so. Older balancers do not have `checked`."""
    is_assumed = server["state"] == "up" and not server.get("checked", True)
    return Text(server["state"], _GREY if is_assumed else STYLES.get(server["state"], ""))


def version(session: Session) -> str:
    """Of HTTP, with the stream: "1.1", "2.0/17"."""
    stream = session["stream"]
    return f"{session['version']}/{stream}" if stream else str(session["version"])


def resumes(backend: Backend) -> tuple[str, str]:
    """Streams whose server was lost: resumed, and cut."""
    outcomes = backend["resumes"]
    return (
        count(sum(outcomes[name] for name in ("resumed", "handed_over", "moved"))),
        count(sum(outcomes[name] for name in ("gave_up", "gone", "not_resumable"))),
    )


def flight(server: Mapping[str, Any]) -> str:
    most = server["max_connections"]
    return count(server["in_flight"]) + (f"/{most}" if most else "")


def printable(text: str) -> str:
    """Text from outside without terminal control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)


def count(value: float | None) -> str:
    """1234567 -> "1,234,567"; 0.25 -> "0.25"."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.3g}"


def latency(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def duration(seconds: float) -> str:
    """45 -> "45s", 3700 -> "1h01m", 180000 -> "2d02h"."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"
