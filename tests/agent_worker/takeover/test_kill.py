"""kill -9 of a real worker during a turn: its stream is resumed on another one."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING

import pytest

from agent_worker.models.scripted import reply
from agent_worker.tasks import spawn
from tests.agent_worker.takeover.staged_worker import FIRST, LAST, MOMENTS
from tests.support.agent.takeover import (
    ACCEPTS,
    Client,
    Process,
    answer_in,
    history,
    new_session,
)
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import aiohttp

    from agent_worker.redis_server import RedisServer

pytestmark = pytest.mark.slow

STAGED = "tests.agent_worker.takeover.staged_worker"
MAYBE = "unknown: it may have been done, and is not repeated"
# Tools of each class, and many words.
MANY = "calculate 2 + 3, note colour: blue\nsend mail to ada: hello"


@pytest.mark.parametrize("engine", ["continues", "rewinds"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_no_token_is_lost_and_none_comes_twice_wherever_the_worker_is_killed(
    redis_server: RedisServer,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    moment: str,
    engine: str,
) -> None:
    runs = tmp_path / "runs"
    options = (str(runs), "once", engine)
    async with (
        Process(redis_server.url, moment, *options, module=STAGED) as one,
        Process(redis_server.url, "none", *options, module=STAGED) as two,
    ):
        client = Client(http, [one.url, two.url], await new_session(http, one.url))
        turn = spawn(client.say("go"), name="turn")
        assert await one.line() == "standing still"
        await one.kill()
        await turn
        answer = client.check()
        messages = await history(http, two.url, client.sid)
    assert client.went_on == ["lost"]
    assert answer["content"] == "".join(FIRST + LAST) == answer_in(messages)
    result = MAYBE if moment == "in-tool" else "seen"
    assert [content for role, content in messages if role == "tool"] == [result]
    assert len(runs.read_text().splitlines()) == 1
    assert {event.name for event in client.events} <= {
        "message.delta", "tool.started", "tool.completed", "done", "rewind"
    }  # fmt: skip
    if engine == "continues":
        assert "rewind" not in [event.name for event in client.events]


@pytest.mark.parametrize("seed", range(3))
async def test_many_turns_of_one_worker_that_is_killed_go_on(
    redis_server: RedisServer, http: aiohttp.ClientSession, tmp_path: Path, seed: int
) -> None:
    """They are in different places: each begins a few events after the one before."""
    mails = tmp_path / "mails"
    options = ("--port", "0", "--redis-url", redis_server.url, "--mail-file", str(mails))
    options = (*options, "--blobs", "off", "--token-interval", "10ms")
    async with Process(*options) as one, Process(*options) as two:
        clients, turns = [], []
        for number in range(12):
            client = Client(http, [one.url, two.url], await new_session(http, one.url))
            content = MANY if number % 2 else "write 150 words"
            turns.append(spawn(client.say(content), name="turn"))
            clients.append(client)
            await until(lambda c=client, n=number: len(c.events) >= (n * 7 + seed) % 5)
        await until(lambda: len(clients[0].events) >= 40 + 11 * seed)
        await one.kill()
        await asyncio.gather(*turns)
        for client in clients:
            messages = await history(http, two.url, client.sid)
            assert client.check()["content"] == answer_in(messages)
            assert [role for role, _ in messages].count("user") == 1
        for number, client in enumerate(clients):
            if not number % 2:
                words = reply([{"role": "user", "content": "write 150 words"}]).text
                assert client.events[-1].data["content"] == words
    assert sum(bool(client.went_on) for client in clients) >= 6
    sent = [json.loads(line)["id"] for line in mails.read_text().splitlines()]
    assert len(sent) == len(set(sent))


async def test_a_turn_goes_on_through_the_deaths_of_several_workers(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    options = ("--port", "0", "--redis-url", redis_server.url, "--blobs", "off")
    options = (*options, "--token-interval", "10ms")
    async with Process(*options) as one, Process(*options) as two, Process(*options) as three:
        workers = [one, two, three]
        client = Client(http, [each.url for each in workers], await new_session(http, one.url))
        turn = spawn(client.say("write 120 words"), name="turn")
        for number, worker in enumerate(workers[:2], 1):
            await until(lambda n=number: len(client.events) >= 25 * n)
            await worker.kill()
        await turn
    assert client.check()["content"] == reply([{"role": "user", "content": "write 120 words"}]).text
    assert client.went_on == ["lost", "lost"]


async def test_a_worker_that_was_stopped_and_wakes_up_writes_nothing(
    redis_server: RedisServer, http: aiohttp.ClientSession
) -> None:
    options = ("--port", "0", "--redis-url", redis_server.url, "--blobs", "off")
    options = (*options, "--token-interval", "10ms")
    async with Process(*options) as one, Process(*options) as two:
        first = Client(http, [one.url], await new_session(http, one.url), ACCEPTS)
        abandoned = spawn(first.say("write 100 words"), name="turn")
        await until(lambda: len(first.events) >= 20)
        one.send(signal.SIGSTOP)
        # Its connection stays open: only a balancer's timeout ends it.
        second = Client(http, [two.url], first.sid, events=list(first.events), path=first.path)
        await second.follow(two.url)
        before = await history(http, two.url, first.sid)
        assert second.check()["content"] == answer_in(before)
        one.send(signal.SIGCONT)
        # Events in transit arrive; then it has to report that another worker continued.
        await until(lambda: first.went_on)
        assert first.went_on[0] == "handover"
        await abandoned
        assert first.check() == second.check()
        assert await history(http, two.url, first.sid) == before


async def test_a_worker_that_is_asked_to_stop_hands_its_turn_over(
    redis_server: RedisServer, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """SIGTERM, between two steps of a turn."""
    options = ("--port", "0", "--redis-url", redis_server.url, "--blobs", "off")
    options = (*options, "--token-interval", "10ms", "--mail-file", str(tmp_path / "mails"))
    async with Process(*options) as one, Process(*options) as two:
        sid = await new_session(http, one.url)
        client = Client(http, [one.url, two.url], sid, ACCEPTS)
        turn = spawn(client.say(MANY), name="turn")
        await until(lambda: client.events)
        one.send(signal.SIGTERM)
        await turn
        messages = await history(http, two.url, sid)
        assert await one.process.wait() == 0
    assert client.went_on == ["handover"]
    assert client.check()["content"] == answer_in(messages)
    assert len((tmp_path / "mails").read_text().splitlines()) == 1
