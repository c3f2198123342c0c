"""`HealthChecker` against real servers on loopback that misbehave."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from hermes_lb.backends import Pool
from hermes_lb.config import Backend
from hermes_lb.health.checker import HealthChecker, first_delay
from hermes_lb.health.probes.expect import BODY_MAX
from hermes_lb.tasks import Tasks, jittered
from tests.support.fake_server import FakeServer, answers, hangs, resets, says, streams_for_ever
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from hermes_lb.backends import Server
    from tests.support.fake_server import Behaviour


class AtOnce(random.Random):
    """The first check comes at once."""

    def random(self) -> float:
        return 0.0


def a_backend(*ports: int, **health: Any) -> Backend:
    """Servers agent1, agent2, ... at `ports`; only the first check comes in a test's lifetime."""
    return Backend.model_validate(
        {
            "health": {"interval": "60s", "timeout": "10s", "fall": 1, "rise": 1} | health,
            "servers": [
                {"name": f"agent{n}", "address": f"127.0.0.1:{port}"}
                for n, port in enumerate(ports, 1)
            ],
        }
    )


@asynccontextmanager
async def checking(configured: Backend, **more: Any) -> AsyncIterator[Pool]:
    pool = Pool("agents", configured)
    checker = HealthChecker({"agents": pool}, {"agents": configured}, rng=AtOnce(), **more)
    await checker.start()
    try:
        yield pool
    finally:
        await checker.stop()


async def always_moves(server: Server, seconds: float) -> bool:
    return True


async def first_verdict(behaviour: Behaviour, **health: Any) -> tuple[Server, FakeServer]:
    async with FakeServer(behaviour) as fake, checking(a_backend(fake.port, **health)) as pool:
        server = pool.servers[0]
        await until(lambda: server.last_check not in ("", "not checked yet"))
        return server, fake


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    running = Tasks()
    yield running
    await running.cancel_all()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A bound port without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def test_a_healthy_server_is_up_and_says_how_fast() -> None:
    server, _ = await first_verdict(answers(200))
    assert server.is_up
    assert server.last_check.startswith("200 in ")
    assert server.last_check.endswith(" ms")


@pytest.mark.parametrize(
    ("behaviour", "because"),
    [
        pytest.param(answers(503), "503, expected 200", id="status"),
        pytest.param(
            answers(302, headers=b"Location: /elsewhere\r\n"), "302, expected 200", id="redirect"
        ),
        pytest.param(says(b""), "connection closed before a response", id="closes"),
        pytest.param(resets, "connection reset by peer", id="resets"),
        pytest.param(
            says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"),
            "connection closed within the response body",
            id="half a body",
        ),
        pytest.param(
            says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"),
            "no valid HTTP response: it ended within its head",
            id="half a head",
        ),
        pytest.param(
            says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
            "no valid HTTP response: malformed response (Duplicate Content-Length)",
            id="two lengths",
        ),
        pytest.param(
            says(b"HTTP/1.1 100 Continue\r\n\r\n" * 33),
            "no valid HTTP response: too many informational responses",
            id="100 for ever",
        ),
        pytest.param(
            says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000),
            "no valid HTTP response: its head is too long",
            id="a long head",
        ),
    ],
)
async def test_a_bad_answer_takes_it_down(behaviour: Behaviour, because: str) -> None:
    server, _ = await first_verdict(behaviour)
    assert not server.is_up
    assert server.last_check == because


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH_9\r\n", b"\x00\xff\r\n\r\n" * 9], ids=["ssh", "binary"]
)
async def test_garbage_takes_it_down_and_is_reported_in_one_printable_line(garbage: bytes) -> None:
    server, _ = await first_verdict(says(garbage))
    assert not server.is_up
    assert server.last_check.startswith("no valid HTTP response")
    assert server.last_check.isprintable()


async def test_silence_takes_it_down_after_the_timeout() -> None:
    server, _ = await first_verdict(hangs, timeout="50ms")
    assert not server.is_up
    assert server.last_check == "timeout after 0.05s"


