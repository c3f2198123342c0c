"""A worker in a process of its own."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import signal


class Program:
    """`python -m <module> ...`, whose lines are read; killed at the end if it still runs."""

    def __init__(
        self, *arguments: str, module: str = "agent_worker", stderr: int | None = None
    ) -> None:
        self._command = (sys.executable, "-m", module, *arguments)
        self._stderr = stderr

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            *self._command, stdout=asyncio.subprocess.PIPE, stderr=self._stderr
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.process.kill()
        await self.process.wait()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
