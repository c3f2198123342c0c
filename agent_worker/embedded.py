"""A server of somebody else's, run as a child: ready when it says so, gone when we are gone."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Sequence

_PR_SET_PDEATHSIG = 1
_KEPT_LINES = 20


class EmbeddedServer:
    """A running process whose output is read; use it as a context.

    Start it from the main thread: Linux ends the server with the thread that started it.
    """

    #: What it prints once it takes connections, any of these.
    READY: ClassVar[Sequence[str]]
    #: Finds its version in what it prints.
    VERSION: ClassVar[re.Pattern[str]]
    #: How it is told to end, and how long it may take (seconds) until it is killed.
    STOP_SIGNAL: ClassVar[signal.Signals] = signal.SIGTERM
    STOP_TIMEOUT_S: ClassVar[float]

    def __init__(self, process: subprocess.Popen[str], name: str) -> None:
        self.version = ""
        self._process = process
        self._lines: list[str] = []
        self._said_ready = False
        self._ready = threading.Event()  # or at its end
        # Its output must be read to the end, or the server would block on a full pipe.
        self._reader = threading.Thread(target=self._read, name=f"{name} output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End the server and wait for it; a second call does nothing."""
        if self.is_running:
            self._process.send_signal(self.STOP_SIGNAL)
            try:
                self._process.wait(self.STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._tidy_up()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL), and wait for it."""
        self._process.kill()
        self._process.wait()
        self._tidy_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _tidy_up(self) -> None:
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _is_ready(self, timeout_s: float) -> tuple[bool, str]:
        """Wait until it is ready; if not, it has been stopped, and the text says why."""
        in_time = self._ready.wait(timeout_s)
        if self._said_ready and self.is_running:
            return True, ""
        self.stop()
        why = "ended at once" if in_time else f"was not ready within {timeout_s:g} s"
        return False, f"{why}: {' | '.join(self._lines[-3:]) or 'it printed nothing'}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if match := self.VERSION.search(line):
                self.version = " ".join(match.groups())
            if any(ready in line for ready in self.READY):
                self._said_ready = True
                self._ready.set()
            if not self._ready.is_set():
                self._lines = [*self._lines[1 - _KEPT_LINES :], line.strip()]
        # The end of the output also ends the wait for readiness.
        self._ready.set()


def launch(
    words: Sequence[str], *, dies_by: signal.Signals, **options: Any
) -> subprocess.Popen[str]:
    """Start a server whose output is ours; `dies_by` is sent to it when we die. Raises OSError."""
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A Ctrl-C at the terminal is ours to handle: the server must outlive the drain.
        start_new_session=True,
        preexec_fn=_die_with_parent(dies_by),
        **options,
    )


def _die_with_parent(how: signal.Signals) -> Callable[[], None] | None:
    """Python calls it after a change of user, which would undo it."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, how)
        if os.getppid() != parent:
            # It died before the call could tell us.
            os._exit(1)

    return prepare
