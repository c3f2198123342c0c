"""Workers are killed in the middle of a sentence, and no client sees more of it than a pause."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from agent_worker.redis_server import RedisServer
from hermes_lb import LoadBalancer
from tests.support.sse import Event, deltas, event_order, read_events
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

WORDS = 120
SESSIONS = "/api/agent/sessions"


class Fleet:
    """Worker processes on ports that stay theirs, so that a killed one can come back."""

    def __init__(self, redis_url: str, count: int) -> None:
        self._redis_url = redis_url
        self.ports = [0] * count
        self.processes: dict[int, asyncio.subprocess.Process] = {}

    async def start(self, number: int) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "agent_worker", "--port", str(self.ports[number])),
            *("--redis-url", self._redis_url, "--name", f"w{number}"),
            *("--token-interval", "20ms", "--blobs", "off"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        self.ports[number] = int(line.partition("127.0.0.1:")[2].split()[0])
        self.processes[number] = process

    async def kill(self, number: int) -> None:
        """kill -9."""
        self.processes[number].send_signal(signal.SIGKILL)
        await self.processes[number].wait()

    async def close(self) -> None:
        for process in self.processes.values():
            if process.returncode is None:
                # A stopped one would not end.
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
            await process.wait()


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer.start() as server:
        yield server


@pytest.fixture
async def fleet(redis_server: RedisServer) -> AsyncIterator[Fleet]:
    fleet = Fleet(redis_server.url, 3)
    try:
        await asyncio.gather(*(fleet.start(number) for number in range(3)))
        yield fleet
    finally:
        await fleet.close()


def balancer(fleet: Fleet, **route: Any) -> LoadBalancer:
    servers = [{"name": f"w{n}", "address": f"127.0.0.1:{p}"} for n, p in enumerate(fleet.ports)]
    rules = {"path_prefix": "/", "backend": "agents", "resume": True, **route}
    config: dict[str, Any] = {
        "admin": {"enabled": False},
        "log": {"access": "off"},
        "frontends": [{"name": "public", "bind": "127.0.0.1:0", "routes": [rules]}],
        "backends": {"agents": {"balance": "leastconn", "servers": servers}},
    }
    return LoadBalancer(config)


@pytest.fixture
async def api(fleet: Fleet) -> AsyncIterator[str]:
    """The sessions' URL at a balancer before the fleet."""
    async with balancer(fleet) as lb:
        yield lb.url + SESSIONS


@dataclass
class Turn:
    """A streamed turn as its client sees it: one response."""

    events: list[Event] = field(default_factory=list)
    worker: str = ""
    #: The longest silence between two events, in seconds.
    gap: float = 0.0
    session_id: str = ""

    async def run(self, http: aiohttp.ClientSession, api: str, content: str) -> None:
        async with http.post(api) as response:
            self.session_id = (await response.json())["session_id"]
        url, headers = f"{api}/{self.session_id}/messages", {"Accept": "text/event-stream"}
        async with http.post(url, json={"content": content}, headers=headers) as response:
            assert response.status == 200
            self.worker = response.headers["X-Hermes-Worker"]
            last = time.monotonic()
            async for event in read_events(response):
                now = time.monotonic()
                self.gap, last = max(self.gap, now - last), now
                self.events.append(event)

    def check(self, words: int = WORDS) -> None:
        """All of it, once, in order."""
        assert self.events[-1].name == "done"
        assert len(deltas(self.events).split()) == words
        assert deltas(self.events) == self.events[-1].data["content"]
        order = [event_order(event.id) for event in self.events]
        assert order == sorted(set(order))


async def test_streams_outlive_their_workers(fleet: Fleet, api: str) -> None:
    """First two of three are killed, the second when it has turns of the first; then the third."""
    rng = random.Random(7)
    order = rng.sample(range(3), 3)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        for victims in (order[:2], order[2:]):
            turns = [Turn() for _ in range(9)]
            async with asyncio.TaskGroup() as group:
                for turn in turns:
                    group.create_task(turn.run(http, api, f"write {WORDS} words"))
                cut = turns
                for number in victims:
                    await _some_words(cut, rng.randrange(5, 30))
                    await fleet.kill(number)
                    cut = [turn for turn in turns if turn.worker == f"w{number}"]
                for number in victims:
                    group.create_task(fleet.start(number))
            assert {f"w{n}" for n in victims} <= {turn.worker for turn in turns}
            for turn in turns:
                turn.check()
            print("longest gaps:", sorted(round(turn.gap, 2) for turn in turns))


async def _some_words(turns: list[Turn], number: int) -> None:
    """Until `number` more have arrived, of turns that have not ended."""
    await until(lambda: all(turn.events for turn in turns))
    before = max(len(turn.events) for turn in turns)
    assert before + number < WORDS
    await until(lambda: max(len(turn.events) for turn in turns) >= before + number)


async def test_a_worker_that_is_asked_to_end_hands_its_turns_over(fleet: Fleet, api: str) -> None:
    """Between two steps: the calculator's answer comes from another worker."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
        turn = Turn()
        running = asyncio.ensure_future(  # noqa: TID251
            turn.run(http, api, "calculate 2 + 3")
        )
        await until(lambda: turn.events)
        number = int(turn.worker.removeprefix("w"))
        fleet.processes[number].send_signal(signal.SIGTERM)
        await running
    assert turn.events[-1].name == "done"
    assert turn.events[-1].data["content"] == "Let me use calculator. 2 + 3 = 5."
    assert deltas(turn.events) == turn.events[-1].data["content"]
    assert "handover" not in {event.name for event in turn.events}
    assert await fleet.processes[number].wait() == 0


async def test_a_worker_that_is_asked_to_end_leaves_amid_a_sentence(fleet: Fleet, api: str) -> None:
    """It is gone long before its text could have ended: 400 words take 8 s."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
        turns = [Turn() for _ in range(6)]
        async with asyncio.TaskGroup() as group:
            for turn in turns:
                group.create_task(turn.run(http, api, "write 400 words"))
            await until(lambda: all(len(turn.events) >= 10 for turn in turns))
            process = fleet.processes[int(turns[0].worker.removeprefix("w"))]
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            assert max(len(turn.events) for turn in turns) < 400
    for turn in turns:
        turn.check(words=400)
        assert {event.name for event in turn.events} == {"message.delta", "done"}
    print("longest gaps:", sorted(round(turn.gap, 2) for turn in turns))


async def test_a_client_comes_back_through_another_balancer(fleet: Fleet) -> None:
    """It left in the middle of its stream, and the turn went on without it."""
    headers = {"Accept": "text/event-stream"}
    async with (
        balancer(fleet, on_disconnect="detach") as one,
        balancer(fleet) as two,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http,
    ):
        async with http.post(one.url + SESSIONS) as response:
            session_id = (await response.json())["session_id"]
        url = f"{one.url}{SESSIONS}/{session_id}/messages"
        seen = []
        async with http.post(
            url, json={"content": f"write {WORDS} words"}, headers=headers
        ) as response:
            where = response.headers["X-Hermes-Resume"]
            async for event in read_events(response):
                seen.append(event)
                if len(seen) == 10:
                    break
        await until(lambda: not one._context.live.clients)
        assert sum(server.in_flight for server in one.pools["agents"].servers) == 1
        again = {**headers, "Last-Event-ID": seen[-1].id}
        async with http.get(two.url + where, headers=again) as response:
            rest = [event async for event in read_events(response)]
        turn = Turn(events=[*seen, *rest])
        turn.check()
        await until(lambda: not any(s.in_flight for s in one.pools["agents"].servers))
