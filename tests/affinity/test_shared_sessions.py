"""Sessions that several balancers know of, through Redis."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from hermes_lb.affinity.stores.base import SharedStore
from hermes_lb.testing.record import Record
from tests.affinity.test_stick import MCP, mint, session_of
from tests.proxy.test_tunnel import HANDSHAKE
from tests.support.http_peer import AtOrigin, Client, request, response
from tests.support.loops import on_both_loops
from tests.support.stage import Stage, in_flight, server_of
from tests.support.waiting import eventually, turns
from tests.support.websocket import accepting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb import LoadBalancer
    from tests.agent_worker.redis.dropping_proxy import DroppingProxy
    from tests.support.origin import Origin


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[DroppingProxy]:
    """A way to that Redis, which can be held up."""
    module = pytest.importorskip("tests.agent_worker.redis.dropping_proxy")
    async with module.DroppingProxy(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        yield proxy  # it has to outlive the balancers: it comes first in a test's arguments
        await eventually(lambda: not proxy.open_connections)


def shared(url: str, **more: Any) -> dict[str, Any]:
    return {"stick": [MCP], "pins": {"redis": url, **more}}


async def test_two_balancers_over_one_redis_agree(stage: Stage, redis_url: str) -> None:
    origins = await mint(stage)
    one = await stage.balancer(*origins, backend=shared(redis_url))
    two = await stage.balancer(*origins, backend=shared(redis_url))
    for _ in range(9):
        session = session_of(await stage.ask(one))
        for lb in (two, one, two):
            assert (await stage.ask(lb, f"Mcp-Session-Id: {session}")).status == 200


async def test_a_pin_that_is_no_text_is_one_of_nobody(stage: Stage, redis_url: str) -> None:
    origins = await mint(stage)
    lb = await stage.balancer(*origins, backend=shared(redis_url))
    another = await stage.balancer(*origins, backend=shared(redis_url))
    session = session_of(await stage.ask(lb))
    async with Redis.from_url(redis_url) as redis:
        for key in await redis.keys("hermes-lb:pin:*"):
            await redis.set(key, b"\xff\xfe")
    assert (await stage.ask(another, f"Mcp-Session-Id: {session}")).status in (200, 404)
    new = session_of(await stage.ask(another))
    assert (await stage.ask(another, f"Mcp-Session-Id: {new}")).status == 200


class Held:
    """A request whose response names a session, while Redis does not hear of that."""

    def __init__(
        self, link: DroppingProxy, lb: LoadBalancer, client: Client, origin: Origin, at: AtOrigin
    ) -> None:
        self.link, self.lb, self.client, self.origin, self.at_origin = link, lb, client, origin, at

    async def names_it(self, data: bytes) -> None:
        """The server has said so much, and Redis shall hear of it."""
        before = self.link.commands["SET"]
        await self.at_origin.send(data)
        await eventually(lambda: self.link.commands["SET"] > before)
        assert await self.client.gets_nothing()


async def held(
    stage: Stage,
    link: DroppingProxy,
    head: bytes | None = None,
    **options: Any,
) -> Held:
    lb, client, origin = await stage.line(backend=shared(link.url), **options)
    # A connection to Redis, which the next command uses: opening one asks and answers.
    await client.get("/", "Mcp-Session-Id: of-nobody")
    at_origin = await origin.accept()
    await at_origin.read_request()
    await at_origin.respond(status=404)
    assert (await client.read_response()).status == 404
    await client.send(head or request("GET", "/"))
    await at_origin.read_request()
    link.go_deaf()
    return Held(link, lb, client, origin, at_origin)


@on_both_loops
async def test_the_client_learns_of_a_session_when_all_balancers_can(
    link: DroppingProxy, stage: Stage
) -> None:
    it = await held(stage, link)
    first, last = response(b"whole" * 9, "mcp-session-id: s")[:-20], (b"whole" * 9)[-20:]
    await it.names_it(first)
    await it.at_origin.send(last)
    assert await it.client.gets_nothing()
    link.speak()
    answer = await it.client.read_response()
    assert (answer.body, answer.get("mcp-session-id")) == (b"whole" * 9, "s")
    # Its connections go on.
    await it.client.get("/", "Mcp-Session-Id: s")
    await it.at_origin.read_request()
    await it.at_origin.serves(it.client, b"again")
    assert server_of(it.lb).counters.responses[2] == 2


@on_both_loops
async def test_a_server_that_closes_behind_its_response_is_passed_on_whole(
    link: DroppingProxy, stage: Stage
) -> None:
    it = await held(stage, link)
    await it.names_it(b"HTTP/1.1 200 OK\r\nmcp-session-id: s\r\n\r\nto the end")
    it.at_origin.close()
    assert await it.client.gets_nothing()
    link.speak()
    assert (await it.client.read_response()).body == b"to the end"
    assert (await stage.logged(it.lb, 2))[1].termination == "--"


async def test_a_tunnel_waits_too(link: DroppingProxy, stage: Stage) -> None:
    it = await held(stage, link, HANDSHAKE)
    await it.names_it(accepting(it.at_origin)[:-2] + b"mcp-session-id: s\r\n\r\nframe")
    link.speak()
    assert (await it.client.read_head()).status == 101
    assert await it.client.read_exactly(5) == b"frame"
    await it.client.send(b"back")
    assert await it.at_origin.read_exactly(4) == b"back"


async def test_a_client_that_leaves_meanwhile_leaves_nothing_behind(
    link: DroppingProxy, stage: Stage
) -> None:
    it = await held(stage, link)
    await it.names_it(response(b"", "mcp-session-id: s"))
    it.client.abort()
    assert (await stage.logged(it.lb, 2))[1].termination == "CH"
    assert in_flight(it.lb) == [0]
    link.speak()
    assert await it.at_origin.read_until_cut() == b""


async def test_a_request_that_is_finished_without_its_client_is_so_here(
    link: DroppingProxy, stage: Stage
) -> None:
    route = {"path_prefix": "/", "backend": "agents", "on_disconnect": "detach"}
    it = await held(stage, link, frontend={"routes": [route]})
    await it.names_it(response(b"whole", "mcp-session-id: s")[:-2])
    it.client.abort()
    await eventually(lambda: not it.lb._plane.context.live.clients)
    link.speak()
    await turns()
    assert in_flight(it.lb) == [1]
    await it.at_origin.send(b"le")
    await eventually(lambda: in_flight(it.lb) == [0])
    # The connection is as good as before.
    client = await stage.client(it.lb)
    await client.get("/")
    await it.at_origin.read_request()
    await it.at_origin.serves(client, b"next")


class TellsLater(SharedStore):
    """An empty store, which has an announced entry when its future in `told` is done."""

    is_reachable = True

    def __init__(self) -> None:
        self.told: list[tuple[str, asyncio.Future[bool]]] = []

    async def look_up(self, key: bytes) -> str | None:
        return None

    def announce(self, key: bytes, name: str) -> asyncio.Future[bool]:
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.told.append((name, told))
        return told

    def refresh(self, key: bytes, name: str) -> asyncio.Future[bool]:
        return self.announce(key, name)

    async def close(self) -> None: ...


async def test_each_response_for_one_key_is_held_once(stage: Stage) -> None:
    """Two servers answer at a time for a session that is new: the last one has it."""
    origins = [await stage.origin(), await stage.origin()]
    lb = await stage.balancer(*origins, backend={"stick": [MCP]})
    pins = lb._plane.backends["agents"].session_table
    pins._shared = others = TellsLater()
    clients = await stage.clients(lb, 2)
    asked = []
    for client, origin in zip(clients, origins, strict=True):
        await client.get("/", "Mcp-Session-Id: new")
        asked.append((await origin.accept_request())[0])
    for number, at_origin in enumerate(asked):
        await at_origin.respond(b"%d" % number)
        await eventually(lambda n=number: len(others.told) == n + 1)
    for number, (_, told) in enumerate(others.told):
        told.set_result(True)
        assert (await clients[number].read_response()).body == b"%d" % number
    assert [name for name, _ in others.told] == ["agent1", "agent2"]
    assert pins.find(b"new", lb._plane.context.clock()) == "agent2"


async def test_the_wait_is_none_of_the_servers_time(
    link: DroppingProxy, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = await held(stage, link)
    context = it.lb._plane.context
    clock, later = context.clock, 0.0
    monkeypatch.setattr(context, "clock", lambda: clock() + later)
    await it.names_it(response(b"whole", "mcp-session-id: s"))
    later = 100.0
    link.speak()
    assert (await it.client.read_response()).body == b"whole"
    times = Record.parse((await stage.logged(it.lb, 2))[1].line).times
    assert times["Tr"] < 50_000
    assert times["Ta"] > 100_000


async def test_a_redis_that_is_silent_is_not_waited_for_long(
    link: DroppingProxy, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes_lb.affinity.stores.redis._PATIENCE", 0.25)
    lb = await stage.balancer(*await mint(stage), backend=shared(link.url))
    link.go_mute()
    session = session_of(await stage.ask(lb))
    assert (await stage.ask(lb, f"Mcp-Session-Id: {session}")).status == 200
    await eventually(lambda: any("shared pins" in problem for problem in stage.problems))
    link.speak()
    stage.problems.clear()


async def test_without_its_redis_a_balancer_goes_by_what_it_knows(stage: Stage) -> None:
    lb = await stage.balancer(
        *await mint(stage), backend=shared(f"redis://127.0.0.1:{stage.nobody()}/0")
    )
    session = session_of(await stage.ask(lb))
    assert (await stage.ask(lb, f"Mcp-Session-Id: {session}")).status == 200
    assert (await stage.ask(lb, "Mcp-Session-Id: of-nobody")).status == 404
    await eventually(lambda: any("shared pins" in problem for problem in stage.problems))
    assert len(stage.problems) == 1
    stage.problems.clear()
    assert server_of(lb).fails == 0
