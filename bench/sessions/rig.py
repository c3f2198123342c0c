"""A worker process and the Valkey behind it, both looked at from outside."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from agent_worker.sessions import connect
from bench.live.errors import BenchError
from bench.live.processes import Process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent_worker.redis_server import RedisServer

SESSIONS = "/api/agent/sessions"
_LISTENING = re.compile(r"listening on (http://\S+)")
_START_S = 15.0


@dataclass(frozen=True)
class Counted:
    """Of a stretch of time: scripts that Redis ran, its time in them, the worker's CPU."""

    scripts: int
    script_us: float
    worker_us: float


@dataclass
class Worker:
    process: Process
    url: str
    http: aiohttp.ClientSession
    redis: Any

    async def new_session(self) -> str:
        async with self.http.post(self.url + SESSIONS) as response:
            return str((await response.json())["session_id"])

    async def say(self, session_id: str, content: str) -> dict[str, Any]:
        """One turn; its answer."""
        url = f"{self.url}{SESSIONS}/{session_id}/messages"
        async with self.http.post(url, json={"content": content}) as response:
            response.raise_for_status()
            return dict(await response.json())

    async def stream(self, session_id: str, content: str) -> int:
        """One turn as events; how many deltas came."""
        url = f"{self.url}{SESSIONS}/{session_id}/messages"
        headers = {"Accept": "text/event-stream"}
        deltas = 0
        async with self.http.post(url, json={"content": content}, headers=headers) as response:
            response.raise_for_status()
            async for line in response.content:
                deltas += line == b"event: message.delta\n"
        return deltas

    async def count(self) -> Counted:
        stats = await self.redis.info("commandstats")
        calls = [stats.get(f"cmdstat_{name}", {}) for name in ("evalsha", "eval")]
        return Counted(
            sum(call.get("calls", 0) for call in calls),
            sum(call.get("usec", 0) for call in calls),
            self.process.cpu_ns() / 1000,
        )


@dataclass(frozen=True)
class Rig:
    server: RedisServer
    folder: Path
    core: int

    @contextlib.asynccontextmanager
    async def worker(self, *options: str) -> AsyncIterator[Worker]:
        """A fresh worker process on the core of its own."""
        log = self.folder / "worker.log"
        log.write_bytes(b"")
        argv = [sys.executable, "-m", "agent_worker", "--port", "0"]
        argv += ["--redis-url", self.server.url, *options]
        client = connect(self.server.url)
        timeout = aiohttp.ClientTimeout(total=300)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
            with Process(argv, core=self.core, log=log) as process:
                url = await _address(process, log)
                yield Worker(process, url, http, client.raw)
        await client.aclose()


async def _address(process: Process, log: Path) -> str:
    async with asyncio.timeout(_START_S):
        while True:
            text = await asyncio.to_thread(log.read_text)
            if match := _LISTENING.search(text):
                return match[1]
            if not process.is_running():
                raise BenchError(f"the worker ended at once: {text.strip()}")
            await asyncio.sleep(0.02)
