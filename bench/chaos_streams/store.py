"""The Redis of a run, with an append-only file: it can be killed, and started on what it wrote."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from agent_worker.redis_server import find_server
from bench.chaos.waiting import until
from bench.live.processes import Process, free_ports

if TYPE_CHECKING:
    from pathlib import Path

_HOST = "127.0.0.1"


class Store:
    """A context manager. Everything that was acknowledged outlives `kill`."""

    def __init__(self, folder: Path) -> None:
        [self.port] = free_ports(1)
        words = ["--bind", _HOST, "--port", str(self.port), "--dir", str(folder), "--save", ""]
        words += ["--appendonly", "yes", "--appendfsync", "always"]
        # Or an outage takes longer the longer the run: 54 MB, after two minutes, are read in 1.6 s.
        words += ["--auto-aof-rewrite-min-size", "8mb"]
        self._process = Process(
            [str(find_server().path), *words],
            core=None,
            log=folder / "redis.log",
            orphan_signal=signal.SIGKILL,
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.stop()

    @property
    def url(self) -> str:
        return f"redis://{_HOST}:{self.port}/0"

    async def start(self) -> None:
        """Return when it answers, its file read."""
        self._process.__enter__()
        client = Redis(host=_HOST, port=self.port)

        async def answers() -> bool:
            with contextlib.suppress(RedisError, OSError):
                return bool(await client.ping())
            return False

        try:
            await until(answers, f"Redis answers: {self._process.output()}")
        finally:
            await client.aclose()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
