"""What operators have set at run time, kept in a file: it survives a restart.

HAProxy's `server-state-file`, with two differences: the balancer writes it by itself, and only what
operators decide is in it. What the checks say is found out anew. A server is listed while it
differs from its configuration:

    {"version": 1,
     "backends": {"agents": {"agent2": {"state": "drain", "weight": null,
                                        "configured": {"weight": 1, "down": false,
                                                       "address": "10.0.0.2:80"}}}}}

`configured` is what the operator has overruled. If the configuration says something else at the
next start, that is newer, and counts; HAProxy keeps to the same rule for weights. At another
address it is another server, of which nothing was said.

A server that is an address of a host name (`resolve`) may be away, with its address or with the
whole name service, and come back. Its entry waits for it, here as in the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermes_lb.backends.server import ADMINS, Admin
from hermes_lb.config.resolved import name_at, resolved_name
from hermes_lb.control.operator import MAX_WEIGHT
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hermes_lb.backends import Pool, Server

logger = logging.getLogger("hermes_lb.admin")

VERSION = 1

MOST_AWAY = 256
"""Entries of a backend that wait for their servers; the oldest go. As the resolver's addresses of a
name."""

# Seconds from a change to the writing of it, so that several become one.
_PAUSE = 0.5
# Seconds from a writing that failed to the next one, twice as many each time.
_FIRST_RETRY = 1.0
_LAST_RETRY = 60.0


@dataclass(frozen=True, slots=True)
class SavedState:
    """What an operator had set on one server, and what was configured then."""

    state: Admin
    weight: int | None
    configured_weight: int
    configured_down: bool
    address: str | None = None  # None: of a file that does not say it; any will do

    def is_of(self, server: Server) -> bool:
        """Whether it was said of this one, which has the same name."""
        return self.address in (None, _address(server))


SavedStates = dict[str, dict[str, SavedState]]
"""By backend, by server."""


def states_of(pools: Mapping[str, Pool]) -> SavedStates:
    """The servers that are not as they are configured."""
    found: SavedStates = {}
    for name, pool in pools.items():
        for server in pool.servers:
            configured = server.config
            is_as_configured = server.admin == ("maint" if configured.down else "ready")
            if not is_as_configured or server.operator_weight is not None:
                found.setdefault(name, {})[server.name] = SavedState(
                    server.admin,
                    server.operator_weight,
                    configured.weight,
                    configured.down,
                    _address(server),
                )
    return found


def away(states: SavedStates, pools: Mapping[str, Pool]) -> SavedStates:
    """Those of `states` whose servers are not there, and may come: addresses of a host name."""
    found: SavedStates = {}
    for backend, pool in pools.items():
        saved = states.get(backend)
        if not saved:
            continue
        present = {server.name for server in pool.servers}
        looked_up = {name for s in pool.servers if (name := resolved_name(s.config)) is not None}
        beginnings = tuple(name_at(name, "") for name in looked_up)
        waiting = [name for name in saved if name not in present and name.startswith(beginnings)]
        if waiting:
            found[backend] = {name: saved[name] for name in waiting[-MOST_AWAY:]}
    return found


def apply(states: SavedStates, pools: Mapping[str, Pool]) -> None:
    """Set them. Who is not there is named in the log: may it come, or is it unknown?"""
    for backend, pool in pools.items():
        saved_servers = states.get(backend, {})
        for server in pool.servers:
            saved = saved_servers.get(server.name)
            if saved is not None and saved.is_of(server):
                _apply_one(saved, server, f"{backend}/{server.name}", "the restart")
    waiting = away(states, pools)
    may_come: list[str] = []
    unknown: list[str] = []
    for backend, saved_servers in states.items():
        servers = {s.name: s for s in pools[backend].servers} if backend in pools else {}
        for name, saved in saved_servers.items():
            if name in waiting.get(backend, ()):
                may_come.append(f"{backend}/{name}")
            elif name not in servers:
                unknown.append(f"{backend}/{name}")
            elif not saved.is_of(servers[name]):
                unknown.append(f"{backend}/{name} at {saved.address}")
    if may_come:
        logger.info("the state file's entries of addresses that are away wait: %s", _list(may_come))
    if unknown:
        logger.info("the state file names servers that do not exist: %s", _list(unknown))


def _address(server: Server) -> str:
    """As the configuration has it: what `Pool.reconfigure` knows a server by, beside its name.

    Of an address of a host name (`resolve`) it is that address, with the port.
    """
    return str(server.config.address)


def _list(names: list[str]) -> str:
    return ", ".join(sorted(names))


def _apply_one(saved: SavedState, server: Server, shown: str, since: str) -> None:
    before = server.admin, server.operator_weight
    if saved.configured_down == server.config.down and saved.state != server.admin:
        server.restore({"admin": saved.state, "last_check": ""})
    if saved.configured_weight == server.config.weight:
        server.restore({"operator_weight": saved.weight})
    if (server.admin, server.operator_weight) != before:
        logger.info(
            "%s is set to %s, weight %d, as before %s",
            shown, server.admin, server.full_weight, since,
        )  # fmt: skip


class StateFile:
    """The file at `path`; its directory has to exist. Both methods block: call them in a thread."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"<StateFile {self.path}>"

    def load(self) -> SavedStates:
        """What it says; nothing if there is none.

        One that can't be understood is put aside, as `NAME.broken`, and there is nothing too: a
        balancer starts whatever is in it.
        """
        try:
            with open(self.path, encoding="utf-8", opener=_open_at_once) as file:
                self._check_kind(os.fstat(file.fileno()))
                return _parse(json.loads(file.read()))
        except FileNotFoundError:
            if not os.access(self.path.parent, os.W_OK):
                logger.warning(
                    "there can be no state file %s: its directory must exist and be writable, "
                    "or what is set at run time ends with this process", self.path,
                )  # fmt: skip
            return {}
        except OSError as error:
            reason = error.strerror or error
            logger.warning("the state file %s can't be read, and is ignored: %s", self.path, reason)
            return {}
        except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, or of ours
            aside = self.path.with_name(self.path.name + ".broken")
            with contextlib.suppress(OSError):
                self.path.replace(aside)
            logger.warning(
                "the state file %s is broken (%s): it is ignored, and kept as %s",
                self.path, error, aside.name,
            )  # fmt: skip
            return {}

    def save(self, states: SavedStates) -> None:
        """Replace it as a whole: whoever reads it, now or after a crash, sees the old or the new.

        Raises OSError; the old one is still there then.
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
            os.fsync(directory)  # without it a crash of the machine may undo the rename
        finally:
            os.close(directory)

    def _check_kind(self, found: os.stat_result) -> None:
        """A device or a FIFO must be neither waited for nor replaced."""
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for whoever would write into a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK)


class RuntimeStates:
    """Keeps the file and the servers together: reads it at the start, and writes what changes.

    Every method belongs to the loop's thread; the disk is left to others.
    """

    def __init__(self, path: str | Path, pools: Mapping[str, Pool]) -> None:
        self._file = StateFile(path)
        self._pools = pools
        self._tasks = Tasks()
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._states: SavedStates = {}  # of servers that are away too
        self._servers: dict[str, list[Server]] = {}  # whom we have seen, by backend
        self._will_look = False
        self._written: SavedStates = {}
        self._has_failed = False

    def __repr__(self) -> str:
        return f"<RuntimeStates {'running' if self._writer else 'stopped'}, {self._file.path}>"

    async def start(self) -> None:
        """Bring the servers to the states that they had. Call it before the checks start."""
        if self._writer is not None:
            raise RuntimeError("the state file was started already")
        self._ending.clear()
        saved = await asyncio.to_thread(self._file.load)
        self._servers = self._present()
        apply(saved, self._pools)
        self._states = self._written = saved
        self._look()  # what was in it may not all hold any more
        self._writer = self._tasks.spawn(self._write_changes(), name="state file")

    def changed(self) -> None:
        """Some server may have been set to something else, or have come or gone.

        Who has come back is at once as it was. The file will follow in a moment.
        """
        if self._writer is None:
            return
        seen, self._servers = self._servers, self._present()
        for name, servers in self._servers.items():
            # A pool's list is another one whenever its servers are.
            if servers is not (before := seen.get(name, [])):
                self._welcome(name, set(servers).difference(before))
        if not self._will_look:  # once for all that happens now: it is a walk through all servers
            self._will_look = True
            asyncio.get_running_loop().call_soon(self._look)

    def _present(self) -> dict[str, list[Server]]:
        return {name: pool.servers for name, pool in self._pools.items()}

    def _welcome(self, backend: str, new: set[Server]) -> None:
        states = self._states.get(backend, {})
        for server in new:
            saved = states.get(server.name)
            if saved is not None and saved.is_of(server):
                _apply_one(saved, server, f"{backend}/{server.name}", "it was gone")

    def _look(self) -> None:
        self._will_look = False
        states = states_of(self._pools)
        for backend, waiting in away(self._states, self._pools).items():
            states[backend] = waiting | states.get(backend, {})
        self._states = states
        self._changed.set()

    async def stop(self) -> None:
        """Write what is not written yet. Idempotent."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._look()
            self._ending.set()
            await writer

    async def _write_changes(self) -> None:
        is_last = False
        retry: float | None = None  # seconds; None: when something changes
        while not is_last:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), retry)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _PAUSE)
            self._changed.clear()
            is_last = self._ending.is_set()  # before the writing: nothing of before is missed
            if await self._write():
                retry = None
            else:
                retry = min(2 * retry, _LAST_RETRY) if retry else _FIRST_RETRY

    async def _write(self) -> bool:
        """False if the file does not have what holds now."""
        states = self._states
        if states == self._written:
            return True
        try:
            await asyncio.to_thread(self._file.save, states)
        except OSError as error:
            if not self._has_failed:  # said once, until it works again
                reason = error.strerror or error
                logger.warning("the state file %s can't be written: %s", self._file.path, reason)
            self._has_failed = True
            return False
        if self._has_failed:
            logger.info("the state file %s is written again", self._file.path)
        self._written = states
        self._has_failed = False
        return True


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
    """Raises ValueError: people may have written in it."""
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
        raise ValueError(f"{where}: configured address is no text")
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
