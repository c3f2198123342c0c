"""Health that knows streams, through the real balancer: busy is not dead, and outliers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.loops import on_both_loops
from tests.support.origin import Origin, answers
from tests.support.stage import Stage, server_of
from tests.support.waiting import eventually
from tests.support.websocket import WEBSOCKET, accepting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin, Client, Message

HEALTH = {"interval": "300ms", "fast_interval": "50ms", "fall": 2, "rise": 1}
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
EVENT = b"data: x\n\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


class Agent:
    """An origin that answers, streams at /stream, and may leave its checks unanswered.

    While `speaks`, each stream gets an event every few milliseconds.
    """

    def __init__(self, origin: Origin, name: bytes) -> None:
        self.origin = origin
        self.name = name
        self.checks = True
        self.speaks = True
        self.served = 0
        origin.serve(self._handle)

    async def _handle(self, connection: AtOrigin, message: Message) -> None:
        if message.head.target == "/health":
            if self.checks:
                await connection.respond(b"ok")
            else:
                await connection.read_some()  # until the balancer gives up
        elif message.head.target == "/stream":
            await connection.send(STREAM_HEAD)
            await self._speak(connection, CHUNK)
        elif message.get("Upgrade"):
            await connection.send(accepting(connection))
            await self._speak(connection, b"frame")
        else:
            self.served += 1
            await connection.respond(self.name)

    async def _speak(self, connection: AtOrigin, data: bytes) -> None:
        while True:
            if self.speaks:
                await connection.send(data)
            await asyncio.sleep(0.005)


@dataclass
class Agents:
    """A balancer that checks two agents and pins clients to them by cookies."""

    stage: Stage
    lb: LoadBalancer
    first: Agent
    second: Agent

    async def stream(self, name: str) -> Client:
        """A client that listens to an endless stream of this one."""
        client = await self.stage.client(self.lb)
        await client.get("/stream", f"Cookie: SERVERID={name}")
        await client.read_head()
        return client


@pytest.fixture
async def agents(stage: Stage) -> AsyncIterator[Agents]:
    first = Agent(await stage.origin(), b"agent1")
    second = Agent(await stage.origin(), b"agent2")
    lb = await stage.balancer(
        first.origin,
        second.origin,
        backend={"affinity": {"cookie": "SERVERID"}, "health": HEALTH},
    )
    yield Agents(stage, lb, first, second)
    await lb.stop()  # before the origins leave, which would be found down


async def is_in_state(lb: LoadBalancer, state: str, number: int = 1) -> None:
    server = server_of(lb, number)
    await eventually(lambda: server.state == state, f"{server!r} is {state}")


def expect_in_log(stage: Stage, *texts: str) -> None:
    """Warnings that the test has caused."""
    assert len(stage.problems) == len(texts), stage.problems
    for text, problem in zip(texts, stage.problems, strict=True):
        assert text in problem
    stage.problems.clear()


@on_both_loops
async def test_a_server_that_streams_but_does_not_answer_its_checks(
    stage: Stage, agents: Agents
) -> None:
    lb, first = agents.lb, agents.first
    stream = await agents.stream("agent1")
    first.checks = False
    await is_in_state(lb, "degraded")
    expect_in_log(stage, "agents/agent1 is DEGRADED: timeout after 0.3s, but its streams go on")

    served = first.served
    assert {(await stage.ask(lb)).body for _ in range(6)} == {b"agent2"}  # no new session
    assert first.served == served
    pinned = await stage.ask(lb, "Cookie: SERVERID=agent1")
    assert pinned.body == b"agent1"
    for _ in range(50):
        assert await stream.read_chunk() == EVENT

    first.checks = True
    await is_in_state(lb, "up")
    assert {(await stage.ask(lb)).body for _ in range(6)} == {b"agent1", b"agent2"}


async def test_when_the_stream_stands_still_too_it_is_down(stage: Stage, agents: Agents) -> None:
    await agents.stream("agent1")
    agents.first.checks = False
    await is_in_state(agents.lb, "degraded")
    agents.first.speaks = False
    await is_in_state(agents.lb, "down")
    expect_in_log(stage, "agent1 is DEGRADED", "agent1 is DOWN: timeout after 0.3s; 1 server up")
    assert (await stage.ask(agents.lb, "Cookie: SERVERID=agent1")).body == b"agent2"


# At a Unix socket, of which the kernel does not know when something came.


@pytest.fixture
async def unix_agent(stage: Stage, tmp_path: Path) -> Agent:
    return Agent(await stage.origin(path=tmp_path / "agent.sock"), b"agent1")


async def listening_at_a_unix_socket(
    stage: Stage, agent: Agent, *asked: str, **route: Any
) -> tuple[LoadBalancer, Client]:
    """A balancer, and a client that has the head of an endless response."""
    lb = await stage.balancer(
        agent.origin,
        backend={"health": HEALTH},
        frontend={"routes": [{"path_prefix": "/", "backend": "agents", **route}]},
    )
    client = await stage.client(lb)
    await client.get(*(asked or ("/stream",)))
    await client.read_head()
    return lb, client


@on_both_loops
@pytest.mark.parametrize("asked", [["/stream"], ["/", *WEBSOCKET]], ids=["stream", "tunnel"])
async def test_a_server_at_a_unix_socket_is_busy_as_long_as_something_comes(
    stage: Stage, unix_agent: Agent, asked: list[str]
) -> None:
    lb, _ = await listening_at_a_unix_socket(stage, unix_agent, *asked)
    unix_agent.checks = False
    await is_in_state(lb, "degraded")
    (upstream,) = (u for u in lb._context.live.upstreams if u.sink is not None)
    looked_at = upstream._last_progress
    await eventually(lambda: upstream._last_progress != looked_at)  # another check has timed out
    assert server_of(lb).state == "degraded"
    unix_agent.speaks = False
    await is_in_state(lb, "down")
    expect_in_log(stage, "agent1 is DEGRADED", "agent1 is DOWN: timeout after 0.3s; no servers up")
    await lb.stop()


async def test_our_own_comments_do_not_keep_a_silent_server_at_a_unix_socket(
    stage: Stage, unix_agent: Agent
) -> None:
    lb, client = await listening_at_a_unix_socket(stage, unix_agent, sse_keep_alive="20ms")
    unix_agent.checks = unix_agent.speaks = False
    await is_in_state(lb, "down")
    assert await client.read_until(b": keep-alive") != b""
    stage.problems.clear()
    await lb.stop()


async def test_what_goes_on_without_its_client_counts_at_a_unix_socket_too(
    stage: Stage, unix_agent: Agent
) -> None:
    lb, client = await listening_at_a_unix_socket(stage, unix_agent, on_disconnect="detach")
    client.close()
    await stage.log_line(lb)
    unix_agent.checks = False
    await is_in_state(lb, "degraded")
    unix_agent.speaks = False
    await is_in_state(lb, "down")
    expect_in_log(stage, "agent1 is DEGRADED", "agent1 is DOWN")
    await lb.stop()


@pytest.mark.parametrize("has_stream", [False, True])
async def test_without_a_stream_of_its_own_a_silent_server_is_down(
    stage: Stage, agents: Agents, has_stream: bool
) -> None:
    if has_stream:
        await agents.stream("agent2")
    else:  # a connection that is kept open
        await (await stage.client(agents.lb)).ask("/", "Cookie: SERVERID=agent1")
    agents.first.checks = False
    await is_in_state(agents.lb, "down")
    expect_in_log(stage, "agents/agent1 is DOWN: timeout after 0.3s; 1 server up")


async def test_a_tunnel_is_a_stream_by_what_the_server_sends(stage: Stage, agents: Agents) -> None:
    tunnel = await stage.client(agents.lb)
    await tunnel.get("/", "Cookie: SERVERID=agent1", *WEBSOCKET)
    assert (await tunnel.read_head()).status == 101
    agents.first.checks = False
    await is_in_state(agents.lb, "degraded")
    agents.first.speaks = False
    asking = stage.tasks.spawn(keep_asking(tunnel), name="what a client sends proves nothing")
    await is_in_state(agents.lb, "down")
    asking.cancel()
    expect_in_log(stage, "agent1 is DEGRADED", "agent1 is DOWN")


async def keep_asking(tunnel: Client) -> None:
    while True:
        await tunnel.send(b"anybody there?")
        await asyncio.sleep(0.005)


async def test_a_degraded_server_serves_if_nobody_else_can(stage: Stage, agents: Agents) -> None:
    await agents.stream("agent1")
    agents.first.checks = agents.second.checks = False
    await is_in_state(agents.lb, "degraded")
    await is_in_state(agents.lb, "down", 2)
    assert (await stage.ask(agents.lb)).body == b"agent1"
    stage.problems.clear()


# Outliers.


async def test_a_server_that_answers_its_checks_and_not_its_requests(stage: Stage) -> None:
    bad = await stage.serving(answers(b"no", status=500))
    good = await stage.serving(answers(b"yes"))
    lb = await stage.balancer(
        bad,
        good,
        backend={
            "affinity": {"cookie": "SERVERID"},
            "outlier": {"consecutive_failures": 3},
        },
    )
    got = [(await stage.ask(lb)).body for _ in range(10)]
    assert got.count(b"no") == 3
    assert server_of(lb).ejections == 1
    assert (await stage.ask(lb, "Cookie: SERVERID=agent1")).body == b"yes"
    assert len(stage.problems) == 1
    assert stage.problems.pop().endswith(" s: 3 failures in a row")
    server_of(lb).ejected_until = 0.0  # its time is over
    await is_in_state(lb, "up")
    assert (await stage.ask(lb, "Cookie: SERVERID=agent1")).body == b"no"


async def test_a_server_that_refuses_connections_is_an_outlier(stage: Stage) -> None:
    good = await stage.serving(answers(b"yes"))
    lb = await stage.balancer(
        stage.nobody(),
        good,
        server={"max_fails": 0},
        backend={"outlier": {"consecutive_failures": 2}},
    )
    assert [(await stage.ask(lb)).body for _ in range(6)] == [b"yes"] * 6
    assert server_of(lb).counters.connect_errors == 2
    assert server_of(lb).state == "ejected"
    expect_in_log(stage, "agents/agent1 is EJECTED for 3")


async def test_if_all_fail_half_stay(stage: Stage) -> None:
    bad = await stage.serving(answers(b"no", status=503))
    lb = await stage.balancer(bad, bad, bad, bad, backend={"outlier": {"consecutive_failures": 1}})
    assert [(await stage.ask(lb)).body for _ in range(10)] == [b"no"] * 10
    assert sorted(server_of(lb, n).state for n in (1, 2, 3, 4)) == ["ejected"] * 2 + ["up"] * 2
    expect_in_log(stage, "EJECTED", "EJECTED")
