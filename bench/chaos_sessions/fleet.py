"""Worker processes: started, killed, stopped beyond their lease, started again."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from bench.chaos.waiting import PATIENCE, until
from bench.live.processes import Process, free_ports

if TYPE_CHECKING:
    from pathlib import Path

_LISTENING = "listening on "
# Seconds for which a draining worker still serves new requests.
_TOLD_FIRST_S = 0.3
_RECORD = re.compile(r"^(?=\d{4}-\d\d-\d\d \d\d:|agent_worker |no --token|off: )", re.M)
# aiohttp logs a handler that wrote to a closed connection; the last line says why it ended.
_CLIENT_LEFT = re.compile(r"\n(aiohttp\.\S*\.)?(ClientConnection|Connection)\w*Error:? [^\n]*\Z")


@dataclass(frozen=True)
class WorkerOptions:
    redis_url: str
    mail_file: Path
    token_interval_s: float
    lease_s: float = 30.0
    drain_timeout_s: float = 30.0
    context_tokens: int = 100_000


class Worker:
    """One port, at which a process listens, or not. The caller ends it."""

    def __init__(self, name: str, options: WorkerOptions, folder: Path) -> None:
        [self.port] = free_ports(1)
        self.name = name
        self.lease_s = options.lease_s
        self.url = f"http://127.0.0.1:{self.port}"
        self.is_up = False
        self._heard = 0
        self._log = folder / f"{name}.log"
        argv = [sys.executable, "-m", "agent_worker", "--port", str(self.port), "--name", name]
        argv += ["--redis-url", options.redis_url, "--blobs", "off"]
        argv += ["--drain-timeout", _ms(options.drain_timeout_s), "--lease", _ms(options.lease_s)]
        argv += ["--token-interval", _ms(options.token_interval_s)]
        argv += ["--mail-file", str(options.mail_file)]
        argv += ["--context-tokens", str(options.context_tokens)]
        self._process = Process(argv, core=None, log=self._log, orphan_signal=signal.SIGKILL)

    async def start(self) -> None:
        """Return when it listens, as a supervisor would have it. Raises NeverCame."""
        self._heard = self._said().count(_LISTENING)
        await until(self._listens, f"{self.name} listens: {self._process.output()}", patience=60.0)
        self.is_up = True

    def kill(self) -> None:
        """SIGKILL, whatever it is doing."""
        self.is_up = False
        self._process.kill()

    async def drain(self, *, is_announced: bool, patience: float = PATIENCE) -> None:
        """SIGTERM, and return when it has ended; perhaps `POST /drain` a moment before.

        Raises NeverCame.
        """
        if is_announced:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with aiohttp.request("POST", self.url + "/drain"):
                    await asyncio.sleep(_TOLD_FIRST_S)
        self.is_up = False
        self._process.send(signal.SIGTERM)

        async def has_ended() -> bool:
            return not self._process.is_running()

        await until(has_ended, f"{self.name} drains", patience=patience)

    def stop(self) -> None:
        """SIGSTOP: its connections stay open, without answers."""
        self.is_up = False
        self._process.send(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._process.send(signal.SIGCONT)
        self.is_up = True

    def end(self) -> None:
        """For good."""
        self.is_up = False
        self._process.send(signal.SIGCONT)
        self._process.stop()

    def unforeseen(self) -> list[str]:
        """The errors with a traceback in its log, but for those of clients that had left."""
        records = _RECORD.split(self._said())
        traces = [record for record in records if "\nTraceback (most recent call last)" in record]
        return [trace for trace in traces if not _CLIENT_LEFT.search(trace.strip())]

    async def _listens(self) -> bool:
        if not self._process.is_running():
            # It gives up if there is no Redis for 3 s, which a failover can take.
            self._process.__enter__()
        return self._said().count(_LISTENING) > self._heard

    def _said(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms"
