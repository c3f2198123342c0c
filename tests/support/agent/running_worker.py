"""A worker in this process, on a port of its own, with a client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from agent_worker.app import Worker, build_runner

SESSIONS = "/api/agent/sessions"


@dataclass
class RunningWorker:
    """`http`: for paths of the worker. The methods are for paths below `SESSIONS`."""

    worker: Worker
    url: str
    runner: web.AppRunner = field(repr=False)
    http: aiohttp.ClientSession = field(repr=False)

    @classmethod
    async def start(cls, worker: Worker) -> RunningWorker:
        runner = build_runner(worker)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        url = f"http://127.0.0.1:{port}"
        http = aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=30))
        return cls(worker, url, runner, http)

    async def stop(self) -> None:
        await self.runner.cleanup()
        await self.http.close()

    def sessions(self, *parts: str) -> str:
        return "/".join([self.url + SESSIONS, *parts])

    def get(self, *parts: str, **options: Any) -> Any:
        return self.http.get(self.sessions(*parts), **options)

    def post(self, *parts: str, **options: Any) -> Any:
        return self.http.post(self.sessions(*parts), **options)

    def delete(self, *parts: str, **options: Any) -> Any:
        return self.http.delete(self.sessions(*parts), **options)

    def ws_connect(self, *parts: str, **options: Any) -> Any:
        return self.http.ws_connect(self.sessions(*parts), **options)
