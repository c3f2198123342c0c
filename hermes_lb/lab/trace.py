"""A workload from an access log in `httplog` format, ours or HAProxy's.

A request arrives when its line says and takes Tr + the time of its response, which is Ta less the
waits before (TR, Tw, Tc). That is what its server needed at the time, including its own queue; so a
trace is played to machines without a limit of concurrent requests.

A line may have a wrong date, from a clock that was not set or a damaged file. Gaps of a week split
the log, and only the part with the most requests is played.
"""

from __future__ import annotations

import re
from array import array
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from hermes_lb.lab.workloads import Workload
from hermes_lb.observe.httplog import MONTHS, NO_SERVER

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_GAP: Final = 7 * 86_400.0  # seconds
# A syslog server may have put its own prefix before. Ten digits of milliseconds are 115 days.
_LINE = re.compile(
    r"(?:^|\s)(?P<client>[0-9A-Fa-f.:]+|-|unix):\d+ "
    r"\[(?P<day>\d\d)/(?P<month>[A-Z][a-z]{2})/(?P<year>\d{4}):(?P<clock>\d\d:\d\d:\d\d\.\d{3})\] "
    r"\S+ (?P<backend>[^/ ]+)/(?P<server>\S+) "
    r"(?P<times>-?\d{1,10}/-?\d{1,10}/-?\d{1,10}/-?\d{1,10}/\+?-?\d{1,10}) -?\d+ ",
    re.ASCII,
)


class Trace(NamedTuple):
    """The workload of a log, who served it, and which lines are not in it."""

    workload: Workload
    servers: list[str]  # of each request, in order of arrival; backend/server if there are several
    backends: list[str]  # of these requests, sorted
    skipped: int  # lines that could not be used
    apart: int  # requests outside the played part


class _Entry(NamedTuple):
    at: float
    first: float
    length: float
    client: str
    backend: str
    server: str


def read_trace(lines: Iterable[str], most: int | None = None, backend: str | None = None) -> Trace:
    """The first `most` requests that a server answered, of all backends or of one.

    Raises ValueError if there is none.
    """
    entries: list[_Entry] = []
    skipped = 0
    for line in lines:
        entry = _entry(line)
        if entry is not None:
            entries.append(entry)
        elif line.strip():
            skipped += 1
    if not entries:
        raise ValueError("no line of it is a request in the format httplog that a server answered")
    if backend is not None:
        known = sorted({entry.backend for entry in entries})
        entries = [entry for entry in entries if entry.backend == backend]
        if not entries:
            raise ValueError(f"no request of backend {backend!r}; there are {', '.join(known)}")
    together = _together(sorted(entries))  # lines are written when requests end
    apart = len(entries) - len(together)
    entries = together[:most]
    began = entries[0].at
    backends = sorted({entry.backend for entry in entries})
    users: dict[str, int] = {}
    return Trace(
        Workload(
            array("d", [entry.at - began for entry in entries]),
            array("d", [entry.first for entry in entries]),
            array("d", [entry.length for entry in entries]),
            array("L", [users.setdefault(entry.client, len(users)) for entry in entries]),
            list(users),
        ),
        [e.server if len(backends) == 1 else f"{e.backend}/{e.server}" for e in entries],
        backends,
        skipped,
        apart,
    )


def _together(entries: list[_Entry]) -> list[_Entry]:
    """The largest part without a gap, in order; the first one of equals."""
    parts = [entries[:1]]
    for before, entry in pairwise(entries):
        if entry.at - before.at > _MOST_GAP:
            parts.append([])
        parts[-1].append(entry)
    return max(parts, key=len)


def _entry(line: str) -> _Entry | None:
    found = _LINE.search(line)
    if found is None or found["server"] == NO_SERVER or found["month"] not in MONTHS:
        return None
    head, queue, connect, answer, whole = map(int, found["times"].replace("+", "").split("/"))
    if answer < 0 or whole < 0:
        return None  # no response
    month = MONTHS.index(found["month"]) + 1
    try:
        began = datetime.fromisoformat(
            f"{found['year']}-{month:02}-{found['day']}T{found['clock']}+00:00"
        )
    except ValueError:
        return None
    length = max(0, whole - max(0, head) - max(0, queue) - max(0, connect)) / 1000
    return _Entry(
        began.timestamp(),
        min(answer / 1000, length),
        length,
        found["client"],
        found["backend"],
        found["server"],
    )
