"""Sessions whose server goes out, or is gone, while they wait for it and when they ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.stage import Stage, in_flight, pool_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb import LoadBalancer
    from hermes_lb.backends import Server
    from tests.support.http_peer import AtOrigin, Client, Message

HASHES = {"on": "header:K"}
LEARNS = {"on": "header:K", "learn": True}
COUNT = 5

strictly = pytest.mark.parametrize("rule", [HASHES, LEARNS], ids=["hashed", "learnt"])
not_elsewhere = pytest.mark.parametrize(
    ("on_lost", "status"), [("strict", 503), ("404", 404)], ids=["strict", "404"]
)


class Agents:
    """They answer with their names; a request for /hold holds its server until `go` is set."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.go = asyncio.Event()

    async def start(self, count: int = COUNT, **backend: Any) -> LoadBalancer:
        names = [b"agent%d" % n for n in range(1, count + 1)]
        origins = [await self.stage.serving(self.named(name)) for name in names]
        return await self.stage.balancer(*origins, server={"max_connections": 1}, backend=backend)

    def named(self, name: bytes) -> Any:
        async def handle(connection: AtOrigin, message: Message) -> None:
            if message.head.target == "/hold":
                await self.go.wait()
            await connection.respond(name)

        return handle

    async def hold(self, lb: LoadBalancer, *fields: str) -> Client:
        held = sum(in_flight(lb))
        client = await self.stage.client(lb)
        await client.get("/hold", *fields)
        await eventually(lambda: sum(in_flight(lb)) == held + 1)
        return client

    async def wait(self, lb: LoadBalancer, *fields: str) -> Client:
        waiting = len(pool_of(lb).waiting)
        client = await self.stage.client(lb)
        await client.get("/", *fields)
        await eventually(lambda: len(pool_of(lb).waiting) == waiting + 1)
        return client

    async def ask(self, lb: LoadBalancer, *fields: str) -> Message:
        client = await self.stage.client(lb)
        return await client.ask("/", *fields)


@pytest.fixture
async def agents(stage: Stage) -> AsyncIterator[Agents]:
    made = Agents(stage)
    yield made
    made.go.set()


def named(lb: LoadBalancer, name: bytes) -> Server:
    return next(server for server in pool_of(lb).servers if server.name == name.decode())


async def without(lb: LoadBalancer, server: Server) -> None:
    """A reload takes it away."""
    backend = lb.config.backends["agents"]
    left = [one for one in backend.servers if one.name != server.name]
    changed = {"agents": backend.model_copy(update={"servers": left})}
    await lb.reconfigure(lb.config.model_copy(update={"backends": changed}))


async def in_maintenance(lb: LoadBalancer, server: Server) -> None:
    server.set_admin("maint")


# In the queue.


@strictly
@not_elsewhere
@pytest.mark.parametrize("goes", [in_maintenance, without])
async def test_a_strict_session_that_waits_gets_what_its_next_request_gets(
    agents: Agents, rule: Any, on_lost: str, status: int, goes: Any
) -> None:
    lb = await agents.start(stick=[{**rule, "on_lost": on_lost}])
    server = named(lb, (await agents.ask(lb, "K: 1")).body)
    held = await agents.hold(lb, "K: 1")
    waiting = [await agents.wait(lb, "K: 1") for _ in range(3)]
    await goes(lb, server)
    for client in waiting:
        assert (await client.read_response()).status == status
    assert not pool_of(lb).waiting
    assert server.queued == 0
    if goes is in_maintenance or "learn" in rule:  # else the key is another server's by now
        assert (await agents.ask(lb, "K: 1")).status == status
    agents.go.set()
    assert (await held.read_response()).status == 200


async def test_who_is_refused_in_the_queue_is_logged_as_who_is_refused_before_it(
    agents: Agents,
) -> None:
    lb = await agents.start(2, stick=[{**HASHES, "on_lost": "strict"}])
    server = named(lb, (await agents.ask(lb, "K: 1")).body)
    await agents.hold(lb, "K: 1")
    waiting = await agents.wait(lb, "K: 1")
    server.set_admin("maint")
    await waiting.read_response()
    await agents.ask(lb, "K: 1")
    _, first, second = await agents.stage.logged(lb, 3)
    assert (first.status, first.termination, first.server) == (503, "SC", "<NOSRV>")
    assert (second.status, second.termination, second.server) == (503, "SC", "<NOSRV>")
    reason = f"{server.name}, which has the session, is not available"
    assert (first.reason, second.reason) == (reason, reason)


async def test_what_is_pipelined_behind_a_refused_request_is_answered(agents: Agents) -> None:
    lb = await agents.start(stick=[{**HASHES, "on_lost": "strict"}])
    server = named(lb, (await agents.ask(lb, "K: 1")).body)
    await agents.hold(lb, "K: 1")
    waiting = await agents.wait(lb, "K: 1")
    await waiting.get("/")
    server.set_admin("maint")
    assert (await waiting.read_response()).status == 503
    assert (await waiting.read_response()).status == 200


@pytest.mark.parametrize("goes", [in_maintenance, without])
async def test_hashed_keys_that_wait_go_where_their_next_requests_go(
    agents: Agents, goes: Any
) -> None:
    lb = await agents.start(stick=[HASHES])
    owners = {n: (await agents.ask(lb, f"K: {n}")).body for n in range(40)}
    keys = [n for n in owners if owners[n] == owners[0]]
    await agents.hold(lb, "K: 0")
    waiting = {n: await agents.wait(lb, f"K: {n}") for n in keys}
    await goes(lb, named(lb, owners[0]))
    waited = {n: (await client.read_response()).body for n, client in waiting.items()}
    assert waited == {n: (await agents.ask(lb, f"K: {n}")).body for n in keys}
    assert len(set(waited.values())) > 1