async def test_without_a_timeout_the_interval_is_the_timeout() -> None:
    server, _ = await first_verdict(hangs, timeout=None, interval="40ms")
    assert server.last_check == "timeout after 0.04s"


# What this loop has lost says nothing of a server.


async def test_an_answer_that_this_loop_was_too_late_to_read_is_a_good_one() -> None:
    async def answers_while_we_stand_still(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        time.sleep(0.6)  # noqa: ASYNC251 - the loop is the checker's too
        for _ in range(5):  # turns, as a connection takes some
            await asyncio.sleep(0)
        await answers(200)(reader, writer)

    server, _ = await first_verdict(answers_while_we_stand_still, timeout="200ms")
    assert server.is_up
    assert server.last_check.startswith("200 in ")


async def test_a_silent_server_goes_down_however_late_this_loop_is(tasks: Tasks) -> None:
    async def stand_still_again_and_again() -> None:
        while True:
            time.sleep(0.1)  # noqa: ASYNC251 - the loop is the checker's too
            await asyncio.sleep(0.01)

    tasks.spawn(stand_still_again_and_again(), name="what keeps the loop")
    server, _ = await first_verdict(hangs, timeout="200ms")
    assert not server.is_up
    assert server.last_check == "timeout after 0.2s"


async def test_a_refused_connection_takes_it_down(closed_port: int) -> None:
    async with checking(a_backend(closed_port)) as pool:
        await until(lambda: not pool.servers[0].is_up)
        assert pool.servers[0].last_check == "connection refused"


async def test_what_this_machine_lacks_is_not_held_against_a_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lacking = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with patch("hermes_lb.backends.dialing.ServerDialer.dial", side_effect=lacking):
        async with checking(a_backend(8000)) as pool:
            await until(lambda: "was not checked: Too many open files" in caplog.text)
            assert pool.servers[0].is_up


async def test_an_endless_body_is_not_awaited() -> None:
    async with asyncio.timeout(5):
        server, _ = await first_verdict(streams_for_ever, timeout="30s")
    assert server.is_up


async def test_a_body_up_to_the_bound_is_read_whole() -> None:
    # Closing with unread data would reset the connection, and the server would complain.
    server, _ = await first_verdict(answers(200, body=b"x" * BODY_MAX))
    assert server.is_up


@pytest.mark.parametrize(
    ("expected", "status", "up"),
    [
        ([200], 204, False),
        (["2xx"], 204, True),
        (["200-399"], 399, True),
        (["200-399"], 400, False),
        (["2xx", 418], 418, True),
    ],
)
async def test_statuses_and_ranges(expected: list[int | str], status: int, up: bool) -> None:
    server, _ = await first_verdict(answers(status, body=b""), expect_status=expected)
    assert server.is_up is up


@pytest.mark.parametrize("behaviour", [says(b""), resets], ids=["closes", "resets"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_lost_connection_is_not_tried_again_behind_our_back(
    behaviour: Behaviour, method: str
) -> None:
    server, fake = await first_verdict(behaviour, method=method)
    assert not server.is_up
    assert fake.accepted == 1


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nre\r\n3\r\nady\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nready",
        b"HTTP/1.0 200 OK\r\n\r\nready",
    ],
    ids=["informational", "chunked", "until it closes", "HTTP/1.0"],
)
@pytest.mark.parametrize("pieces", ["whole", "byte by byte"])
async def test_an_answer_in_whatever_form(response: bytes, pieces: str) -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in [response] if pieces == "whole" else map(int.to_bytes, response):
            writer.write(piece)
            await asyncio.sleep(0)

    server, _ = await first_verdict(behave, expect_body="~^ready$")
    assert server.last_check.startswith("200 in ")


async def test_the_request() -> None:
    _, fake = await first_verdict(answers(200), path="/he%61lth?deep=%2F")
    line, *headers = fake.requests[0].decode().rstrip().split("\r\n")
    assert line == "GET /he%61lth?deep=%2F HTTP/1.1"
    assert f"Host: 127.0.0.1:{fake.port}" in headers
    assert "User-Agent: hermes-lb-check" in headers
    assert "Connection: close" in headers
    assert not any(header.lower().startswith("accept-encoding") for header in headers)


async def test_host_and_method_can_be_chosen() -> None:
    server, fake = await first_verdict(answers(200, body=b""), host="agent.test", method="HEAD")
    assert server.is_up
    assert fake.requests[0].startswith(b"HEAD /health HTTP/1.1\r\n")
    assert b"\r\nHost: agent.test\r\n" in fake.requests[0]


async def test_rise_and_fall_are_obeyed_and_each_check_is_a_fresh_connection() -> None:
    async with FakeServer(answers(200)) as fake:
        configured = a_backend(fake.port, interval="5ms", timeout="5s", rise=3, fall=2)
        async with checking(configured) as pool:
            server = pool.servers[0]
            await until(lambda: len(fake.requests) >= 2)
            assert server.is_up
            changes: list[int] = []  # how many requests had been answered at each change
            server.when_changed = lambda: changes.append(len(fake.requests))
            fake.behaviour = answers(500)
            failing_from = len(fake.requests)
            await until(lambda: not server.is_up)
            fake.behaviour = answers(200)
            passing_from = len(fake.requests)
            await until(lambda: server.is_up)
        went_down, came_up = changes
        assert went_down - failing_from in (2, 3)  # one may have been under way
        assert came_up - passing_from in (3, 4)
        assert fake.accepted == len(fake.requests)


async def test_start_down_is_down_at_once_and_comes_up_by_its_checks() -> None:
    async with FakeServer(answers(200)) as fake:
        configured = a_backend(fake.port, interval="5ms", timeout="5s", rise=2, start="down")
        async with checking(configured) as pool:
            server = pool.servers[0]
            assert not server.is_up
            assert server.last_check == "not checked yet"
            await until(lambda: server.is_up)
            assert fake.accepted >= 2


async def test_changes_are_one_line_each_in_the_log(
    closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hermes_lb.health")
    async with FakeServer(answers(200)) as fake:
        configured = a_backend(fake.port, closed_port, interval="20ms", timeout="5s")
        async with checking(configured) as pool:
            await until(lambda: not pool.servers[1].is_up)
            fake.behaviour = answers(503)
            await until(lambda: not pool.servers[0].is_up)
            fake.behaviour = answers(200)
            await until(lambda: pool.servers[0].is_up)
    down, all_down, up = caplog.records
    assert down.getMessage() == "agents/agent2 is DOWN: connection refused; 1 server up"
    assert down.levelno == logging.WARNING
    assert all_down.getMessage() == "agents/agent1 is DOWN: 503, expected 200; no servers up"
    assert all_down.levelno == logging.ERROR
    assert up.getMessage().startswith("agents/agent1 is UP: 200 in ")
    assert up.getMessage().endswith("; 1 server up")
    assert up.levelno == logging.INFO


# Busy is not dead.


BRIEF = {"interval": "30ms", "timeout": "20ms", "rise": 2, "fall": 2}


async def test_a_check_that_times_out_while_streams_move_makes_it_degraded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[tuple[Server, float]] = []

    async def moved(server: Server, seconds: float) -> bool:
        asked.append((server, seconds))
        return True

    caplog.set_level(logging.INFO, "hermes_lb.health")
    async with FakeServer(hangs) as fake, checking(a_backend(fake.port, **BRIEF), moved=moved) as p:
        server = p.servers[0]
        await until(lambda: len(asked) > 5)  # many more than `fall`
        assert server.state == "degraded"
        assert set(asked) == {(server, 0.03)}
        fake.behaviour = answers(200)
        await until(lambda: server.state == "up")
    degraded, up = caplog.records
    assert degraded.getMessage() == (
        "agents/agent1 is DEGRADED: timeout after 0.02s, but its streams go on; 1 server up"
    )
    assert degraded.levelno == logging.WARNING
    assert up.getMessage().startswith("agents/agent1 is UP: 200 in ")
    assert up.levelno == logging.INFO


async def test_when_its_streams_stand_still_it_goes_down_after_fall_checks() -> None:
    moves = True

    async def moved(server: Server, seconds: float) -> bool:
        return moves

    async with (
        FakeServer(hangs) as fake,
        checking(a_backend(fake.port, **BRIEF), moved=moved) as pool,
    ):
        server = pool.servers[0]
        await until(lambda: server.state == "degraded")
        moves = False
        seen: list[str] = []
        server.when_changed = lambda: seen.append(server.state)
        await until(lambda: server.state == "down")
        moves = True
        checks = fake.accepted
        await until(lambda: fake.accepted > checks + 2)
        assert server.state == "down"  # what is down comes up by good checks only
        assert seen == ["down"]


async def test_a_server_that_goes_down_by_silence_stands_still_once() -> None:
    async with FakeServer(hangs) as fake, checking(a_backend(fake.port, **BRIEF)) as pool:
        still: list[str] = []
        server = pool.servers[0]
        pool.on_marked_down = lambda server, is_still: is_still and still.append(server.state)
        await until(lambda: server.state == "down")
        checks = fake.accepted
        await until(lambda: fake.accepted > checks + 3)
        assert still == ["down"]
        fake.behaviour = answers(200)
        await until(lambda: server.state == "up")
        fake.behaviour = hangs
        await until(lambda: server.state == "down")
        assert still == ["down", "down"]


@pytest.mark.parametrize("more", [{}, {"moved": always_moves}], ids=["", "its streams move"])
@pytest.mark.parametrize("behaviour", [answers(503), resets, says(b"")])
async def test_a_server_that_goes_down_by_its_answers_does_not_stand_still(
    behaviour: Behaviour, more: dict[str, Any]
) -> None:
    """Nor is it busy: only a timeout can mean that."""
    async with (
        FakeServer(behaviour) as fake,
        checking(a_backend(fake.port, **BRIEF), **more) as pool,
    ):
        marked_down: list[bool] = []
        pool.on_marked_down = lambda server, stands_still: marked_down.append(stands_still)
        await until(lambda: pool.servers[0].state == "down")
        assert marked_down == [False]


@pytest.mark.parametrize(("moves", "stands_still"), [(False, 1), (True, 0)])
async def test_a_host_that_is_unreachable_stands_still_unless_its_streams_move(
    monkeypatch: pytest.MonkeyPatch, moves: bool, stands_still: int
) -> None:
    async def unreachable(*_: object) -> None:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    async def moved(server: Server, seconds: float) -> bool:
        return moves

    monkeypatch.setattr("hermes_lb.health.probes.connection.ask", unreachable)
    async with checking(a_backend(1, **BRIEF), moved=moved) as pool:
        still: list[bool] = []
        pool.on_marked_down = lambda server, is_still: still.append(is_still)
        await until(lambda: pool.servers[0].state == "down")
        assert still == [bool(stands_still)]


async def test_a_degraded_server_is_checked_at_the_fast_interval() -> None:
    health = {"interval": "60s", "fast_interval": "10ms", "timeout": "20ms", "rise": 1}
    async with (
        FakeServer(hangs) as fake,
        checking(a_backend(fake.port, **health), moved=always_moves),
    ):
        await until(lambda: fake.accepted > 3)


# Expectations beside the status.


@pytest.mark.parametrize(
    ("health", "because"),
    [
        ({"expect_body": "ready"}, None),
        ({"expect_body": "~^ready$"}, None),
        ({"expect_body": "~^ok"}, "200, expected ~^ok in the body"),
        ({"expect_header": "x-load: ~^[0-9]+$"}, None),
        ({"expect_header": "X-Load: 8"}, "200, expected the header X-Load: 8"),
        ({"expect_header": "X-Store"}, "200 without X-Store"),
    ],
)
async def test_header_and_body(health: dict[str, str], because: str | None) -> None:
    server, _ = await first_verdict(answers(200, b"ready", b"X-Load: 7\r\n"), **health)
    assert server.is_up is (because is None)
    assert because is None or server.last_check == because


@pytest.mark.parametrize(("expected", "up"), [("xr", True), ("xre", False), ("ready", False)])
async def test_what_is_expected_must_come_within_the_bound(expected: str, up: bool) -> None:
    behaviour = answers(200, b"x" * (BODY_MAX - 1) + b"ready")
    server, _ = await first_verdict(behaviour, expect_body=expected)
    assert server.is_up is up


async def test_coming_up_for_the_first_time_is_no_slow_start() -> None:
    async with FakeServer(answers(200)) as fake:
        configured = a_backend(fake.port, interval="5ms", rise=3, start="down")
        slow = configured.servers[0].model_copy(update={"slow_start": 60.0})
        configured = configured.model_copy(update={"servers": [slow]})
        async with checking(configured) as pool:
            server = pool.servers[0]
            await until(lambda: server.is_up)
            assert server.warmth == 1.0
            fake.behaviour = answers(503)
            await until(lambda: not server.is_up)
            fake.behaviour = answers(200)
            await until(lambda: server.is_up)
            assert server.warmth == 1 / 16


async def test_an_error_of_ours_does_not_end_the_checks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with FakeServer(answers(503)) as fake:
        configured = a_backend(fake.port, interval="5ms", timeout="5s")
        async with checking(configured) as pool:

            def broken() -> None:
                raise RuntimeError("a listener with a bug")

            pool.servers[0].when_changed = broken
            await until(lambda: not pool.servers[0].is_up)
            answered = len(fake.requests)
            await until(lambda: len(fake.requests) > answered)
    assert "a listener with a bug" in caplog.text


async def test_those_in_maintenance_and_without_checks_are_left_alone() -> None:
    async with FakeServer(answers(503)) as fake:
        address = f"127.0.0.1:{fake.port}"
        servers = [{"name": "agent1", "address": address}]
        unchecked = Backend.model_validate({"servers": servers})
        marked_down = Backend.model_validate(
            {"health": {"interval": "5ms"}, "servers": [servers[0] | {"down": True}]}
        )
        configured = {"a": unchecked, "b": marked_down}
        pools = {name: Pool(name, backend) for name, backend in configured.items()}
        checker = HealthChecker(pools, configured, rng=AtOnce())
        await checker.start()
        assert repr(checker) == "<HealthChecker running, 1 servers>"
        await checker.stop()
        assert repr(checker) == "<HealthChecker stopped, 1 servers>"
        assert fake.accepted == 0
        assert pools["a"].servers[0].is_up
        assert not pools["b"].servers[0].is_up


async def test_stop_leaves_nothing_behind_even_in_the_middle_of_a_check() -> None:
    before = asyncio.all_tasks()
    async with FakeServer(hangs) as fake:
        serving = asyncio.all_tasks() - before
        configured = a_backend(fake.port, fake.port)
        pool = Pool("agents", configured)
        checker = HealthChecker({"agents": pool}, {"agents": configured}, rng=AtOnce())
        await checker.start()
        with pytest.raises(RuntimeError, match="started already"):
            await checker.start()
        await until(lambda: fake.requests)
        await checker.stop()
        await until(lambda: fake.open == 0)
        await until(lambda: asyncio.all_tasks() - before <= serving)
        assert pool.servers[0].is_up  # no verdict from a check that was cut short
        await checker.stop()


def test_first_checks_are_spread_over_the_interval() -> None:
    rng = random.Random(1)
    delays = [first_delay(10.0, place, 5, rng) for place in range(5)]
    for place, delay in enumerate(delays):
        assert place * 2 <= delay < (place + 1) * 2


def test_jitter_stays_within_a_tenth_and_does_vary() -> None:
    rng = random.Random(1)
    delays = [jittered(10.0, rng) for _ in range(1000)]
    assert all(9.0 <= delay <= 11.0 for delay in delays)
    assert max(delays) - min(delays) > 1.9
