"""An access log in `httplog` format, ours or HAProxy's, or in our `json`.

A request arrives when its line says and takes Tr + the time of its response, which is Ta less the
waits before (TR, Tw, Tc). That is what its server needed at the time, including its own queue. A
client's requests are sessions: each one comes a pause after the latest that had ended before.

A line may have a wrong date, from a clock that was not set or a damaged file. Gaps of a week split
the log, and only the part with the most requests is played.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from hermes_lb.lab.recording import START, Call, Recording, Session, Threads
from hermes_lb.observe.httplog import MONTHS, NO_SERVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MOST_GAP: Final = 7 * 86_400.0  # seconds
_MOST_MS: Final = 10**10
# A syslog server may have put its own prefix before. Ten digits of milliseconds are 115 days.
_LINE = re.compile(
    r"(?:^|\s)(?P<client>[0-9A-Fa-f.:]+|-|unix):\d+ "
    r"\[(?P<day>\d\d)/(?P<month>[A-Z][a-z]{2})/(?P<year>\d{4}):(?P<clock>\d\d:\d\d:\d\d\.\d{3})\] "
    r"\S+ (?P<backend>[^/ ]+)/(?P<server>\S+) "
    r"(?P<times>-?\d{1,10}/-?\d{1,10}/-?\d{1,10}/-?\d{1,10}/\+?-?\d{1,10}) -?\d+ "
    r"(?:\+?(?P<bytes>\d{1,15}) \S+ \S+ \S+ \d+/\d+/\d+/(?P<load>\d{1,7})/)?",
    re.ASCII,
)


class Entry(NamedTuple):
    """A request that a server answered."""

    at: float  # seconds since 1970
    first: float  # seconds until the response's head
    length: float  # seconds of the whole response
    client: str
    backend: str
    server: str
    size: int  # bytes of the response; -1: unknown
    load: int  # in flight at its server when it ended, itself not counted; -1: unknown


class Log(NamedTuple):
    """A log's requests in order of arrival, and which lines are not among them."""

    entries: Sequence[Entry]
    backends: list[str]  # of these requests, sorted
    skipped: int  # lines that could not be used
    apart: int  # requests outside the played part

    @property
    def servers(self) -> list[str]:
        """Of each request; backend/server if there are several backends."""
        is_one = len(self.backends) == 1
        return [e.server if is_one else f"{e.backend}/{e.server}" for e in self.entries]

    @property
    def text(self) -> str:
        """The played part of the log, in a sentence or two."""
        text = f"{len(self.entries)} requests of a trace; {self.skipped} lines could not be used"
        if self.apart:
            text += f", and {self.apart} are a week or more away from the others"
        if len(self.backends) > 1:
            text += (
                f". One pool serves the backends {', '.join(self.backends)}; --backend takes one"
            )
        return f"{text}."


def read(lines: Iterable[str], most: int | None = None, backend: str | None = None) -> Recording:
    """The sessions of a log; arguments and errors are those of `parse`."""
    log = parse(lines, most, backend)
    return Recording(_sessions(log.entries), log.text, log.servers, is_llm=False)


def parse(lines: Iterable[str], most: int | None = None, backend: str | None = None) -> Log:
    """The first `most` requests that a server answered, of all backends or of one.

    Raises ValueError if there is none.
    """
    entries: list[Entry] = []
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
    return Log(entries, sorted({entry.backend for entry in entries}), skipped, apart)


def _sessions(entries: Sequence[Entry]) -> list[Session]:
    """By their clients, in order of their first requests."""
    began = entries[0].at
    of_client: dict[str, Threads] = {}
    found: list[tuple[str, Threads]] = []
    for entry in entries:
        at = entry.at - began
        threads = of_client.get(entry.client)
        if threads is None or threads.is_over(at):
            threads = of_client[entry.client] = Threads()
            found.append((entry.client, threads))
        threads.add(at, entry.length, Call(START, 0.0, entry.first, entry.length))
    return [Session(client, threads.began, threads.calls) for client, threads in found]


def _together(entries: list[Entry]) -> list[Entry]:
    """The largest part without a gap, in order; the first one of equals."""
    parts = [entries[:1]]
    for before, entry in pairwise(entries):
        if entry.at - before.at > _MOST_GAP:
            parts.append([])
        parts[-1].append(entry)
    return max(parts, key=len)


def _entry(line: str) -> Entry | None:
    return _of_json(line) if line.startswith("{") else _of_httplog(line)


def _of_json(line: str) -> Entry | None:
    """`observe.json_log`: times in milliseconds, null for phases that were not reached."""
    try:
        row = json.loads(line)
        began = datetime.fromisoformat(row["time"]).timestamp()
        answer, whole = row["response_ms"], row["total_ms"]
        before = sum(row[key] or 0 for key in ("head_ms", "queue_ms", "connect_ms"))
        if row["server"] is None or not 0 <= answer <= _MOST_MS or not 0 <= whole <= _MOST_MS:
            return None
        length = max(0.0, whole - before) / 1000
        client, backend, server = (str(row[key]) for key in ("client", "backend", "server"))
        size = int(row["bytes_sent"])
        first = min(answer / 1000, length)
        return Entry(began, first, length, client, backend, server, size, -1)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _of_httplog(line: str) -> Entry | None:
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
    return Entry(
        began.timestamp(),
        min(answer / 1000, length),
        length,
        found["client"],
        found["backend"],
        found["server"],
        int(found["bytes"] or -1),
        int(found["load"] or -1),
    )
