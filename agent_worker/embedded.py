"""A third-party server as a child process, which ends with its parent."""

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
    """A running process whose output is read; a context manager.

    Start it from the main thread: Linux ends the server with the thread that started it.
    """

    #: It prints one of these once it accepts connections.
    READY: ClassVar[Sequence[str]]
    #: Matches the version in its output.
    VERSION: ClassVar[re.Pattern[str]]
    #: The signal that ends it, and the seconds after which it is killed.
    STOP_SIGNAL: ClassVar[signal.Signals] = signal.SIGTERM
    STOP_TIMEOUT_S: ClassVar[float]

    def __init__(self, process: subprocess.Popen[str], name: str) -> None:
        self.version = ""
        self._process = process
        self._lines: list[str] = []
        self._reported_ready = False
        self._ready = threading.Event()  # or when its output ends
        # Without a reader the server would block on a full pipe.
        self._reader = threading.Thread(target=self._read, name=f"{name} output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End the server and wait for it. Idempotent."""
        if self.is_running:
            self._process.send_signal(self.STOP_SIGNAL)
            try:
                self._process.wait(self.STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._tidy_up()

    def kill(self) -> None:
        """End it like a crash (SIGKILL), and wait for it."""
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

    def _why_not_ready(self, timeout_s: float) -> str:
        """Wait until it is ready. Otherwise it has been stopped; returns the reason."""
        in_time = self._ready.wait(timeout_s)
        if self._reported_ready and self.is_running:
            return ""
        self.stop()
        why = "ended at once" if in_time else f"was not ready within {timeout_s:g} s"
        return f"{why}: {' | '.join(self._lines[-3:]) or 'it printed nothing'}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if match := self.VERSION.search(line):
                self.version = " ".join(match.groups())
            if any(ready in line for ready in self.READY):
                self._reported_ready = True
                self._ready.set()
            if not self._ready.is_set():
                self._lines = [*self._lines[1 - _KEPT_LINES :], line.strip()]
        # The end of the output ends the wait as well.
        self._ready.set()


def launch(
    words: Sequence[str], *, dies_by: signal.Signals, **options: Any
) -> subprocess.Popen[str]:
    """Start a server with piped output; it gets `dies_by` when its parent dies. Raises OSError."""
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # Not in the terminal's foreground group: it must outlive the drain after Ctrl-C.
        start_new_session=True,
        preexec_fn=_die_with_parent(dies_by),
        **options,
    )


def _die_with_parent(how: signal.Signals) -> Callable[[], None] | None:
    """For `preexec_fn`, which Python calls after the change of user that would undo it."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, how)
        if os.getppid() != parent:
            # The parent has died before the call.
            os._exit(1)

    return prepare
