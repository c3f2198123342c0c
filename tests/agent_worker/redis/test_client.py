"""The client and one server, over each kind of socket; lost replies."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from redis import exceptions as redis_errors

from agent_worker.redis_server import RedisServer
from agent_worker.sessions.scripts import load_scripts
from tests.agent_worker.redis.dropping_proxy import DroppingProxy
from tests.agent_worker.redis.topologies import Durable, ask, facts
from tests.support.agent.redis import COUNT, FAIL, ONCE, READ, soon
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent_worker.sessions import RedisBackend

    Connected = Callable[[str], RedisBackend]


def open_connections(port: int) -> int:
    """Except that of the caller."""
    return int(facts(ask(port, "INFO", "clients"))["connected_clients"]) - 1


async def test_a_script_runs_though_the_server_never_saw_it(
    calm_server: RedisServer, connected: Connected
) -> None:
    client = connected(calm_server.url)
    ask(calm_server.port, "SCRIPT", "FLUSH")
    assert await client.run(COUNT, ["never-seen"], []) == 1
    assert await client.run(COUNT, ["never-seen"], []) == 2
    assert await client.raw.get("never-seen") == "2"
    await client.ping()


async def test_a_script_that_refuses_is_heard_once(
    proxy: DroppingProxy, connected: Connected
) -> None:
    client = connected(proxy.url)
    with pytest.raises(redis_errors.ResponseError, match="out of luck"):
        await client.run(FAIL, ["refuses"], [])
    assert proxy.commands["EVALSHA"] + proxy.commands["EVAL"] <= 2


async def test_a_unix_socket(tmp_path: Path, connected: Connected) -> None:
    path = tmp_path / "redis.sock"
    with RedisServer.start(options={"unixsocket": str(path)}):
        client = connected(f"unix://{path}?db=1")
        assert await client.run(COUNT, ["over-unix"], []) == 1
        assert await client.raw.get("over-unix") == "1"


async def test_tls_is_verified(
    calm_server: RedisServer, tmp_path: Path, connected: Connected
) -> None:
    authority, other = trustme.CA(), trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))

    async with DroppingProxy(calm_server.port, tls=tls) as proxy:
        client = connected(f"{proxy.url}?ssl_ca_certs={tmp_path / 'ca.pem'}")
        assert await client.run(COUNT, ["over-tls"], []) == 1
        for doubtful in ("", f"?ssl_ca_certs={tmp_path / 'other.pem'}"):
            with pytest.raises(redis_errors.ConnectionError, match=r"(?i)certificate"):
                await connected(proxy.url + doubtful).ping()


async def test_a_wrong_password_is_reported_at_once(connected: Connected) -> None:
    with RedisServer.start(options={"requirepass": "right"}) as server:
        client = connected(f"redis://:right@127.0.0.1:{server.port}/0")
        assert await client.run(COUNT, ["guarded"], []) == 1
        async with DroppingProxy(server.port) as proxy:
            with pytest.raises(redis_errors.AuthenticationError):
                await connected(f"redis://:wrong@127.0.0.1:{proxy.port}/0").ping()
            assert proxy.accepted == 1


async def test_a_lost_reply_is_asked_for_again(proxy: DroppingProxy, connected: Connected) -> None:
    client = connected(proxy.url)
    await client.run(COUNT, ["lost"], [])
    proxy.lose_replies("EVALSHA", 2)
    # The two whose replies were lost had run.
    assert await client.run(COUNT, ["lost"], []) == 4


async def test_a_lost_reply_is_asked_for_twice_more_and_then_it_is_an_error(
    proxy: DroppingProxy, connected: Connected
) -> None:
    client = connected(proxy.url)
    await client.run(COUNT, ["lost-for-good"], [])
    proxy.lose_replies("EVALSHA", 99)
    with pytest.raises(redis_errors.ConnectionError):
        await client.run(COUNT, ["lost-for-good"], [])
    assert await client.raw.get("lost-for-good") == "4"


async def test_connections_that_were_cut_while_idle_cost_no_attempt(
    proxy: DroppingProxy, connected: Connected
) -> None:
    client = connected(proxy.url)
    await asyncio.gather(*(client.run(COUNT, ["cut"], []) for _ in range(10)))
    sent = proxy.commands["EVALSHA"]
    proxy.cut()
    await until(lambda: not proxy.open_connections)
    assert await client.run(COUNT, ["cut"], []) == 11
    assert proxy.commands["EVALSHA"] == sent + 1


async def test_a_mute_server_is_given_up_after_the_socket_timeout(
    proxy: DroppingProxy, connected: Connected
) -> None:
    client = connected(f"{proxy.url}?socket_timeout=0.1")
    await client.run(COUNT, ["mute"], [])
    proxy.go_mute()
    # A new connection, with its greeting, is tested as well.
    with pytest.raises((redis_errors.TimeoutError, redis_errors.ConnectionError)):
        await client.run(COUNT, ["mute"], [])
    proxy.speak()
    assert await client.run(READ, ["mute"], []) is not None


async def test_a_server_that_is_away_is_reported_soon(connected: Connected) -> None:
    with RedisServer.start() as server:
        client = connected(server.url)
        await client.ping()
        server.kill()
        with pytest.raises(redis_errors.ConnectionError, match=str(server.port)):
            await client.run(COUNT, ["away"], [])


async def test_a_crowd_shares_a_few_connections(connected: Connected) -> None:
    with RedisServer.start() as server:
        client = connected(f"{server.url}?max_connections=4")
        replies = await asyncio.gather(*(client.run(COUNT, ["crowd"], []) for _ in range(200)))
        assert sorted(replies) == list(range(1, 201))
        assert open_connections(server.port) <= 4


async def test_cancelled_operations_leave_no_reply_behind_for_others(connected: Connected) -> None:
    with RedisServer.start() as server:
        async with DroppingProxy(server.port) as proxy:
            client = connected(f"{proxy.url}?max_connections=2")
            await client.run(ONCE, ["one"], ["1"])
            for _ in range(5):
                sent = proxy.commands["EVALSHA"]
                proxy.go_mute()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await client.run(READ, ["one"], [])
                proxy.speak()
                assert proxy.commands["EVALSHA"] <= sent + 1
                assert await client.run(READ, ["two"], []) is None


async def test_without_replicas_none_is_waited_for(
    proxy: DroppingProxy, connected: Connected
) -> None:
    client = connected(proxy.url)
    assert await client.run_replicated(
        COUNT, ["alone"], [], await client.replicas_wanted("alone")
    ) == (1, 0)
    assert proxy.commands["WAIT"] == 0
    # The wait ends after its second.
    assert await client.run_replicated(COUNT, ["alone"], [], 1) == (2, 0)


async def test_a_killed_server_comes_back_with_what_it_had_acknowledged(
    connected: Connected,
) -> None:
    with Durable() as redis:
        client = connected(redis.url)
        for _ in range(20):
            last = await client.run(COUNT, ["kept"], [])
        redis.kill(redis.port)
        with pytest.raises(redis_errors.ConnectionError):
            await client.run(COUNT, ["kept"], [])
        redis.restart(redis.port)
        # A new process has no script.
        assert await soon(client, COUNT, "kept") == last + 1


async def test_closing_leaves_no_connection(connected: Connected) -> None:
    with RedisServer.start() as server:
        client = connected(server.url)
        await asyncio.gather(*(client.run(COUNT, ["closing"], []) for _ in range(10)))
        assert await client.raw.ping()
        assert open_connections(server.port) > 1
        await client.aclose()
        await until(lambda: open_connections(server.port) == 0)


def test_every_script_of_the_store_is_loaded() -> None:
    scripts = load_scripts()
    assert {"create", "begin", "commit", "renew", "release", "read", "delete"} <= set(scripts)
    assert "_common" not in scripts
    assert all("local SCHEMA" in script.text for script in scripts.values())
    assert len({script.sha for script in scripts.values()}) == len(scripts)
