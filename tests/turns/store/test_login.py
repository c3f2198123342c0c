"""Another user or password for the same store, while it is used."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from agent_worker.redis_server import RedisServer
from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.store import stored_turns, writer
from tests.agent_worker.redis.topologies import ask
from tests.support.turn_fleet import ValkeyFleet, read_all, run
from tests.support.waiting import eventually, until
from tests.turns.store.rig import Turn
from tests.turns.store.test_client import COUNT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from hermes_lb.turns.store.client import StoreClient
    from tests.agent_worker.redis.topologies import Cluster, Sentinels
    from tests.turns.store.conftest import Connected
    from tests.turns.store.test_journal import Journals


def permit(ports: Iterable[int], user: str, password: str) -> None:
    for port in ports:
        ask(port, "ACL", "SETUSER", user, "on", f">{password}", "~*", "&*", "+@all")


def delete(ports: Iterable[int], *users: str) -> None:
    """The server ends their connections."""
    for port in ports:
        ask(port, "ACL", "DELUSER", *users)


def users(port: int) -> set[str]:
    """Of all connections but the test's."""
    lines = ask(port, "CLIENT", "LIST").splitlines()
    found = {dict(pair.split("=", 1) for pair in line.split())["user"] for line in lines}
    return found - {"default"}


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer.start() as running:
        permit([running.port], "old", "p1")
        yield running


@pytest.fixture
def client(server: RedisServer, connected: Connected) -> StoreClient:
    return connected(url(server, "old:p1"))


@pytest.fixture
async def fleet(server: RedisServer) -> AsyncIterator[ValkeyFleet]:
    several = ValkeyFleet(url(server, "old:p1"))
    yield several
    await several.close()


def url(server: RedisServer, user: str) -> str:
    return server.url.replace("://", f"://{user}@")


async def count(client: StoreClient) -> int:
    found = await client.run(COUNT, ["count"], [])
    assert isinstance(found, int)
    return found


async def test_connections_stay_until_their_user_is_deleted(
    server: RedisServer, client: StoreClient
) -> None:
    assert await count(client) == 1
    permit([server.port], "new", "p2")
    client.renew(url(server, "new:p2"))
    await client.try_login()
    assert await count(client) == 2
    assert users(server.port) == {"old"}
    delete([server.port], "old")
    assert await count(client) == 3
    assert users(server.port) == {"new"}


@pytest.mark.parametrize(
    "refused", [["new:p2"], ["new:p2", "other:p3"], ["new:p2", "new:p2"]], ids=" ".join
)
async def test_while_the_new_ones_are_refused_those_before_are_used(
    server: RedisServer, client: StoreClient, refused: list[str]
) -> None:
    assert await count(client) == 1
    for number, user in enumerate(refused, 2):
        client.renew(url(server, user))
        with pytest.raises(OSError, match="WRONGPASS"):
            await client.try_login()
        ask(server.port, "CLIENT", "KILL", "USER", "old")
        assert await count(client) == number
        assert users(server.port) == {"old"}
    # And the state after: the store has them, too.
    name, password = refused[-1].split(":")
    permit([server.port], name, password)
    await client.try_login()
    delete([server.port], "old")
    assert await count(client) == len(refused) + 2
    assert users(server.port) == {name}


async def test_a_user_without_rights_is_refused(server: RedisServer, client: StoreClient) -> None:
    """An administrator may give a user its password before its rights."""
    assert await count(client) == 1
    permit([server.port], "new", "p2")
    ask(server.port, "ACL", "SETUSER", "new", "-@scripting")
    client.renew(url(server, "new:p2"))
    with pytest.raises(OSError, match="NOPERM"):
        await client.try_login()
    ask(server.port, "CLIENT", "KILL", "USER", "old")
    assert await count(client) == 2
    assert users(server.port) == {"old"}


async def test_a_journal_without_news_lives_on(
    server: RedisServer, client: StoreClient, monkeypatch: pytest.MonkeyPatch, journals: Journals
) -> None:
    """Its connection is lost, and it has nothing to send."""
    monkeypatch.setattr(writer, "_RENEWED", 0.0)
    turn = Turn(journals(client))
    turn.append()
    await eventually(lambda: not turn.journal.unacknowledged)
    permit([server.port], "new", "p2")
    client.renew(url(server, "new:p2"))
    delete([server.port], "old")
    await until(lambda: users(server.port) == {"new"})
    for key in turn.keys:
        await client.ask(key, "PEXPIRE", key, 5_000)

    async def is_renewed() -> bool:
        return all([await client.ask(key, "PTTL", key) > 5_000 for key in turn.keys])

    await until(is_renewed)


