"""An access log as a workload: HAProxy's own lines, and ours."""

from __future__ import annotations

import json

import pytest

from hermes_lb.lab.traces.access_log import Log, parse, read
from hermes_lb.observe import httplog, json_log
from tests.observe.records import a_record

# Written by HAProxy 2.6.12 with `option httplog`; the first through a syslog server.
HAPROXY = [
    "Nov 24 12:55:17 box haproxy[614]: 127.0.0.1:38554 [24/Nov/2026:12:55:17.000] fe be/s1 "
    '0/0/0/120/1500 200 51 - - --NI 1/1/0/0/0 0/0 "GET /ok HTTP/1.1"',
    "127.0.0.1:38560 [24/Nov/2026:12:55:16.250] fe be/s2 "
    '10/400/5/50/465 200 51 - - --VN 1/1/0/0/+1 0/0 "GET /ok HTTP/1.1"',
]


def arrivals(log: Log) -> list[float]:
    return [entry.at - log.entries[0].at for entry in log.entries]


def line(
    began: int, *, client: str = "10.1.2.3", served_by: str = "be/s1", response: float | None = 0.0
) -> str:
    backend, _, server = served_by.partition("/")
    return httplog.line(
        a_record(
            began=began / 1000, client=client, backend=backend, server=server, response=response
        )
    )


def test_requests_are_in_order_of_arrival_with_what_the_server_took() -> None:
    log = parse(HAPROXY)
    assert arrivals(log) == [0.0, pytest.approx(0.75)]
    # Without what it waited for its head and a server.
    assert [entry.length for entry in log.entries] == [0.05, 1.5]
    assert [entry.first for entry in log.entries] == [0.05, 0.12]
    assert [(entry.size, entry.load) for entry in log.entries] == [(51, 0), (51, 0)]
    assert log.servers == ["s2", "s1"]
    assert {entry.client for entry in log.entries} == {"127.0.0.1"}


def test_our_own_lines_are_read() -> None:
    began = 1_795_000_000_000
    lines = [
        line(began),
        line(began + 1500, client="2001:db8::7", served_by="be/s2"),
        line(began + 2000),
    ]
    log = parse(lines)
    assert arrivals(log) == pytest.approx([0.0, 1.5, 2.0])
    assert [entry.client for entry in log.entries] == ["10.1.2.3", "2001:db8::7", "10.1.2.3"]
    assert log.skipped == 0


def test_lines_without_an_answer_and_strangers_are_skipped_and_counted() -> None:
    log = parse(
        [
            line(1_795_000_000_000),
            line(1_795_000_001_000, served_by=""),
            line(1_795_000_001_000, response=None),
            "hello",
            HAPROXY[0].replace("24/Nov", "44/Nov"),
            HAPROXY[0].replace("Nov/2026", "Nox/2026"),
            HAPROXY[0].replace("/1500 ", f"/{'9' * 320} "),  # more than a float can be
            HAPROXY[0].replace("/120/", f"/{'9' * 5000}/"),  # more than int() reads
            HAPROXY[0].replace("/1500 ", "/٣ "),
            "",
        ]
    )
    assert len(log.servers) == 1
    assert log.skipped == 8


DAY = 86_400_000
BEGAN = 1_795_000_000_000


def test_requests_a_week_away_from_most_of_the_others_are_counted_and_not_played() -> None:
    far = [HAPROXY[0].replace("Nov/2026", f"Nov/{year}") for year in ("0001", "1970", "9999")]
    days = (-8, 0, 6, 13, 21)  # 8 days before the first that is played, and after the last one
    log = parse([*far, *(line(BEGAN + day * DAY) for day in days)])
    assert arrivals(log) == [0.0, 6 * 86_400.0, 13 * 86_400.0]
    assert log.apart == 5
    assert log.skipped == 0


def test_backends_are_one_pool_or_one_of_them_is_taken() -> None:
    lines = [line(BEGAN), line(BEGAN + 1000, served_by="api/s1"), line(BEGAN + 2000)]
    log = parse(lines)
    assert log.backends == ["api", "be"]
    assert log.servers == ["be/s1", "api/s1", "be/s1"]
    log = parse(lines, backend="be")
    assert log.backends == ["be"]
    assert log.servers == ["s1", "s1"]
    with pytest.raises(ValueError, match="no request of backend 'x'; there are api, be"):
        parse(lines, backend="x")


def test_only_so_many_are_taken() -> None:
    assert len(parse(HAPROXY, 1).entries) == 1


def test_a_file_without_requests_is_refused() -> None:
    with pytest.raises(ValueError, match="no line of it"):
        parse(["hello", "world"])


def test_clients_are_sessions_and_an_hour_of_nothing_ends_one() -> None:
    recording = read([line(BEGAN), line(BEGAN + 10_000), line(BEGAN + 3_700_000)])
    first, second = recording.sessions
    assert [(call.after, round(call.pause, 3)) for call in first.calls] == [(-1, 0.0), (0, 10.0)]
    assert second.start == pytest.approx(3700.0)
    assert recording.servers == ["s1"] * 3


def test_our_json_lines_are_read_as_the_others_are() -> None:
    record = a_record(
        began=BEGAN / 1000, client="10.1.2.3", backend="be", server="s1", response=0.1
    )
    (one,) = parse([json_log.line(record)]).entries
    (other,) = parse([httplog.line(record)]).entries
    assert one == other._replace(load=-1)


@pytest.mark.parametrize(
    "damage",
    [
        {"server": None}, {"response_ms": None}, {"time": "yesterday"}, {"time": 5},
        {"total_ms": -1}, {"total_ms": 1e300}, {"total_ms": float("nan")}, {"head_ms": "x"},
        {"bytes_sent": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_json_line_is_skipped_and_counted(damage: dict[str, object]) -> None:
    good = json_log.line(a_record(began=BEGAN / 1000, server="s1", response=0.1))
    log = parse([good, json.dumps(json.loads(good) | damage), "{", "{}", "[]", '{"a":' * 9999])
    assert len(log.entries) == 1
    assert log.skipped == 5
