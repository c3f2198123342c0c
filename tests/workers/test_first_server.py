"""Scale from zero, with worker processes: requests wait for the first server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.support.balancer_process import reserved_port, run, until_it_listens
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

_CONFIG = """
[process]
workers = 2
max_connections = 100
[log]
access = "off"
[admin]
bind = "127.0.0.1:0"
[[frontends]]
name = "public"
bind = "127.0.0.1:0"
default_backend = "agents"
[backends.agents]
wait_for_server = "10m"
health = {{ probe = "tcp", interval = "100ms", rise = 1, fall = 1, start = "down" }}
servers = [{{ name = "agent1", address = "127.0.0.1:{port}" }}]
"""


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One response on each connection; a check by TCP sends nothing."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def test_requests_wait_for_a_server_that_starts_later(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    with reserved_port() as port:
        file.write_text(_CONFIG.format(port=port))
        async with run(file) as running, aiohttp.ClientSession() as http:
            await until_it_listens(running)
            admin = (await running.says(r"admin on (http://\S+)"))[1]

            async def has(name: str, value: float) -> bool:
                async with http.get(f"{admin}/api/v1/scaling/agents") as answer:
                    return bool((await answer.json())[name] == value)

            async def ask() -> int:
                # Each on a connection of its own, so that both processes have some.
                async with aiohttp.request("GET", running.url) as answer:
                    return answer.status

            for _ in range(2):  # scale from zero, to zero, and from zero again
                await until(lambda: has("available", 0))
                asked = asyncio.gather(*(ask() for _ in range(8)))
                await until(lambda: has("demand", 8))
                server = await asyncio.start_server(_serve, "127.0.0.1", port)
                assert await asked == [200] * 8
                await until(lambda: has("demand", 0))
                server.close()
                await server.wait_closed()