async def test_where_neither_is_accepted_the_store_is_away_until_one_is(
    server: RedisServer, client: StoreClient
) -> None:
    await count(client)
    client.renew(url(server, "new:p2"))
    delete([server.port], "old")
    with pytest.raises(StoreAway, match="WRONGPASS"):
        await count(client)
    permit([server.port], "old", "p1")
    await eventually(lambda: client.is_reachable)
    assert await count(client) == 2


@pytest.mark.slow
async def test_all_servers_of_a_cluster(cluster: Cluster, connected: Connected) -> None:
    permit(cluster.ports, "old", "p1")
    client = connected(cluster.url.replace("://", "://old:p1@"))
    keys = [f"{{{n}}}" for n in range(40)]
    for expected, user, password in [(1, "new", "p2"), (2, "newer", "p3")]:
        counted = await asyncio.gather(*(client.run(COUNT, [key], []) for key in keys))
        assert counted == [expected] * len(keys)
        client.renew(cluster.url.replace("://", f"://{user}:{password}@"))
        permit(cluster.ports[:1], user, password)  # the others follow
        ask(cluster.master_ports()[-1], "CLIENT", "KILL", "USER", "old")
        counted = await asyncio.gather(*(client.ask(key, "GET", key) for key in keys))
        assert counted == [b"%d" % expected] * len(keys)
        permit(cluster.ports, user, password)
        await client.try_login()
    delete(cluster.ports, "old", "new")
    counted = await asyncio.gather(*(client.run(COUNT, [key], []) for key in keys))
    assert counted == [3] * len(keys)
    assert {user for port in cluster.master_ports() for user in users(port)} == {"newer"}


@pytest.mark.slow
async def test_sentinels_and_their_master(sentinels: Sentinels, connected: Connected) -> None:
    def with_users(server: str, sentinel: str) -> str:
        rest = sentinels.url.replace("://", f"://{server}@")
        user, password = sentinel.split(":")
        return f"{rest}?sentinel_username={user}&sentinel_password={password}&min_replicas=0"

    master = sentinels.master_port
    permit([master], "old", "p1")
    permit(sentinels.sentinel_ports, "sold", "s1")
    client = connected(with_users("old:p1", "sold:s1"))
    assert await count(client) == 1
    client.renew(with_users("new:p2", "snew:s2"))
    permit([master], "new", "p2")
    with pytest.raises(OSError, match="WRONGPASS"):  # of the Sentinels
        await client.try_login()
    permit(sentinels.sentinel_ports, "snew", "s2")
    await client.try_login()
    delete(sentinels.sentinel_ports, "sold")
    delete([master], "old")
    assert await count(client) == 2
    assert users(master) == {"new"}


async def test_a_turn_goes_on(
    server: RedisServer, fleet: ValkeyFleet, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its journal, a follower at another balancer, and the notifications."""
    monkeypatch.setattr(stored_turns, "_LOGS_IN", 0.01)
    caplog.set_level(logging.INFO, "hermes_lb.turns")
    balancers = [await fleet.at(number) for number in range(2)]
    turn = await run(balancers[0], fleet.claim(), b"data: 1\n\n")
    await fleet.acknowledged(turn)
    record = await balancers[1].find(fleet.principal, turn.id)
    assert record is not None
    reading = balancers[1].follow(record, 0)
    for balancer in balancers:
        balancer.renew(url(server, "refused:p2"))
        balancer.renew(url(server, "new:p2"))
    await eventually(lambda: caplog.text.count("does not accept its new URL") >= 2)
    permit([server.port], "new", "p2")
    await eventually(lambda: caplog.text.count("accepts its new URL") == 2)
    assert caplog.text.count("WRONGPASS") == caplog.text.count("does not accept its new URL")
    delete([server.port], "old")
    turn.journal.append(b"data: 2\n\n", 1)
    await turn.done()
    data, end = await read_all(reading)
    assert (data, end.is_clean) == (b"data: 1\n\ndata: 2\n\n", True)
    await eventually(lambda: users(server.port) == {"new"})
    assert "p2" not in caplog.text
