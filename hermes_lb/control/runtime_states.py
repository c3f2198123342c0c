"""Keeps the servers' run-time states and the state file in sync.

A server that is an address of a host name (`resolve`) may disappear, alone or with the whole name
service, and come back. Its entry is kept until then, here and in the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from hermes_lb.control.state_file import SavedState, SavedStates, StateFile
from hermes_lb.discovery.sources.resolve import name_at
from hermes_lb.errors import reason
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hermes_lb.backends import Pool, Server

logger = logging.getLogger("hermes_lb.admin")

MOST_AWAY = 256
"""Entries kept per backend for absent servers, the newest. As the resolver's limit per name."""

# Seconds from a change to its write, to batch several.
_PAUSE = 0.5
# Seconds from a failed write to the next one, doubled each time.
_FIRST_RETRY = 1.0
_LAST_RETRY = 60.0


def states_of(pools: Mapping[str, Pool]) -> SavedStates:
    """The servers that differ from their configuration."""
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
    """Entries of absent servers that may come back: addresses of a host name, and all of a backend
    with a discovery."""
    found: SavedStates = {}
    for backend, pool in pools.items():
        saved = states.get(backend)
        if not saved:
            continue
        present = {server.name for server in pool.servers}
        if pool.expects_servers:  # any name may come back
            absent = [name for name in saved if name not in present]
            if absent:
                found[backend] = {name: saved[name] for name in absent[-MOST_AWAY:]}
            continue
        looked_up = {name for s in pool.servers if (name := s.config.resolved_from) is not None}
        beginnings = tuple(name_at(name, "") for name in looked_up)
        waiting = [name for name in saved if name not in present and name.startswith(beginnings)]
        if waiting:
            found[backend] = {name: saved[name] for name in waiting[-MOST_AWAY:]}
    return found


def apply(states: SavedStates, pools: Mapping[str, Pool]) -> None:
    """Restore them. Absent and unknown servers are logged."""
    for backend, pool in pools.items():
        saved_servers = states.get(backend, {})
        for server in pool.servers:
            saved = saved_servers.get(server.name)
            if saved is not None and _is_of(saved, server):
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
            elif not _is_of(saved, servers[name]):
                unknown.append(f"{backend}/{name} at {saved.address}")
    if may_come:
        logger.info(
            "state file: entries kept for servers that are absent and may come back: %s",
            _list(may_come),
        )
    if unknown:
        logger.info("state file: no such servers: %s", _list(unknown))


def _address(server: Server) -> str | None:
    """Identifies a server beside its name (`Pool.reconfigure`). None: the name is enough."""
    return server.config.identity or None


def _is_of(saved: SavedState, server: Server) -> bool:
    """The entry's address is that of the server, which has the same name."""
    return saved.address in (None, _address(server))


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


class RuntimeStates:
    """Applies the file at the start, and writes changes of the servers to it.

    Call every method in the loop's thread; disk access is in other threads.
    """

    def __init__(self, path: str | Path, pools: Mapping[str, Pool]) -> None:
        self._file = StateFile(path)
        self._pools = pools
        self._tasks = Tasks()
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._states: SavedStates = {}  # including absent servers
        self._servers: dict[str, list[Server]] = {}  # seen so far, by backend
        self._will_look = False
        self._written: SavedStates = {}
        self._has_failed = False

    def __repr__(self) -> str:
        return f"<RuntimeStates {'running' if self._writer else 'stopped'}, {self._file.path}>"

    async def start(self) -> None:
        """Restore the servers' states. Call it before the checks start."""
        if self._writer is not None:
            raise RuntimeError("the state file was started already")
        self._ending.clear()
        saved = await asyncio.to_thread(self._file.load)
        self._servers = self._present()
        apply(saved, self._pools)
        self._states = self._written = saved
        self._look()  # entries may be obsolete
        self._writer = self._tasks.spawn(self._write_changes(), name="state file")

    def changed(self) -> None:
        """A server's state may have changed, or servers were added or removed.

        A returning server gets its saved state at once. The file is written soon.
        """
        if self._writer is None:
            return
        seen, self._servers = self._servers, self._present()
        for name, servers in self._servers.items():
            # A pool makes a new list when its servers change.
            if servers is not (before := seen.get(name, [])):
                self._restore(name, set(servers).difference(before))
        if not self._will_look:  # once per loop iteration: it visits all servers
            self._will_look = True
            asyncio.get_running_loop().call_soon(self._look)

    def _present(self) -> dict[str, list[Server]]:
        return {name: pool.servers for name, pool in self._pools.items()}

    def _restore(self, backend: str, new: set[Server]) -> None:
        states = self._states.get(backend, {})
        for server in new:
            saved = states.get(server.name)
            if saved is not None and _is_of(saved, server):
                _apply_one(saved, server, f"{backend}/{server.name}", "it was gone")

    def _look(self) -> None:
        self._will_look = False
        states = states_of(self._pools)
        for backend, waiting in away(self._states, self._pools).items():
            states[backend] = waiting | states.get(backend, {})
        self._states = states
        self._changed.set()

    async def stop(self) -> None:
        """Write pending changes. Idempotent."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._look()
            self._ending.set()
            await writer

    async def _write_changes(self) -> None:
        is_last = False
        retry: float | None = None  # seconds; None: not before the next change
        while not is_last:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), retry)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _PAUSE)
            self._changed.clear()
            is_last = self._ending.is_set()  # read before the write, which then has all changes
            if await self._write():
                retry = None
            else:
                retry = min(2 * retry, _LAST_RETRY) if retry else _FIRST_RETRY

    async def _write(self) -> bool:
        """False if the file is not up to date."""
        states = self._states
        if states == self._written:
            return True
        try:
            await asyncio.to_thread(self._file.save, states)
        except OSError as error:
            if not self._has_failed:  # logged once
                logger.warning("can't write the state file %s: %s", self._file.path, reason(error))
            self._has_failed = True
            return False
        if self._has_failed:
            logger.info("the state file %s is written again", self._file.path)
        self._written = states
        self._has_failed = False
        return True
