"""One worker process, as the supervisor sees it: start, messages, exit."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hermes_lb.signals import HANDLED
from hermes_lb.workers.channel import Channel
from hermes_lb.workers.worker import CHANNEL_FD

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.observe.certificates import CertificateView
    from hermes_lb.workers.channel import Message
    from hermes_lb.workers.listening import Key

# Variables by which systemd addresses the service's main process only.
_OURS = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}


def worker_command(*options: str) -> list[str]:
    """Runs `hermes_lb.workers` in a fresh interpreter with the options of this one."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-m", "hermes_lb.workers", *options]


class Child:
    """A child process, started by this or by the previous generation.

    `number` is its region of the shared memory, `slot` the sockets it listens on. `ended(child)` is
    called once, when it has exited.
    """

    def __init__(
        self,
        pid: int,
        sock: socket.socket,
        *,
        number: int,
        slot: int,
        heard: Callable[[Child, Message], None],
        ended: Callable[[Child], None],
        is_retired: bool = False,
        serves: bool = False,
        asked: int = 0,
        incarnation: str = "",
    ) -> None:
        self.pid = pid
        self.number = number
        self.slot = slot
        self.is_retired = is_retired  # draining: not replaced when it ends
        self.serves = serves  # its start was confirmed
        self.incarnation = incarnation  # in the store of turns, if it has one
        self.certificates: list[CertificateView] = []  # that it presents to clients
        self.is_silent = False  # a reconfiguration timed out
        self.is_alone: bool | None = None  # as last sent; None: never sent
        # Its sockets. By identity: an address may have been closed and opened again.
        self.listens: dict[Key, list[socket.socket]] = {}
        self.started_at = asyncio.get_running_loop().time()
        self.channel = Channel(sock, lambda message, _: heard(self, message), asked=asked)
        self.exit_status: int | None = None
        self._ended = ended
        self._over = asyncio.Event()
        self._pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._exited)

    @classmethod
    def start(cls, loop: str, **about: Any) -> Child:
        """Run a fresh interpreter, which loads the code now on disk."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            pid = os.posix_spawn(
                sys.executable,
                worker_command("--loop", loop),
                {key: os.environ[key] for key in os.environ.keys() - _OURS},
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), CHANNEL_FD)],
                # Terminals and service managers signal the whole group: blocked until the worker
                # has its handlers.
                setsigmask=HANDLED,
            )
        return cls(pid, ours, **about)

    def __repr__(self) -> str:
        state = "ended" if self.has_ended else "retired" if self.is_retired else "running"
        return f"<Child {self.number}: process {self.pid}, {state}>"

    @property
    def has_ended(self) -> bool:
        return self.exit_status is not None

    @property
    def end_in_words(self) -> str:
        """Such as "by signal 9"."""
        status = self.exit_status
        if status is None:
            return "without an exit status"
        return f"by signal {-status}" if status < 0 else f"with exit status {status}"

    def retire(self, timeout: float) -> None:
        """Have it stop accepting, finish for up to `timeout` seconds, and exit."""
        self.is_retired = True
        self.channel.send({"do": "drain", "timeout": timeout})

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> None:
        """Return when it has exited."""
        await self._over.wait()

    def _exited(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        try:
            _, status = os.waitpid(self.pid, 0)
            self.exit_status = os.waitstatus_to_exitcode(status)
        except ChildProcessError:
            self.exit_status = -1
        self.channel.hear_out()
        self._over.set()
        self._ended(self)
