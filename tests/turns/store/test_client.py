"""The store's client and one server."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from agent_worker.redis_server import RedisServer
from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.store.scripts import script_of
from tests.agent_worker.redis.dropping_proxy import DroppingProxy
from tests.agent_worker.redis.topologies import ask
from tests.support.loops import on_both_loops
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from hermes_lb.tasks import Tasks
    from tests.turns.store.conftest import Connected

COUNT = script_of("return redis.call('INCR', KEYS[1])")
#: As the store's scripts are: a repetition finds its work done, and writes nothing.
ONCE = script_of("if redis.call('SET', KEYS[1], ARGV[1], 'NX') then return 1 end return 2")


@on_both_loops
async def test_a_script_that_the_server_does_not_know(
    valkey: RedisServer, connected: Connected
) -> None:
    client = connected(valkey.url)
    ask(valkey.port, "SCRIPT", "FLUSH")
    ask(valkey.port, "DEL", "unknown")
    assert [await client.run(COUNT, ["unknown"], []) for _ in range(2)] == [1, 2]
    assert await client.ask("unknown", "GET", "unknown") == b"2"


async def test_many_callers_share_one_connection(
    valkey: RedisServer, link: DroppingProxy, connected: Connected
) -> None:
    client = connected(link.url)
    ask(valkey.port, "DEL", "many")
    assert sorted(
        await asyncio.gather(*(client.run(COUNT, ["many"], []) for _ in range(200)))
    ) == list(range(1, 201))
    assert link.accepted == 1


@on_both_loops
async def test_a_lost_reply_is_asked_for_again(link: DroppingProxy, connected: Connected) -> None:
    client = connected(link.url)
    ask(link.target, "DEL", "once", "other")
    await client.run(ONCE, ["other"], ["x"])
    link.lose_replies("EVALSHA")
    assert await client.run(ONCE, ["once"], ["x"]) == 2
    assert link.accepted == 2


async def test_a_loss_and_its_end_are_logged_once(
    link: DroppingProxy, connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    client = connected(link.url)
    assert await client.ask("k", "PING") == b"PONG"
    link.refuses = True
    link.cut()
    with pytest.raises(StoreAway):
        await client.ask("k", "PING")
    assert not client.is_reachable
    refused = link.refused
    with pytest.raises(StoreAway):  # at once, without an attempt
        await client.ask("k", "PING")
    assert link.refused == refused
    await until(lambda: client.is_reachable)
    with pytest.raises(StoreAway):
        await client.ask("k", "PING")
    link.refuses = False
    await until(lambda: client.is_reachable)
    assert await client.ask("k", "PING") == b"PONG"
    said = [record.getMessage() for record in caplog.records if record.name == "hermes_lb.turns"]
    assert [text.partition(":")[0] for text in said] == [
        "the store of turns can't be reached",
        "the store of turns is back",
    ]


async def test_a_store_that_does_not_answer_in_time_is_away(
    link: DroppingProxy, connected: Connected
) -> None:
    client = connected(link.url, patience=0.2)
    await client.ask("k", "PING")
    link.go_mute()
    with pytest.raises(StoreAway, match="does not answer in time"):
        await client.ask("k", "PING")
    link.speak()
    await until(lambda: client.is_reachable)
    patient = connected(link.url)
    assert await patient.ask("k", "PING") == b"PONG"


async def test_one_operation_tries_a_store_that_is_away(
    link: DroppingProxy, connected: Connected, tasks: Tasks
) -> None:
    """The others fail at once: they do not pile up while it is half-open."""
    client = connected(link.url, patience=0.2)
    await client.ask("k", "PING")
    link.go_mute()
    for _ in range(2):
        with pytest.raises(StoreAway):
            await client.ask("k", "PING")
        await until(lambda: client.is_reachable)
    trial = tasks.spawn(client.ask("k", "PING"), name="trial")
    await asyncio.sleep(0)
    for _ in range(100):
        assert not client.is_reachable
        with pytest.raises(StoreAway):
            await client.ask("k", "PING")
    assert not trial.done()
    with pytest.raises(StoreAway):
        await trial
    link.speak()
    await until(lambda: client.is_reachable)
    trial = tasks.spawn(client.ask("k", "PING"), name="trial that is cancelled")
    await asyncio.sleep(0)
    trial.cancel()
    await until(lambda: client.is_reachable)
    assert await client.ask("k", "PING") == b"PONG"
    assert [await client.ask("k", "PING") for _ in range(3)] == [b"PONG"] * 3


@pytest.mark.parametrize(
    ("reply", "is_away"),
    [
        ("READONLY You can't write against a read only replica.", True),
        ("OOM command not allowed when used memory > 'maxmemory'.", True),
        ("LOADING Redis is loading the dataset in memory", True),
        ("CLUSTERDOWN The cluster is down", True),
        ("MISCONF Errors writing to the AOF file", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
        ("WRONGTYPE Operation against a key", False),
    ],
)
async def test_error_replies(
    valkey: RedisServer, connected: Connected, reply: str, is_away: bool
) -> None:
    client = connected(valkey.url)
    fail = script_of(f'return redis.error_reply("{reply}")')
    with pytest.raises(StoreAway, match=reply.partition(" ")[0]):
        await client.run(fail, ["k"], [])
    assert client.is_reachable is not is_away


async def test_a_cancelled_caller_does_not_disturb_the_others(
    link: DroppingProxy, connected: Connected
) -> None:
    client = connected(link.url)
    await client.ask("k", "PING")
    link.go_mute()
    first = asyncio.create_task(client.ask("k", "ECHO", "one"))  # noqa: TID251
    second = asyncio.create_task(client.ask("k", "ECHO", "two"))  # noqa: TID251
    await until(lambda: link.commands["ECHO"] == 2)
    first.cancel()
    link.speak()
    assert await second == b"two"
    assert link.accepted == 1


async def test_a_password_and_a_database(connected: Connected) -> None:
    with RedisServer.start(options={"requirepass": "secret"}) as server:
        right = connected(f"redis://:secret@127.0.0.1:{server.port}/3")
        assert await right.run(COUNT, ["k"], []) == 1
        other = connected(f"redis://:secret@127.0.0.1:{server.port}/4")
        assert await other.ask("k", "GET", "k") is None
        for url in ("redis://:wrong@127.0.0.1", "redis://127.0.0.1"):
            with pytest.raises(StoreAway, match=r"WRONGPASS|NOAUTH"):
                await connected(f"{url}:{server.port}").ask("k", "PING")


async def test_a_unix_socket(tmp_path: Path, connected: Connected) -> None:
    path = tmp_path / "valkey.sock"
    with RedisServer.start(options={"unixsocket": str(path)}):
        assert await connected(f"unix://{path}?db=1").run(COUNT, ["k"], []) == 1


async def test_tls_is_verified(valkey: RedisServer, tmp_path: Path, connected: Connected) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with DroppingProxy(valkey.port, tls=tls) as proxy:
        for options in (f"ssl_ca_certs={tmp_path / 'ca.pem'}", "ssl_cert_reqs=none"):
            assert await connected(f"{proxy.url}?{options}").ask("k", "PING") == b"PONG"
        with pytest.raises(StoreAway, match=r"(?i)certificate"):
            await connected(proxy.url).ask("k", "PING")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_store_that_evicts_is_refused(connected: Connected, policy: str) -> None:
    with (
        RedisServer.start(options={"maxmemory-policy": policy}) as server,
        pytest.raises(StoreAway, match=f"its maxmemory-policy is {policy}"),
    ):
        await connected(server.url).ask("k", "PING")


async def test_a_store_whose_policy_is_secret_is_warned_of_once(
    connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer.start() as server:
        ask(server.port, "ACL", "SETUSER", "default", "-config")
        client = connected(server.url)
        assert await client.ask("k", "PING") == b"PONG"
        client.topology.distrust(await client.topology.node("k"))
        assert await client.ask("k", "PING") == b"PONG"
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert ["can't be read" in each.getMessage() for each in warnings] == [True]
