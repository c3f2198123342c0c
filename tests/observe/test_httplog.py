"""Our line beside lines that a real HAProxy 2.6.12 wrote, and against hostile requests."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.observe import httplog
from hermes_lb.observe.httplog import (
    BAD_REQUEST,
    NO_SERVER,
    REQUEST_MAX,
    attempts_text,
    escape,
    format_line,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIELDS: dict[str, Any] = {
    "client": "127.0.0.1", "port": 38554, "wall_time": 0.0,
    "frontend": "fe", "backend": "be", "server": "s1",
    "tr": 0, "tw": 0, "tc": 0, "th": 0, "ta": 0,
    "status": 200, "size": 51, "termination": "--NI",
    "actconn": 1, "feconn": 1, "beconn": 0, "srvconn": 0, "retries": 0, "redispatched": False,
    "srv_queue": 0, "backend_queue": 0,
    "method": "GET", "target": "/ok", "version": "HTTP/1.1",
}  # fmt: skip

LINE = re.compile(
    r"(?P<client>[0-9a-f.:]+):(?P<port>\d+) \[(?P<date>[^]]+)\] (?P<frontend>\S+) "
    r"(?P<backend>[^/ ]+)/(?P<server>\S+) (?P<times>(?:-?\d+/){4}-?\d+) (?P<status>-?\d+) "
    r"(?P<size>\d+) - - (?P<termination>\S{4}) (?P<connections>(?:\d+/){4}\+?\d+) "
    r'(?P<queues>\d+/\d+) "(?P<request>[ !$-~]*(?:#[0-9A-F]{2}[ !$-~]*)*)"'
)


def line(**fields: Any) -> str:
    f = FIELDS | fields
    text = f"{f['method']} {f['target']} {f['version']}"
    return format_line(
        f"{f['client']}:{f['port']}", int(f["wall_time"] * 1000), f["frontend"],
        f"{f['backend']}/{f['server']}", f"{f['tr']}/{f['tw']}/{f['tc']}", f["th"], f["ta"],
        f["status"], f["size"], f["termination"],
        f["actconn"], f["feconn"], f["beconn"], f["srvconn"],
        attempts_text(
            f["retries"], is_redispatched=f["redispatched"],
            server_queue=f["srv_queue"], backend_queue=f["backend_queue"],
        ),
        escape(text) if f["method"] else BAD_REQUEST,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    httplog.date.cache_clear()
    yield
    monkeypatch.undo()
    time.tzset()
    httplog.date.cache_clear()


def at(moment: str) -> float:
    return datetime.fromisoformat(moment + "+00:00").timestamp()


# Written by HAProxy 2.6.12 with `option httplog`, for requests that we sent to it.
@pytest.mark.parametrize(
    ("fields", "theirs"),
    [
        pytest.param(
            {"wall_time": at("2026-11-24 13:09:30.827")},
            '127.0.0.1:38554 [24/Nov/2026:13:09:30.827] fe be/s1 0/0/0/0/0 200 51 - - --NI '
            '1/1/0/0/0 0/0 "GET /ok HTTP/1.1"',
            id="normal, cookie inserted",
        ),
        pytest.param(
            {
                "port": 38568, "wall_time": at("2026-11-24 13:09:30.878"), "backend": "re",
                "server": "d2", "termination": "----", "retries": 1, "redispatched": True,
                "target": "/re",
            },
            '127.0.0.1:38568 [24/Nov/2026:13:09:30.878] fe re/d2 0/0/0/0/0 200 51 - - ---- '
            '1/1/0/0/+1 0/0 "GET /re HTTP/1.1"',
            id="redispatched",
        ),
        pytest.param(
            {
                "port": 38570, "wall_time": at("2026-11-24 13:09:30.930"), "backend": "dead",
                "server": "d1", "tw": 1001, "tc": -1, "th": -1, "ta": 1001, "status": 503,
                "size": 217, "termination": "SC--", "retries": 1, "target": "/dead",
            },
            '127.0.0.1:38570 [24/Nov/2026:13:09:30.930] fe dead/d1 0/1001/-1/-1/1001 503 217 - - '
            'SC-- 1/1/0/0/1 0/0 "GET /dead HTTP/1.1"',
            id="refused",
        ),
        pytest.param(
            {
                "port": 38576, "wall_time": at("2026-11-24 13:09:31.982"), "backend": "down",
                "server": NO_SERVER, "tw": -1, "tc": -1, "th": -1, "status": 503, "size": 217,
                "termination": "SC--", "target": "/down",
            },
            '127.0.0.1:38576 [24/Nov/2026:13:09:31.982] fe down/<NOSRV> 0/-1/-1/-1/0 503 217 - - '
            'SC-- 1/1/0/0/0 0/0 "GET /down HTTP/1.1"',
            id="no server",
        ),
        pytest.param(
            {
                "port": 38608, "wall_time": at("2026-11-24 13:09:32.135"), "backend": "fe",
                "server": NO_SERVER, "tr": -1, "tw": -1, "tc": -1, "th": -1, "status": 400,
                "size": 0, "termination": "PR--", "method": "", "target": "", "version": "",
            },
            '127.0.0.1:38608 [24/Nov/2026:13:09:32.135] fe fe/<NOSRV> -1/-1/-1/-1/0 400 0 - - '
            'PR-- 1/1/0/0/0 0/0 "<BADREQ>"',
            id="not a request",
        ),
    ],
)  # fmt: skip
def test_the_line_is_haproxys(fields: dict[str, Any], theirs: str) -> None:
    assert line(**fields) == theirs


# Each target was sent to HAProxy 2.6.12 with `option accept-invalid-http-request`.
@pytest.mark.parametrize(
    ("target", "logged"),
    [
        ('/a"b', "/a#22b"), ("/a#b", "/a#23b"), ("/a\x7fb", "/a#7Fb"), ("/a\x80b", "/a#80b"),
        ("/a\xc3\xa9b", "/a#C3#A9b"), ("/a{b", "/a{b"), ("/a|b", "/a|b"), ("/a\\b", "/a\\b"),
        ("/a<b", "/a<b"), ("/a^b", "/a^b"), ("/a%22b", "/a%22b"), ("/a'b", "/a'b"),
        # not to be had from HAProxy's parser, nor from ours; should it ever be:
        ("/a\nb\tc\0d\x1be", "/a#0Ab#09c#00d#1Be"), ("/a\u2028b", "/a#E2#80#A8b"),
        ("/a\ud800b", "/a#ED#A0#80b"),
    ],
)  # fmt: skip
def test_what_could_break_a_line_is_escaped_as_haproxy_does(target: str, logged: str) -> None:
    assert line(target=target).endswith(f'"GET {logged} HTTP/1.1"')


@pytest.mark.parametrize(("first", "logged"), [("x", "x"), ("\x80", "#80")])
def test_a_long_request_line_is_cut_where_haproxy_cuts_it(first: str, logged: str) -> None:
    whole = line(method="POST", target="/" + first + "x" * 1500)
    cut = REQUEST_MAX - len("POST /x")
    assert whole.endswith(f'"POST /{logged}' + "x" * cut + '"')


@given(
    method=st.text(min_size=1), target=st.text() | st.binary().map(lambda b: b.decode("latin-1"))
)
def test_no_request_can_break_a_line(method: str, target: str) -> None:
    written = line(method=method, target=target)
    match = LINE.fullmatch(written)
    assert match
    assert written.isascii()
    assert written.isprintable()
    assert match["request"] == httplog.escape(f"{method} {target} HTTP/1.1")


@given(
    numbers=st.lists(st.integers(0, 10**9), min_size=9, max_size=9),
    times=st.lists(st.integers(-1, 10**7), min_size=5, max_size=5),
    redispatched=st.booleans(),
)
def test_every_value_is_in_its_place(
    numbers: list[int], times: list[int], redispatched: bool
) -> None:
    names = [
        "status", "size", "actconn", "feconn", "beconn", "srvconn", "retries",
        "srv_queue", "backend_queue",
    ]  # fmt: skip
    match = LINE.fullmatch(
        line(
            **dict(zip(names, numbers, strict=True)),
            **dict(zip(["tr", "tw", "tc", "th", "ta"], times, strict=True)),
            redispatched=redispatched,
            client="2001:db8::1",
        )
    )
    assert match
    status, size, *connections, retries, srv_queue, backend_queue = numbers
    assert match["client"] == "2001:db8::1"
    assert match["times"] == "/".join(map(str, times))
    assert (match["status"], match["size"]) == (str(status), str(size))
    shown = [*map(str, connections), f"+{retries}" if redispatched else str(retries)]
    assert match["connections"] == "/".join(shown)
    assert match["queues"] == f"{srv_queue}/{backend_queue}"


@given(wall_time=st.floats(0, 4e9))
def test_the_date_is_the_moment_to_the_millisecond(wall_time: float) -> None:
    match = LINE.fullmatch(line(wall_time=wall_time))
    assert match
    shown = datetime.strptime(match["date"] + "+0000", "%d/%b/%Y:%H:%M:%S.%f%z").timestamp()
    assert 0 <= wall_time - shown < 0.0011


def test_the_date_is_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    httplog.date.cache_clear()
    assert "[25/Nov/2026:08:00:00.000]" in line(wall_time=at("2026-11-24 23:00:00"))


@pytest.mark.skipif(shutil.which("halog") is None, reason="halog comes with HAProxy")
def test_halog_reads_the_lines(tmp_path: Path) -> None:
    prefix = "Nov 24 13:09:30 host hermes_lb[1]: "
    lines = [
        line(status=200, server="s1", target="/a"),
        line(status=200, server="s2", target='/b"'),
        line(status=503, server=NO_SERVER, termination="SC--"),
    ]
    log = tmp_path / "log"
    log.write_text("".join(f"{prefix}{written}\n" for written in lines))
    for flag, expected in [
        ("-st", {"200 2", "503 1"}),
        ("-tc", {"-- 2", "SC 1"}),
        ("-u", {"/a", "/b#22", "/ok"}),
    ]:
        with log.open() as stream:
            ran = subprocess.run(
                ["halog", "-q", flag], stdin=stream, capture_output=True, text=True, check=True
            )
        rows = {row for row in ran.stdout.splitlines() if not row.startswith("#")}
        if flag == "-u":
            rows = {row.split()[-1] for row in rows}
        assert rows == expected
