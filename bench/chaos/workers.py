"""The handle of a worker process: it is started, killed, stopped and started again."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from bench.chaos.waiting import NeverCame, until
from bench.chaos.worker import READY
from bench.live.processes import Process, python_module

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Worker:
    """One address, at which a process listens, or not."""

    def __init__(
        self,
        name: str,
        address: tuple[str, int],
        *,
        folder: Path,
        journal: Path,
        core: int | None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.address = address
        self.starts = 0
        self._log = folder / f"{name}.log"
        self._core = core
        host, port = address
        module = python_module("bench.chaos.worker", name, host, str(port), str(journal))
        self._command = [*prefix, *module]
        self._process: Process | None = None

    async def start(self) -> None:
        """Return when it listens."""
        self._process = Process(
            self._command, core=self._core, log=self._log, orphan_signal=signal.SIGKILL
        ).__enter__()
        self.starts += 1
        await until(self._is_ready, f"{self.name} listens (see {self._log})")

    async def _is_ready(self) -> bool:
        if not self.is_running:
            raise NeverCame(f"{self.name} has ended: {self.said}")
        return self.said.count(READY) == self.starts

    @property
    def said(self) -> str:
        """All of its output; more than its readiness is a defect of the worker."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running()

    def kill(self) -> None:
        """kill -9, and it is gone."""
        if self._process is not None:
            self._process.kill()

    def terminate(self) -> None:
        """SIGTERM, and it is gone: it waits for nothing."""
        if self._process is not None:
            self._process.stop()

    def freeze(self) -> None:
        """SIGSTOP: it still has its connections, and the kernel goes on accepting for it."""
        if self._process is not None:
            self._process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send(signal.SIGCONT)