async def test_who_waits_for_an_heir_that_is_full_is_served_by_no_other(agents: Agents) -> None:
    lb = await agents.start(stick=[HASHES])
    owner = named(lb, (await agents.ask(lb, "K: 1")).body)
    owner.set_admin("maint")
    heir = named(lb, (await agents.ask(lb, "K: 1")).body)
    held = await agents.hold(lb, "K: 1")
    owner.set_admin("ready")
    also_held = await agents.hold(lb, "K: 1")
    first = await agents.wait(lb, "K: 1")
    owner.set_admin("maint")
    second = await agents.wait(lb, "K: 1")
    assert (owner.queued, heir.queued) == (0, 2)
    agents.go.set()
    for client in (held, also_held, first, second):
        assert (await client.read_response()).status == 200
    assert heir.counters.responses[2] == 4  # the one that found it, and all but the owner's


async def test_while_nobody_may_serve_a_hashed_key_waits_for_whoever_has_it_then(
    agents: Agents,
) -> None:
    lb = await agents.start(stick=[HASHES])
    servers = pool_of(lb).servers
    owner = named(lb, (await agents.ask(lb, "K: 1")).body)
    owner.set_admin("maint")
    heir = named(lb, (await agents.ask(lb, "K: 1")).body)
    others = [server for server in servers if server not in (owner, heir)]
    await agents.hold(lb, "K: 1")  # the heir is full
    owner.set_admin("ready")
    await agents.hold(lb, "K: 1")
    waiting = await agents.wait(lb, "K: 1")
    for server in (*others, heir, owner):
        server.set_admin("maint")
    assert (await agents.ask(lb, "K: 1")).status == 503
    assert len(pool_of(lb).waiting) == 1
    heir.set_admin("ready")
    for server in others:  # they have room
        server.set_admin("ready")
    assert len(pool_of(lb).waiting) == 1
    assert (owner.queued, heir.queued) == (0, 1)
    agents.go.set()
    assert (await waiting.read_response()).body.decode() == heir.name


async def test_a_learnt_session_that_waits_takes_its_place_in_the_common_queue(
    agents: Agents,
) -> None:
    lb = await agents.start(3, stick=[LEARNS])
    owner = (await agents.ask(lb, "K: 1")).body
    for n in range(3):
        await agents.hold(lb, f"K: held-{n}")
    waiting = await agents.wait(lb, "K: 1")
    assert named(lb, owner).queued == 1
    named(lb, owner).set_admin("maint")
    assert len(pool_of(lb).waiting) == 1
    assert [server.queued for server in pool_of(lb).servers] == [0, 0, 0]
    agents.go.set()
    moved = await waiting.read_response()
    assert moved.status == 200
    assert moved.body != owner


async def test_a_cookies_session_that_waits_goes_on_whatever_the_rule_behind_it_says(
    agents: Agents,
) -> None:
    lb = await agents.start(
        2, stick=[{"on": "client", "on_lost": "strict"}], affinity={"cookie": "S"}
    )
    await agents.hold(lb, "Cookie: S=agent1")
    waiting = await agents.wait(lb, "Cookie: S=agent1")
    named(lb, b"agent1").set_admin("maint")
    assert (await waiting.read_response()).body == b"agent2"


# At the backups.


async def test_a_hashed_key_sticks_to_one_backup_while_all_primaries_are_out(stage: Stage) -> None:
    made = Agents(stage)
    origins = [await stage.serving(made.named(b"%d" % n)) for n in range(4)]
    lb = await stage.balancer(
        *origins, each=[{}, *[{"backup": True}] * 3], backend={"stick": [HASHES]}
    )
    pool_of(lb).servers[0].set_admin("maint")
    found = {}
    for n in range(12):
        bodies = {(await made.ask(lb, f"K: {n}")).body for _ in range(4)}
        assert len(bodies) == 1
        found[n] = bodies.pop()
    assert len(set(found.values())) > 1


# Gone from the configuration.


async def test_a_session_that_only_another_balancer_knows_is_lost_if_its_server_is_none_here(
    agents: Agents, redis_url: str
) -> None:
    origins = [await agents.stage.serving(agents.named(b"agent%d" % n)) for n in (1, 2)]
    for on_lost, status in (("strict", 503), ("404", 404), ("prefer", 200)):
        rule = {**LEARNS, "on_lost": on_lost}
        shared = {"stick": [rule], "pins": {"redis": redis_url}, "balance": "round_robin"}
        one = await agents.stage.balancer(*origins, backend=shared)
        two = await agents.stage.balancer(origins[0], backend=shared)
        keys = [f"{on_lost}-{n}" for n in (1, 2)]
        first, second = [(await agents.ask(one, f"K: {key}")).body for key in keys]
        assert {first, second} == {b"agent1", b"agent2"}
        lost = keys[1] if second == b"agent2" else keys[0]
        table = one._plane.backends["agents"].session_table
        for key in keys:  # the news is on its way
            while await table.look_up(key.encode()) is None:
                pass
        assert (await agents.ask(two, f"K: {lost}")).status == status
