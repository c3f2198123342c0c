"""How long each phase took, in the histograms of the server."""

from __future__ import annotations

import pytest

from hermes_lb.testing import Record
from tests.support.origin import answers
from tests.support.stage import Stage, pool_of, server_of
from tests.support.waiting import eventually

ONE_AT_A_TIME = {"max_connections": 1}


async def test_requests_on_kept_connections_have_not_waited(stage: Stage) -> None:
    lb, client, _ = await stage.served(answers(b"hello"))
    counters = server_of(lb).counters
    for count in range(1, 4):
        await client.ask()
        await eventually(lambda count=count: counters.duration.count == count)
    assert counters.queue_wait.count == counters.response_head.count == 3
    assert counters.queue_wait.counts[0] == 3
    assert counters.response_head.total <= counters.first_byte.total


async def test_a_request_that_waited_for_a_server_says_how_long(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, server=ONE_AT_A_TIME)
    first, second = await stage.clients(lb, 2)
    await first.get()
    at_origin, _ = await origin.accept_request()
    await second.get()
    await eventually(lambda: len(pool_of(lb).waiting) == 1)
    await at_origin.respond(b"1")
    await first.read_response()
    await at_origin.read_request()
    await at_origin.respond(b"2")
    await second.read_response()
    counters = server_of(lb).counters
    await eventually(lambda: counters.duration.count == 2)
    assert counters.queue_wait.count == counters.first_byte.count == 2
    line = (await stage.logged(lb, 2))[1]
    logged = Record.parse(line.line).times["Tw"] / 1000
    assert logged <= counters.queue_wait.total < logged + 0.001
    # What the server itself took is what is left of it.
    whole = counters.first_byte.total
    assert counters.response_head.total <= whole - counters.queue_wait.total + 1e-9
    assert counters.response_head.count == 2
    assert min(counters.response_head.counts) >= 0


@pytest.mark.parametrize("leaves", [True, False])
async def test_an_unsuccessful_wait_counts_where_there_was_no_server(
    stage: Stage, leaves: bool
) -> None:
    origin = await stage.origin()
    timeouts = {"queue": 60 if leaves else 0.05}
    lb = await stage.balancer(origin, server=ONE_AT_A_TIME, timeouts=timeouts)
    first, second = await stage.clients(lb, 2)
    await first.get()
    await origin.accept_request()
    await second.get()
    await eventually(lambda: len(pool_of(lb).waiting) == 1)
    if leaves:
        second.close()
    else:
        assert (await second.read_response()).status == 503
    unserved = pool_of(lb).unserved
    await eventually(lambda: unserved.duration.count == 1)
    assert unserved.waiting.count == unserved.queue_wait.count == 1
    assert unserved.response_head.count == 0


async def test_a_request_that_nobody_can_take_has_not_waited(stage: Stage) -> None:
    lb, client, _ = await stage.line(server={"down": True})
    assert (await client.ask()).status == 503
    unserved = pool_of(lb).unserved
    await eventually(lambda: unserved.duration.count == 1)
    assert unserved.queue_wait.count == 0


async def test_each_connection_that_is_made_is_timed(stage: Stage) -> None:
    lb = await stage.balancer(await stage.serving(), stage.nobody(), server={"max_fails": 0})
    client = await stage.client(lb)
    for _ in range(4):
        assert (await client.ask()).status == 200
    assert server_of(lb, 1).counters.dial.count == 1  # and it was kept
    assert server_of(lb, 2).counters.dial.count == 0
    assert server_of(lb, 2).counters.connect_errors > 0
