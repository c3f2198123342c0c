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
from hermes_lb.observe.httplog import REQUEST_MAX, escape
from hermes_lb.observe.record import FIRST_ATTEMPT, NEVER_SENT, Attempts, ToServer
from tests.observe.records import a_head, a_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINE = re.compile(
    r"(?P<client>[0-9a-f.:]+):(?P<port>\d+) \[(?P<date>[^]]+)\] (?P<frontend>\S+) "
    r"(?P<backend>[^/ ]+)/(?P<server>\S+) (?P<times>(?:-?\d+/){4}-?\d+) (?P<status>-?\d+) "
    r"(?P<size>\d+) - - (?P<termination>\S{4}) (?P<connections>(?:\d+/){4}\+?\d+) "
    r'(?P<queues>\d+/\d+) "(?P<request>[ !$-~]*(?:#[0-9A-F]{2}[ !$-~]*)*)"'
)


def line(shows_trace: bool = False, **changed: Any) -> str:
    return httplog.line(a_record(**changed), shows_trace=shows_trace)


def clear_dates() -> None:
    httplog.date.cache_clear()
    httplog._moment.cache_clear()


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    clear_dates()
    yield
    monkeypatch.undo()
    time.tzset()
    clear_dates()


def at(moment: str) -> float:
    return datetime.fromisoformat(moment + "+00:00").timestamp()


