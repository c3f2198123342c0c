"""No server is up: with `wait_for_server` requests wait for the first one, up to a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.options.units import Address
from hermes_lb.plane import DataPlane
from tests.support.origin import answers
from tests.support.stage import pool_of, server_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import Client
    from tests.support.stage import Stage

WAITS = {"wait_for_server": "60s"}


async def starting(lb: LoadBalancer, count: int) -> None:
    await eventually(lambda: len(pool_of(lb).starting) == count, f"{count} requests wait")
    assert pool_of(lb).queue_length == count


async def all_down(stage: Stage, count: int = 1, **options: Any) -> LoadBalancer:
    lb = await stage.balancer(*await stage.agents(count), **options)
    for server in pool_of(lb).servers:
        server.set_up(False, "for a test")
    return lb


async def asking(stage: Stage, lb: LoadBalancer, count: int) -> list[Client]:
    clients = await stage.clients(lb, count)
    for number, client in enumerate(clients, 1):
        await client.get(f"/{number}")
        await starting(lb, number)
    return clients


async def test_requests_wait_until_a_server_is_up(stage: Stage) -> None:
    lb = await all_down(stage, backend=WAITS)
    clients = await asking(stage, lb, 3)
    server_of(lb).set_up(True, "for a test")
    assert [(await one.read_response()).status for one in clients] == [200] * 3
    assert pool_of(lb).queue_length == 0
    assert (await clients[0].ask()).status == 200  # the state after


async def test_they_choose_by_the_strategy_once_servers_are_up(stage: Stage) -> None:
    lb = await all_down(stage, 3, backend={**WAITS, "balance": "leastconn"})
    clients = await asking(stage, lb, 6)
    pool = pool_of(lb)
    with pool.many_changing():  # as with a new set of servers
        for server in pool.servers:
            server.set_up(True, "for a test")
    found = sorted([(await one.read_response()).body for one in clients])
    assert found == [b"agent1", b"agent1", b"agent2", b"agent2", b"agent3", b"agent3"]


async def test_they_wait_for_room_after_that(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, server={"max_connections": 1}, backend=WAITS)
    server_of(lb).set_up(False, "for a test")
    one, two = await asking(stage, lb, 2)
    server_of(lb).set_up(True, "for a test")
    origin.serve(answers())
    assert [(await each.read_response()).status for each in (one, two)] == [200, 200]


async def test_new_servers_serve_them(stage: Stage) -> None:
    """Discovery has found servers under other addresses, and the old ones are gone."""
    lb = await all_down(stage, backend=WAITS)
    [client] = await asking(stage, lb, 1)
    plane = lb._plane
    assert isinstance(plane, DataPlane)
    origin = await stage.serving(answers(b"new"))
    new = server_of(lb).config.model_copy(
        update={"name": "new", "address": Address("127.0.0.1", origin.port)}
    )
    plane.set_servers("agents", [new])
    assert (await client.read_response()).body == b"new"


async def test_a_discovery_that_has_found_none_is_waited_for_too(stage: Stage) -> None:
    """By this key's own limits, where without it the queue's hold."""
    lb = await all_down(stage, backend=WAITS | {"max_queue": 1})
    pool_of(lb).expects_servers = True
    known = server_of(lb).config
    plane = lb._plane
    plane.set_servers("agents", [])
    [client] = await asking(stage, lb, 1)
    assert (await stage.ask(lb)).status == 503
    plane.set_servers("agents", [known])
    assert (await client.read_response()).status == 200


@pytest.mark.parametrize(
    ("backend", "most"), [({"max_queue": 2}, 2), ({}, 3)], ids=["max_queue", "the default"]
)
async def test_further_requests_are_refused_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, backend: dict[str, int], most: int
) -> None:
    monkeypatch.setattr("hermes_lb.proxy.select._MOST_STARTING", 3)
    lb = await all_down(stage, backend=WAITS | backend)
    clients = await asking(stage, lb, most)
    refused = await stage.ask(lb, target="/further")
    assert (refused.status, refused.get("Retry-After")) == (503, "5")
    assert pool_of(lb).queue_length == most
    server_of(lb).set_up(True, "for a test")
    assert [(await one.read_response()).status for one in clients] == [200] * most
    assert (await stage.ask(lb)).status == 200


async def test_a_client_that_leaves_gives_its_place_back(stage: Stage) -> None:
    lb = await all_down(stage, backend=WAITS | {"max_queue": 1})
    [client] = await asking(stage, lb, 1)
    client.close()
    await starting(lb, 0)
    [other] = await asking(stage, lb, 1)
    server_of(lb).set_up(True, "for a test")
    assert (await other.read_response()).status == 200


async def test_the_wait_has_an_end_of_its_own(stage: Stage) -> None:
    """Not that of `timeouts.queue`."""
    lb = await all_down(stage, backend={"wait_for_server": "100ms"}, timeouts={"queue": "1h"})
    refused = await stage.ask(lb)
    assert (refused.status, refused.get("Retry-After")) == (503, "5")
    line = await stage.log_line(lb)
    assert line.termination == "sQ"
    assert pool_of(lb).queue_length == 0


async def test_a_full_queue_refuses_too(stage: Stage) -> None:
    origin = await stage.origin()
    lb = await stage.balancer(origin, server={"max_connections": 1}, backend={"max_queue": 1})
    one, two = await stage.clients(lb, 2)
    await one.get()
    at_origin, _ = await origin.accept_request()
    await two.get()
    await eventually(lambda: len(pool_of(lb).waiting) == 1, "a request waits")
    assert (await stage.ask(lb)).status == 503
    await at_origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert (await one.read_response()).status == 200
    origin.serve(answers())


async def test_without_the_key_they_are_refused_at_once(stage: Stage) -> None:
    lb = await all_down(stage)
    assert (await stage.ask(lb)).status == 503
    assert pool_of(lb).queue_length == 0
