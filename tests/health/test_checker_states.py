"""`HealthChecker` with announced drains, maintenance and reloads."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.backends import Pool
from hermes_lb.health.checker import HealthChecker
from tests.health.test_checker import AtOnce, a_backend, checking
from tests.support.fake_server import FakeServer, answers, hangs, resets
from tests.support.waiting import until

if TYPE_CHECKING:
    from typing import Self

    from hermes_lb.config import Backend

OFTEN = {"interval": "5ms", "timeout": "5s"}
DRAINS = answers(503, headers=b"X-Hermes-Draining: 1\r\n")


# Requests that failed.


async def test_a_good_check_forgives_what_failed_before_it_began() -> None:
    async with FakeServer(answers(200)) as fake, checking(a_backend(fake.port, fake.port)) as pool:
        server = pool.servers[0]
        for _ in range(server.config.max_fails):
            pool.failed(server, time.monotonic(), "connection refused")
        assert server.state == "failing"
        await until(lambda: server.last_check.startswith("200"))
        assert server.state == "up"


async def test_a_good_check_does_not_forgive_what_failed_behind_its_begin() -> None:
    async with FakeServer(hangs) as fake:
        asked = asyncio.Event()

        async def answers_late(*streams: Any) -> None:
            await asked.wait()
            await answers(200)(*streams)

        fake.behaviour = answers_late
        async with checking(a_backend(fake.port, fake.port)) as pool:
            server = pool.servers[0]
            await until(lambda: fake.open)
            pool.failed(server, time.monotonic(), "connection refused")
            asked.set()
            await until(lambda: server.last_check.startswith("200"))
            assert server.fails == 1


# A server that announces its drain.


async def test_an_announced_drain_is_no_failure_and_a_good_check_ends_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "hermes_lb.health")
    async with FakeServer(DRAINS) as fake, checking(a_backend(fake.port, **OFTEN)) as pool:
        server = pool.servers[0]
        await until(lambda: len(fake.requests) > 5)  # many more than `fall`
        assert (server.state, server.may_serve(0.0)) == ("drain", True)
        fake.behaviour = answers(200)
        await until(lambda: server.state == "up")
    drain, up = caplog.records
    assert drain.getMessage() == (
        "agents/agent1 is DRAIN: 503, it announces its drain; no servers up"
    )
    assert drain.levelno == logging.ERROR  # no server is left for new requests
    assert up.getMessage().startswith("agents/agent1 is UP: 200 in ")


async def test_while_others_are_left_a_drain_is_no_reason_to_warn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "hermes_lb.health")
    async with (
        FakeServer(DRAINS) as one,
        FakeServer(answers(200)) as other,
        checking(a_backend(one.port, other.port)) as pool,
    ):
        await until(lambda: pool.servers[0].state == "drain")
    (record,) = caplog.records
    assert record.getMessage().endswith("; 1 server up")
    assert record.levelno == logging.INFO


@pytest.mark.parametrize(
    "value", [b"1", b"true", b"TRUE", b"", b"in 30 s", b"0\r\nX-Hermes-Draining: 1"]
)
async def test_any_value_but_0_and_false_announces_it(value: bytes) -> None:
    behaviour = answers(503, headers=b"x-hermes-draining: " + value + b"\r\n")
    async with FakeServer(behaviour) as fake, checking(a_backend(fake.port)) as pool:
        await until(lambda: pool.servers[0].state == "drain")


@pytest.mark.parametrize(
    ("status", "value"), [(503, b"0"), (503, b"False"), (503, b" 0 "), (500, b"1"), (404, b"1")]
)
async def test_other_bad_answers_are_failures(status: int, value: bytes) -> None:
    behaviour = answers(status, headers=b"X-Hermes-Draining: " + value + b"\r\n")
    async with FakeServer(behaviour) as fake, checking(a_backend(fake.port)) as pool:
        await until(lambda: pool.servers[0].state == "down")


async def test_a_good_answer_with_that_field_is_a_good_answer() -> None:
    behaviour = answers(200, headers=b"X-Hermes-Draining: 1\r\n")
    async with FakeServer(behaviour) as fake, checking(a_backend(fake.port, **OFTEN)) as pool:
        await until(lambda: len(fake.requests) > 2)
        assert pool.servers[0].state == "up"


async def test_a_server_that_drained_and_left_goes_down_by_its_failures() -> None:
    async with FakeServer(DRAINS) as fake, checking(a_backend(fake.port, **OFTEN)) as pool:
        await until(lambda: pool.servers[0].state == "drain")
        fake.behaviour = resets
        await until(lambda: pool.servers[0].state == "down")
        fake.behaviour = answers(200)
        await until(lambda: pool.servers[0].state == "up")


async def test_one_that_is_down_does_not_come_up_by_announcing_its_drain() -> None:
    async with FakeServer(DRAINS) as fake:
        configured = a_backend(fake.port, **OFTEN, start="down")
        async with checking(configured) as pool:
            await until(lambda: len(fake.requests) > 3)
            assert pool.servers[0].state == "down"


# Maintenance.


async def test_in_maintenance_no_checks_are_run() -> None:
    async with (
        FakeServer(answers(200)) as fake,
        FakeServer(answers(200)) as other,
        checking(a_backend(fake.port, other.port, **OFTEN)) as pool,
    ):
        await until(lambda: fake.requests)
        pool.servers[0].set_admin("maint")
        asked, seen = len(fake.requests), len(other.requests)
        await until(lambda: len(other.requests) > seen + 5)
        assert len(fake.requests) <= asked + 1  # one may have been under way
        pool.servers[0].set_admin("ready")
        await until(lambda: len(fake.requests) > asked + 2)


async def test_a_check_that_was_under_way_says_nothing_of_the_server_afterwards() -> None:
    async with FakeServer(hangs) as fake:
        configured = a_backend(fake.port, timeout="50ms", interval="50ms")
        async with checking(configured) as pool:
            server = pool.servers[0]
            await until(lambda: fake.open)
            server.set_admin("maint")
            server.set_admin("ready")
            fake.behaviour = answers(200)
            changes: list[str] = []
            server.when_changed = lambda: changes.append(server.state)
            await until(lambda: server.last_check.startswith("200"))
            assert changes == []


async def test_after_maintenance_one_failure_takes_it_down_whatever_fall_is() -> None:
    async with (
        FakeServer(answers(200)) as fake,
        checking(a_backend(fake.port, **OFTEN, fall=1000)) as pool,
    ):
        server = pool.servers[0]
        await until(lambda: len(fake.requests) > 2)
        server.set_admin("maint")
        fake.behaviour = answers(500)
        server.set_admin("ready")
        assert server.is_up
        await until(lambda: not server.is_up)


async def test_after_maintenance_one_that_starts_down_needs_rise_good_checks() -> None:
    async with (
        FakeServer(answers(200)) as fake,
        checking(a_backend(fake.port, **OFTEN, start="down", rise=3)) as pool,
    ):
        server = pool.servers[0]
        await until(lambda: server.is_up)
        server.set_admin("maint")
        server.set_admin("ready")
        asked = len(fake.requests)
        assert not server.is_up
        await until(lambda: server.is_up)
        assert len(fake.requests) >= asked + 3


# Health that an operator has set.


class Checked:
    """One backend with its checks, as a balancer runs and reloads them."""

    def __init__(self, configured: Backend) -> None:
        self.pool = Pool("agents", configured)
        self.checker = HealthChecker({"agents": self.pool}, {"agents": configured}, rng=AtOnce())

    async def __aenter__(self) -> Self:
        await self.checker.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.checker.stop()

    async def reload(self, configured: Backend) -> None:
        self.pool.reconfigure(configured)
        await self.checker.reconfigure({"agents": configured})


async def test_set_health_suspends_the_checks_until_a_maintenance() -> None:
    async with (
        FakeServer(answers(200)) as fake,
        FakeServer(answers(200)) as other,
        Checked(a_backend(fake.port, other.port, **OFTEN)) as one,
    ):
        server = one.pool.servers[0]
        await until(lambda: fake.requests)
        one.checker.force(server, up=False)
        asked, seen = len(fake.requests), len(other.requests)
        await until(lambda: len(other.requests) > seen + 5)
        assert (server.state, one.checker.forced) == ("down", [("agents", server.name)])
        assert len(fake.requests) <= asked + 1  # one may have been under way
        server.set_admin("maint")
        server.set_admin("ready")
        await until(lambda: len(fake.requests) > asked + 2)
        assert (server.state, one.checker.forced) == ("up", [])


# Reloads.


async def test_a_server_that_stays_keeps_its_verdict_over_a_reload() -> None:
    async with (
        FakeServer(answers(500)) as bad,
        FakeServer(answers(200)) as good,
        Checked(a_backend(bad.port, good.port, **OFTEN, start="down")) as one,
    ):
        await until(lambda: [s.state for s in one.pool.servers] == ["down", "up"])
        changes: list[str] = []
        one.pool.on_change = lambda server: changes.append(server.name)
        await one.reload(a_backend(bad.port, good.port, interval="6ms", timeout="5s", rise=2))
        asked = len(bad.requests), len(good.requests)
        await until(lambda: len(bad.requests) > asked[0] + 2)
        await until(lambda: len(good.requests) > asked[1] + 2)
        assert changes == []


async def test_one_that_is_down_needs_as_many_good_checks_as_the_reload_says() -> None:
    async with (
        FakeServer(answers(500)) as fake,
        Checked(a_backend(fake.port, **OFTEN)) as one,
    ):
        await until(lambda: one.pool.servers[0].state == "down")
        await one.reload(a_backend(fake.port, **OFTEN, rise=4))
        fake.requests.clear()
        fake.behaviour = answers(200)
        await until(lambda: one.pool.servers[0].state == "up")
        assert len(fake.requests) >= 4


async def test_a_server_that_is_added_is_checked_and_one_that_is_gone_is_not() -> None:
    async with (
        FakeServer(answers(200)) as first,
        FakeServer(answers(200)) as second,
        Checked(a_backend(first.port, **OFTEN)) as one,
    ):
        await until(lambda: first.requests)
        (gone,) = one.pool.servers
        await one.reload(a_backend(second.port, **OFTEN, start="down"))
        (added,) = one.pool.servers
        assert (gone.state, added.state) == ("maint", "down")
        await until(lambda: added.state == "up")
        asked = len(first.requests)
        seen = len(second.requests)
        await until(lambda: len(second.requests) > seen + 5)
        assert len(first.requests) == asked


async def test_a_check_of_a_server_that_is_gone_is_given_up() -> None:
    async with (
        FakeServer(hangs) as fake,
        FakeServer(answers(200)) as other,
        Checked(a_backend(fake.port)) as one,
    ):
        await until(lambda: fake.open)
        await one.reload(a_backend(other.port))
        await until(lambda: not fake.open)
        await until(lambda: other.requests)


async def test_who_is_not_checked_any_more_counts_as_up() -> None:
    async with FakeServer(answers(500)) as fake:
        configured = a_backend(fake.port, **OFTEN)
        async with Checked(configured) as one:
            server = one.pool.servers[0]
            await until(lambda: server.state == "down")
            await one.reload(configured.model_copy(update={"health": None}))
            assert (server.state, repr(one.checker)) == ("up", "<HealthChecker running, 0 servers>")


async def test_checks_that_begin_with_a_reload_take_nobody_down_until_one_fails() -> None:
    async with FakeServer(hangs) as fake:
        configured = a_backend(fake.port, start="down")
        async with Checked(configured.model_copy(update={"health": None})) as one:
            await one.reload(configured)
            await until(lambda: fake.open)
            assert one.pool.servers[0].is_up


async def test_what_is_checked_changes_with_a_reload() -> None:
    async with FakeServer(answers(200)) as fake, Checked(a_backend(fake.port, **OFTEN)) as one:
        await until(lambda: fake.requests)
        await one.reload(a_backend(fake.port, **OFTEN, path="/other"))
        fake.requests.clear()
        await until(lambda: len(fake.requests) > 3)
        assert all(request.startswith(b"GET /other ") for request in fake.requests)


async def test_reloads_leave_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with FakeServer(answers(200)) as fake:
        serving = asyncio.all_tasks() - before
        async with Checked(a_backend(fake.port, **OFTEN)) as one:
            for n in range(5):
                await one.reload(a_backend(fake.port, **OFTEN, path=f"/{n}"))
            watching = {
                task for task in asyncio.all_tasks() if task.get_name().startswith("health")
            }
            assert len(watching) == 1
        await until(lambda: fake.open == 0)
        await until(lambda: asyncio.all_tasks() - before <= serving)