# Written by HAProxy 2.6.12 with `option httplog`, for requests that we sent to it.
@pytest.mark.parametrize(
    ("fields", "theirs"),
    [
        pytest.param(
            {"began": at("2026-11-24 13:09:30.827")},
            '127.0.0.1:38554 [24/Nov/2026:13:09:30.827] fe be/s1 0/0/0/0/0 200 51 - - --NI '
            '1/1/0/0/0 0/0 "GET /ok HTTP/1.1"',
            id="normal, cookie inserted",
        ),
        pytest.param(
            {
                "port": 38568, "began": at("2026-11-24 13:09:30.878"), "backend": "re",
                "server": "d2", "termination": "----",
                "attempts": FIRST_ATTEMPT._replace(retries=1, is_redispatched=True),
                "request": a_head(target=b"/re"),
            },
            '127.0.0.1:38568 [24/Nov/2026:13:09:30.878] fe re/d2 0/0/0/0/0 200 51 - - ---- '
            '1/1/0/0/+1 0/0 "GET /re HTTP/1.1"',
            id="redispatched",
        ),
        pytest.param(
            {
                "port": 38570, "began": at("2026-11-24 13:09:30.930"), "backend": "dead",
                "server": "d1", "to_server": ToServer(0.0, 1.0011, None), "response": None,
                "total": 1.0011, "status": 503, "bytes_sent": 217, "termination": "SC--",
                "attempts": FIRST_ATTEMPT._replace(retries=1), "request": a_head(target=b"/dead"),
            },
            '127.0.0.1:38570 [24/Nov/2026:13:09:30.930] fe dead/d1 0/1001/-1/-1/1001 503 217 - - '
            'SC-- 1/1/0/0/1 0/0 "GET /dead HTTP/1.1"',
            id="refused",
        ),
        pytest.param(
            {
                "port": 38576, "began": at("2026-11-24 13:09:31.982"), "backend": "down",
                "server": "", "to_server": ToServer(0.0, None, None), "response": None,
                "status": 503, "bytes_sent": 217, "termination": "SC--",
                "request": a_head(target=b"/down"),
            },
            '127.0.0.1:38576 [24/Nov/2026:13:09:31.982] fe down/<NOSRV> 0/-1/-1/-1/0 503 217 - - '
            'SC-- 1/1/0/0/0 0/0 "GET /down HTTP/1.1"',
            id="no server",
        ),
        pytest.param(
            {
                "port": 38608, "began": at("2026-11-24 13:09:32.135"), "backend": "",
                "server": "", "to_server": NEVER_SENT, "response": None, "status": 400,
                "bytes_sent": 0, "termination": "PR--", "request": None,
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
    assert escape(target) == logged


@pytest.mark.parametrize(("first", "logged"), [("x", "x"), ("\x80", "#80")])
def test_a_long_request_line_is_cut_where_haproxy_cuts_it(first: str, logged: str) -> None:
    target = f"/{first}{'x' * 1500}".encode("latin-1")
    whole = line(request=a_head(b"POST", target))
    cut = REQUEST_MAX - len("POST /x")
    assert whole.endswith(f'"POST /{logged}' + "x" * cut + '"')


@given(method=st.binary(min_size=1), target=st.binary())
def test_no_request_can_break_a_line(method: bytes, target: bytes) -> None:
    written = line(request=a_head(method, target))
    match = LINE.fullmatch(written)
    assert match
    assert written.isascii()
    assert written.isprintable()
    sent = b"%b %b HTTP/1.1" % (method, target)
    assert match["request"] == escape(sent.decode("latin-1"))


@given(text=st.text())
def test_no_reason_can_break_a_line(text: str) -> None:
    written = line(reason=f"why {text}")
    assert written.isascii()
    assert written.isprintable()
    assert re.fullmatch(r'.* 0/0 \{why [^{|}"]*\} "GET /ok HTTP/1.1"', written)


@pytest.mark.parametrize(
    ("changed", "braces"),
    [
        ({"reason": "no server"}, "{no server} "),
        ({"shows_trace": True, "request": a_head(trace_id=b"ab12")}, "{ab12} "),
        ({"shows_trace": True, "request": a_head()}, "{} "),
        ({"shows_trace": True, "request": None, "reason": "bad"}, "{} {bad} "),
        ({"shows_trace": False, "request": a_head(trace_id=b"ab12")}, ""),
    ],
)
def test_trace_and_reason_are_where_haproxy_has_captured_headers(
    changed: dict[str, Any], braces: str
) -> None:
    request = "<BADREQ>" if changed.get("request", True) is None else "GET /ok HTTP/1.1"
    assert line(**changed).endswith(f' 0/0 {braces}"{request}"')


@given(
    numbers=st.lists(st.integers(0, 10**9), min_size=8, max_size=8),
    times=st.lists(st.none() | st.integers(0, 10**7), min_size=5, max_size=5),
    is_redispatched=st.booleans(),
    is_pinned=st.booleans(),
)
def test_every_value_is_in_its_place(
    numbers: list[int], times: list[int | None], is_redispatched: bool, is_pinned: bool
) -> None:
    status, size, *connections, retries, position = numbers
    # Half a millisecond on top, so that a float below its integer does not matter.
    tr, tw, tc, th, ta = [None if time is None else (time + 0.5) / 1000 for time in times]
    match = LINE.fullmatch(
        line(
            client="2001:db8::1", status=status, bytes_sent=size,
            to_server=ToServer(tr, tw, tc), response=th, total=ta or 0.0005,
            **dict(zip(
                ("connections", "frontend_connections", "backend_load", "server_load"),
                connections, strict=True,
            )),
            attempts=Attempts(retries, is_redispatched, position, is_pinned),
        )
    )  # fmt: skip
    assert match
    assert match["client"] == "2001:db8::1"
    times[4] = times[4] or 0
    assert match["times"] == "/".join("-1" if time is None else str(time) for time in times)
    assert (match["status"], match["size"]) == (str(status or -1), str(size))
    shown = [*map(str, connections), f"+{retries}" if is_redispatched else str(retries)]
    assert match["connections"] == "/".join(shown)
    assert match["queues"] == (f"{position}/0" if is_pinned else f"0/{position}")


@given(began=st.floats(0, 4e9))
def test_the_date_is_the_moment_to_the_millisecond(began: float) -> None:
    match = LINE.fullmatch(line(began=began))
    assert match
    shown = datetime.strptime(match["date"] + "+0000", "%d/%b/%Y:%H:%M:%S.%f%z").timestamp()
    assert 0 <= began - shown < 0.0011


def test_the_date_is_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    clear_dates()
    assert "[25/Nov/2026:08:00:00.000]" in line(began=at("2026-11-24 23:00:00"))


@pytest.mark.skipif(shutil.which("halog") is None, reason="halog comes with HAProxy")
def test_halog_reads_the_lines(tmp_path: Path) -> None:
    prefix = "Nov 24 13:09:30 host hermes_lb[1]: "
    lines = [
        line(request=a_head(target=b"/a")),
        line(server="s2", request=a_head(target=b'/b"')),
        line(status=503, server="", termination="SC--"),
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
