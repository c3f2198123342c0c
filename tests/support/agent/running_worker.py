"""A worker in this process, on a port of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web

from agent_worker.app import Worker, build_runner

SESSIONS = "/api/agent/sessions"


@dataclass
class RunningWorker:
    worker: Worker
    url: str
    runner: web.AppRunner = field(repr=False)

    @classmethod
    async def start(cls, worker: Worker) -> RunningWorker:
        runner = build_runner(worker)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        return cls(worker, f"http://127.0.0.1:{port}", runner)

    def sessions(self, *parts: str) -> str:
        return "/".join([self.url + SESSIONS, *parts])
