"""stdout and stderr are one pipe whose reader stalls, as with some service managers."""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.support.balancer_process import START_TAKES, Running, run
from tests.support.origin import answers
from tests.support.slow_pipe import SlowPipe
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.stage import Stage

pytestmark = pytest.mark.slow


class Output:
    """The output of a balancer, read only when the test asks for it."""

    def __init__(self, pipe: SlowPipe) -> None:
        self.pipe = pipe
        self.said = ""

    async def says(self, pattern: str, times: int = 1) -> str:
        """Read until this number of lines end with `pattern` -> the last of them."""
        async with asyncio.timeout(START_TAKES):
            while len(found := re.findall(f"{pattern}\n", self.said)) < times:
                self.said += self.pipe.read().decode()
                await asyncio.sleep(0.002)
        last: str = found[-1]
        return last

    async def begins(self) -> str:
        """-> the URL of the admin API. Afterwards the pipe is full and not read."""
        self.url = await self.says(r"listening on (http://\S+)")
        admin = await self.says(r"admin on (http://\S+)")
        self.pipe.fill()
        return f"{admin}/api/v1"


@asynccontextmanager
async def serving(folder: Path, ports: list[int]) -> AsyncIterator[tuple[Running, Output]]:
    """A balancer that ejects a server after one failed request."""
    servers = "".join(
        f'[[backends.agents.servers]]\nname = "agent{number}"\naddress = "127.0.0.1:{port}"\n'
        for number, port in enumerate(ports, 1)
    )
    file = folder / "lb.toml"
    file.write_text(
        '[process]\nmax_connections = 100\n[admin]\nbind = "127.0.0.1:0"\n'
        '[[frontends]]\nname = "public"\nbind = "127.0.0.1:0"\ndefault_backend = "agents"\n'
        f"[backends.agents]\noutlier = {{ consecutive_failures = 1 }}\n{servers}"
    )
    pipe = SlowPipe(folder / "output")
    try:
        async with run(file, before=f"exec >{pipe.path} 2>&1") as running:
            yield running, Output(pipe)
    finally:
        pipe.close()


async def test_nobody_waits_for_who_reads_the_log(stage: Stage, tmp_path: Path) -> None:
    failing = [await stage.serving(answers(b"no", status=500)) for _ in range(2)]
    async with (
        serving(tmp_path, [origin.port for origin in failing]) as (running, output),
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as client,
    ):
        api = await output.begins()
        for _ in range(4):  # the worker reports an ejected server
            async with client.get(output.url) as response:
                assert response.status in (500, 503)
        for _ in range(2):  # the supervisor reports its reload
            async with client.post(f"{api}/reload", json={}) as response:
                assert response.status == 200
        await output.says("agents/agent[12] is EJECTED for .*")
        await output.says("reloaded: no change", times=2)
        await output.says('"GET / HTTP/1.1"', times=4)
        assert "lost" not in output.said
        running.signal(signal.SIGTERM)
        await output.says("hermes_lb: ended")
        assert await running.process.wait() == 0


async def test_it_ends_if_nobody_ever_reads_what_it_says(stage: Stage, tmp_path: Path) -> None:
    origin = await stage.serving()
    async with serving(tmp_path, [origin.port]) as (running, output):
        await output.begins()
        running.signal(signal.SIGTERM)
        async with asyncio.timeout(START_TAKES):
            assert await running.process.wait() == 0
