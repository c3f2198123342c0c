"""The state file: states and weights that operators have set on servers.

HAProxy's `server-state-file`, but written by the balancer itself, and with operators' decisions
only; results of checks are found out again. A server is listed while it differs from its
configuration:

    {"version": 1,
     "backends": {"agents": {"agent2": {"state": "drain", "weight": null,
                                        "configured": {"weight": 1, "down": false,
                                                       "address": "10.0.0.2:80"}}}}}

`configured` is what the operator has overridden. A value that is configured differently at the
next start is newer and takes precedence, as HAProxy does for weights. The same name at another
address is another server, to which the entry does not apply.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes_lb.backends.server import ADMINS, Admin
from hermes_lb.control.operator import MAX_WEIGHT
from hermes_lb.errors import reason

logger = logging.getLogger("hermes_lb.admin")

VERSION = 1


@dataclass(frozen=True, slots=True)
class SavedState:
    """What an operator has set on a server, and the configuration at that time."""

    state: Admin
    weight: int | None
    configured_weight: int
    configured_down: bool
    address: str | None = None  # None: an old file without it; matches any


SavedStates = dict[str, dict[str, SavedState]]
"""By backend, by server."""


class StateFile:
    """The file at `path`, in a directory that exists. Both methods block: call them in a thread."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"<StateFile {self.path}>"

    def load(self) -> SavedStates:
        """Its content; empty if there is no file.

        An invalid file is renamed to `NAME.broken` and treated as empty, and an unreadable one is
        ignored: the balancer starts in any case.
        """
        try:
            with open(self.path, encoding="utf-8", opener=_open_at_once) as file:
                self._check_kind(os.fstat(file.fileno()))
                return _parse(json.loads(file.read()))
        except FileNotFoundError:
            if not os.access(self.path.parent, os.W_OK):
                logger.warning(
                    "the directory of the state file %s is missing or not writable: states set at "
                    "run time will be lost on a restart", self.path,
                )  # fmt: skip
            return {}
        except OSError as error:
            logger.warning("can't read the state file %s, ignored: %s", self.path, reason(error))
            return {}
        except (ValueError, RecursionError) as error:  # from JSON, UTF-8 or `_parse`
            aside = self.path.with_name(self.path.name + ".broken")
            with contextlib.suppress(OSError):
                self.path.replace(aside)
            logger.warning(
                "the state file %s is invalid, ignored and renamed to %s: %s",
                self.path, aside.name, error,
            )  # fmt: skip
            return {}

    def save(self, states: SavedStates) -> None:
        """Replace it atomically: a reader, also after a crash, sees the old or the new content.

        Raises OSError; the old file is kept then.
        """
        with contextlib.suppress(FileNotFoundError):
            self._check_kind(self.path.stat())
        folder = self.path.parent
        written, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=folder)
        try:
            with open(written, "w", encoding="utf-8") as file:
                file.write(_format(states))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # else a crash of the machine may undo the rename
        finally:
            os.close(directory)

    def _check_kind(self, found: os.stat_result) -> None:
        """A device or a FIFO must be neither read nor replaced."""
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")


def _open_at_once(path: str, flags: int) -> int:
    """Does not block on a FIFO without a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _format(states: SavedStates) -> str:
    backends = {
        backend: {
            name: {
                "state": saved.state,
                "weight": saved.weight,
                "configured": {
                    "weight": saved.configured_weight,
                    "down": saved.configured_down,
                    "address": saved.address,
                },
            }
            for name, saved in servers.items()
        }
        for backend, servers in states.items()
    }
    return json.dumps({"version": VERSION, "backends": backends}, indent=2) + "\n"


def _parse(read: object) -> SavedStates:
    """Raises ValueError if the file is not as `_format` writes it."""
    top = _table(read, "the file")
    if top.get("version") != VERSION:
        raise ValueError(f"version {top.get('version')!r}, expected {VERSION}")
    return {
        backend: {
            name: _parse_one(_table(saved, f"{backend}/{name}"), f"{backend}/{name}")
            for name, saved in _table(servers, backend).items()
        }
        for backend, servers in _table(top.get("backends"), "backends").items()
    }


def _parse_one(saved: dict[str, Any], where: str) -> SavedState:
    configured = _table(saved.get("configured"), f"configured of {where}")
    state, weight, down = saved.get("state"), saved.get("weight"), configured.get("down")
    address = configured.get("address")
    if state not in ADMINS:
        raise ValueError(f"{where}: state {state!r} is not one of {', '.join(ADMINS)}")
    if not isinstance(down, bool):
        raise ValueError(f"{where}: configured down is not true or false")
    if not (address is None or isinstance(address, str)):
        raise ValueError(f"{where}: configured address is not a string")
    return SavedState(
        state,
        None if weight is None else _weight(weight, where),
        _weight(configured.get("weight"), where),
        down,
        address,
    )


def _weight(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_WEIGHT:
        raise ValueError(f"{where}: a weight is a number from 0 to {MAX_WEIGHT}")
    return value


def _table(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not an object")
    return value
