"""Child processes, each with a log file; none outlives the demo, however that ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Self

_LAUNCHER = Path(__file__).with_name("launcher.py")

# Seconds for a child to end by itself: the first SIGTERM drains it, the second cuts the rest.
_ENDINGS = ((signal.SIGTERM, 2.0), (signal.SIGTERM, 1.5), (signal.SIGKILL, 5.0))

# The demo's client sends no token: a list of tokens would lock it out.
_NOT_INHERITED = ("HERMES_TOKENS", "HERMES_REDIS_URL")


class Child:
    """A process started by the demo."""

    def __init__(self, name: str, log: Path, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.log = log
        self._process = process

    def __repr__(self) -> str:
        state = "running" if self.is_running else self.how_it_ended
        return f"<Child {self.name} pid {self.pid} {state}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    @property
    def how_it_ended(self) -> str:
        """Such as "was ended by SIGKILL" or "ended with status 1"."""
        status = self._process.returncode
        if status is None:
            return "is running"
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def tail(self, lines: int) -> list[str]:
        """The end of its log."""
        with contextlib.suppress(FileNotFoundError):
            return self.log.read_text(errors="replace").splitlines()[-lines:]
        return []

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def kill(self) -> None:
        """kill -9, and wait for the exit."""
        self.send(signal.SIGKILL)
        await self._process.wait()

    async def end(self) -> None:
        """Ask, ask again, kill; return after the exit."""
        for number, patience in _ENDINGS:
            self.send(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._process.wait()
                    return


class Children:
    """All child processes; leaving the block ends them, the first one last.

    Start them from the main thread (see `launcher`).
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._all: list[Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end_all()

    async def start(self, name: str, *arguments: str, output: Path | None = None) -> Child:
        """Run `python ARGUMENTS`; its output goes to its log, stdout to `output` if given."""
        log = self._logs / f"{name}.log"
        environment = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
        with log.open("ab") as errors, (output or log).open("ab") as printed:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())),
                *(sys.executable, *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=printed,
                stderr=errors,
                env={**environment, "PYTHONUNBUFFERED": "1"},
                # Ctrl-C is handled by the demo, which ends them in order.
                start_new_session=True,
            )
        child = Child(name, log, process)
        self._all = [other for other in self._all if other.is_running]
        self._all.append(child)
        return child

    async def end_all(self) -> None:
        """The first one last: the others may still write to it."""
        await asyncio.gather(*(child.end() for child in self._all[1:]))
        for child in self._all[:1]:
            await child.end()

    def kill_all(self) -> None:
        """Kill without waiting; a concurrent `end_all` then returns soon."""
        for child in self._all:
            child.send(signal.SIGKILL)
