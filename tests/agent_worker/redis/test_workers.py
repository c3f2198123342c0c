"""Workers on each topology of Redis, during failovers, restarts and outages."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from agent_worker.models import EngineOptions
from agent_worker.redis_server import RedisServer
from agent_worker.tasks import spawn
from tests.agent_worker.redis.dropping_proxy import DroppingProxy
from tests.agent_worker.redis.topologies import Durable
from tests.support.agent.engines import GatedEngine
from tests.support.agent.running_worker import SESSIONS
from tests.support.sse import Event, all_events, deltas, event_order, read_events
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aiohttp import ClientSession

    from tests.agent_worker.conftest import StartWorker
    from tests.agent_worker.redis.topologies import Cluster, Sentinels
    from tests.support.agent.running_worker import RunningWorker

SSE = {"Accept": "text/event-stream"}
# A turn of some seconds, during which a master can die and be replaced.
PACED = EngineOptions(token_interval_s=0.03)
WORDS = 150


async def create(worker: RunningWorker) -> str:
    async with worker.post() as response:
        assert response.status == 201
        return (await response.json())["session_id"]


async def say(worker: RunningWorker, sid: str, content: str) -> dict[str, Any]:
    async with worker.post(sid, "messages", json={"content": content}) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def read(worker: RunningWorker, sid: str) -> dict[str, Any]:
    async with worker.get(sid) as response:
        assert response.status == 200
        return await response.json()


@dataclass
class Watched:
    """A streamed turn, and its events as a second client gets them from another worker."""

    sid: str
    events: list[Event] = field(default_factory=list)
    followed: list[Event] = field(default_factory=list)

    async def speak(self, worker: RunningWorker) -> None:
        url, body = worker.sessions(self.sid, "messages"), {"content": f"write {WORDS} words"}
        async with worker.http.post(url, json=body, headers=SSE) as response:
            assert response.status == 200, await response.text()
            async with aclosing(read_events(response)) as events:
                async for event in events:
                    self.events.append(event)

    async def follow(self, worker: RunningWorker) -> None:
        """Like a client that reconnects each time with its last id."""
        while not self.followed or self.followed[-1].name != "done":
            last = self.followed[-1].id if self.followed else "0-0"
            headers = {"Last-Event-ID": last}
            async with worker.get(
                self.sid, "events", params={"until": "done"}, headers=headers
            ) as response:
                if response.status == 200:
                    self.followed += [event for event in await all_events(response) if event.id]
                else:
                    assert response.status == 503
                    await asyncio.sleep(0.05)

    def check(self) -> None:
        """The client has everything, once; and so has the other one."""
        assert [event.name for event in self.events][-1] == "done"
        assert len(deltas(self.events).split()) == WORDS
        assert deltas(self.events) == self.events[-1].data["content"]
        order = [event_order(event.id) for event in self.events]
        assert order == sorted(set(order))
        assert self.followed == self.events


async def lose_a_server_in_mid_turn(
    start_worker: StartWorker, url: str, lose: Callable[[], None]
) -> None:
    """Turns in six sessions on one worker, followed on another; then one more turn each."""
    one = await start_worker(redis_url=url, engine_options=PACED)
    two = await start_worker(redis_url=url)
    turns = [Watched(await create(one)) for _ in range(6)]
    tasks = [spawn(turn.speak(one), name="speaker") for turn in turns]
    await until(lambda: all(len(turn.events) >= 10 for turn in turns))
    tasks += [spawn(turn.follow(two), name="follower") for turn in turns]
    await until(lambda: all(turn.followed for turn in turns) or any(t.done() for t in tasks))
    await asyncio.to_thread(lose)
    await asyncio.gather(*tasks)
    for turn in turns:
        turn.check()
        assert (await say(two, turn.sid, "how many messages?"))["step"] == 2
        messages = (await read(one, turn.sid))["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * 2
        assert messages[1]["content"] == deltas(turn.events)


@pytest.fixture
def mails(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    def read_mails() -> list[dict[str, Any]]:
        file = tmp_path / "mails"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    return read_mails


@pytest.mark.parametrize("kind", ["unix socket", "tls"])
async def test_a_conversation_over_another_kind_of_socket(
    start_worker: StartWorker, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "redis.sock"
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with RedisServer.start(options={"unixsocket": str(path)}) as server:
        async with DroppingProxy(server.port, tls=tls) as proxy:
            over_tls = f"{proxy.url}?ssl_ca_certs={tmp_path / 'ca.pem'}"
            url = f"unix://{path}" if kind == "unix socket" else over_tls
            one, two = await start_worker(redis_url=url), await start_worker(redis_url=url)
            sid = await create(one)
            await say(one, sid, "my name is Ada")
            answer = await say(two, sid, "what is my name?")
            assert answer["content"] == "Your name is Ada."
            for worker in (one, two):
                await worker.runner.cleanup()


@pytest.mark.slow
async def test_a_failover_in_the_middle_of_turns(
    start_worker: StartWorker, sentinels: Sentinels
) -> None:
    old = sentinels.master_port
    await lose_a_server_in_mid_turn(start_worker, sentinels.url, lambda: sentinels.kill(old))
    assert sentinels.wait_for_new_master(old) != old


@pytest.mark.slow
async def test_a_node_of_a_cluster_is_lost_in_the_middle_of_turns(
    start_worker: StartWorker, cluster: Cluster
) -> None:
    def lose() -> None:
        cluster.kill(cluster.master_ports()[0])

    await lose_a_server_in_mid_turn(start_worker, cluster.url, lose)


@pytest.mark.slow
async def test_a_server_killed_and_restarted_in_the_middle_of_turns(
    start_worker: StartWorker,
) -> None:
    with Durable() as redis:

        def restart() -> None:
            redis.kill(redis.port)
            redis.restart(redis.port)

        await lose_a_server_in_mid_turn(start_worker, redis.url, restart)


@pytest.mark.slow
async def test_without_a_replica_no_once_tool_starts(
    start_worker: StartWorker,
    sentinels: Sentinels,
    tmp_path: Path,
    mails: Callable[[], list[dict[str, Any]]],
) -> None:
    worker = await start_worker(redis_url=sentinels.url, mail_file=tmp_path / "mails")
    sid = await create(worker)
    replicas = sentinels.replica_ports
    for port in replicas:
        sentinels.freeze(port)
    try:
        answer = await say(worker, sid, "send mail to ada@example.org: hello")
        assert "not run: it cannot be recorded safely" in answer["content"]
        assert mails() == []
    finally:
        for port in replicas:
            sentinels.thaw(port)
    await asyncio.to_thread(sentinels.wait_in_step)
    await say(worker, sid, "send mail to ada@example.org: hello again")
    assert [mail["text"] for mail in mails()] == ["hello again"]


async def test_while_redis_is_away_a_turn_goes_on_and_is_reported_afterwards(
    start_worker: StartWorker, redis_server: RedisServer
) -> None:
    async with DroppingProxy(redis_server.port) as proxy:
        engine = GatedEngine()
        worker = await start_worker(redis_url=proxy.url, engine=engine)
        sid = await create(worker)
        url = worker.sessions(sid, "messages")
        async with worker.http.post(url, json={"content": "go"}, headers=SSE) as response:
            events = read_events(response)
            assert deltas([await anext(events)]) == "one "
            proxy.refuses = True
            proxy.cut()
            engine.gate.set()
            # The model has finished; nothing is sent before it is in the log.
            await engine.closed.wait()
            refused = proxy.refused
            await until(lambda: proxy.refused > refused + 2)
            # New work is refused; the worker is healthy, and reports the cause.
            async with worker.post() as degraded:
                assert degraded.status == 503
                assert degraded.headers["X-Hermes-Degraded"] == "store"
                assert int(degraded.headers["Retry-After"]) >= 1
            for path, status in (("/health", 200), ("/ready", 503)):
                async with worker.http.get(path) as probe:
                    assert probe.status == status
            proxy.refuses = False
            rest = [event async for event in events]
        assert [event.name for event in rest] == ["message.delta", "done"]
        assert rest[-1].data["content"] == "one two"
        messages = (await read(worker, sid))["messages"]
        assert [message["content"] for message in messages] == ["go", "one two"]
        await worker.runner.cleanup()


async def test_a_turn_whose_redis_stays_away_is_resumed_by_its_key(
    http: ClientSession, start_worker: StartWorker, redis_server: RedisServer
) -> None:
    headers, body = {**SSE, "Idempotency-Key": "k"}, {"content": "write 9 words"}
    async with DroppingProxy(redis_server.port) as proxy:
        engine = GatedEngine()
        cut_off = await start_worker(redis_url=proxy.url, engine=engine, lease_s=0.6)
        sid = await create(cut_off)
        url = cut_off.sessions(sid, "messages")
        async with http.post(url, json=body, headers=headers) as response:
            events = read_events(response)
            await anext(events)
            proxy.refuses = True
            proxy.cut()
            engine.gate.set()
            last = [event async for event in events][-1]
        assert (last.name, last.data["code"]) == ("error", "store_unavailable")
        # Its lease expires by itself; until then the key is refused.
        worker = await start_worker()
        while True:
            url = worker.sessions(sid, "messages")
            async with http.post(url, json=body, headers=headers) as response:
                if response.status == 200:
                    resumed = await all_events(response)
                    break
                assert response.status == 409
                await asyncio.sleep(0.05)
        # The other model has another text: the step is restarted.
        assert resumed[0].name == "rewind"
        assert len(deltas(resumed).split()) == 9
        assert deltas(resumed) == resumed[-1].data["content"]
        messages = (await read(worker, sid))["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"]
        await cut_off.runner.cleanup()


async def test_an_ephemeral_turn_needs_no_redis(
    start_worker: StartWorker, own_redis_server: RedisServer
) -> None:
    worker = await start_worker(redis_url=own_redis_server.url)
    own_redis_server.stop()
    url = worker.url + SESSIONS.replace("sessions", "ephemeral")
    history = [
        {"role": "user", "content": "my name is Ada"},
        {"role": "assistant", "content": "Nice to meet you, Ada."},
    ]
    body = {"content": "what is my name?", "history": history}
    async with worker.http.post(url, json=body) as response:
        assert response.status == 200
        assert response.headers["X-Session-Durability"] == "ephemeral"
        assert (await response.json())["content"] == "Your name is Ada."
