"""Active checks: each server is probed at every interval, and the results set its state."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.backends.dialing import Dialer, in_words
from hermes_lb.errors import EXHAUSTION
from hermes_lb.health.lateness import Lateness
from hermes_lb.health.probes.base import NoAnswer
from hermes_lb.health.probes.registry import PROBES
from hermes_lb.health.rise_fall import RiseFall
from hermes_lb.tasks import Tasks, jittered

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from hermes_lb import config
    from hermes_lb.backends import Pool, Server
    from hermes_lb.backends.dialing import ServerDialer
    from hermes_lb.health.probes.base import Probe, ProbeOptions

logger = logging.getLogger("hermes_lb.health")


def first_delay(interval: float, place: int, count: int, rng: random.Random) -> float:
    """Seconds until the first check of the `place`th (from 0) of `count` servers: a random time in
    its own slice of the interval, so that the checks are spread over it."""
    return interval * (place + rng.random()) / count


# The kernel has found the host unreachable.
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT)


class _Result(NamedTuple):
    passed: bool
    because: str
    timed_out: bool = False
    is_silent: bool = False  # it timed out, or the host is unreachable
    announces_drain: bool = False


class _Target:
    """One server, its probe, and the results so far."""

    dialer: ServerDialer

    def __init__(
        self, pool: Pool, server: Server, health: ProbeOptions, probe: Probe, *, is_new: bool
    ) -> None:
        self.pool = pool
        self.server = server
        self.health = health
        self.probe = probe
        self.is_new = is_new
        up = health.start == "up" if is_new else server.is_healthy
        self.state = RiseFall(health.rise, health.fall, up=up)
        self.maintenances = server.maintenances
        # HAProxy, `timeout check`: when it is not set, `inter` is the time for the whole check.
        self.timeout = health.timeout or health.interval

    @property
    def name(self) -> str:
        return f"{self.pool.name}/{self.server.name}"

    @property
    def interval(self) -> float:
        health = self.health
        if self.server.is_degraded:
            return health.fast_interval or health.interval
        return self.state.interval(health.interval, health.fast_interval, health.down_interval)

    def reset(self) -> None:
        """Forget the results: the server was in maintenance since.

        As in HAProxy it is up, and one failure takes it down; unless it starts down.
        """
        self.maintenances = self.server.maintenances
        self.state = RiseFall(self.health.rise, self.health.fall, up=self.health.start == "up")


async def _nothing_moves(server: Server, seconds: float) -> bool:
    """The default of `moved`."""
    return False


class HealthChecker:
    """Checks every server of the pools whose backend has a health section.

    `configured` has the backend of every name in `pools`. A server in maintenance is not checked.
    `clock` is monotonic, in seconds. The server's state is set in the loop's own thread, and every
    change of state is one line of the log `hermes_lb.health`.

    A server may announce that it drains. That counts as neither passed nor failed, and the next
    passed check ends it.

    Busy is not dead: `moved(server, seconds)` says whether a response of the server has made
    progress within this time. If so, a check that timed out makes a server that is up
    degraded, and counts as neither. `reported(server, load)` is called with the load that a server
    reports. `known` are servers that have been checked before, whose state is kept.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        configured: Mapping[str, config.Backend],
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        moved: Callable[[Server, float], Awaitable[bool]] = _nothing_moves,
        reported: Callable[[Server, float], None] = lambda server, load: None,
        known: Iterable[Server] = (),
    ) -> None:
        self._rng = rng
        self._moved = moved
        self._reported = reported
        self._clock = clock
        self._lateness = Lateness()
        self._tasks = Tasks()
        self._is_running = False
        self._dialers: dict[str, Dialer] = {}
        self._probes: dict[str, tuple[ProbeOptions, Probe]] = {}  # by backend, for these options
        self._pools = pools
        self._targets: dict[Server, _Target] = {}
        self._known = set(known)  # checked or not
        self._forced: set[Server] = set()  # an operator has set their health
        self._watches: dict[_Target, asyncio.Task[None]] = {}
        self._retarget(configured)

    def __repr__(self) -> str:
        state = "running" if self._is_running else "stopped"
        return f"<HealthChecker {state}, {len(self._targets)} servers>"

    async def start(self) -> None:
        """Start. Servers with `start = "down"` are down when this returns: accept clients after it.

        The first checks are spread over the interval.
        """
        if self._is_running:
            raise RuntimeError("the health checks were started already")
        self._is_running = True
        self._watch_all()

    async def reconfigure(self, configured: Mapping[str, config.Backend]) -> None:
        """After a reload: the servers in `pools`, or their checks, have changed.

        The results of a server that stays are kept, and `start` is for new ones only. A server that
        is no longer checked counts as up.
        """
        before = set(self._targets)
        self._retarget(configured)
        gone = self._watches.keys() - self._targets.values()
        tasks = [self._watches.pop(target) for target in gone]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in before - self._targets.keys():
            server.starts_down = False
            server.set_up(True, "")
        if self._is_running:
            self._watch_all()

    def force(self, server: Server, up: bool | None) -> None:
        """Set a server up or down whatever its checks say; None: as they say.

        Checks of a server that is set so are suspended. Then they go on from there: as after a
        maintenance, the first bad one takes it down, the first good ones bring it up.
        """
        target = self._targets.get(server)
        if up is None:
            self._forced.discard(server)
            if target is None:
                server.set_up(True, "")
            else:
                health = target.health
                target.state = RiseFall(health.rise, health.fall, up=server.is_healthy)
            return
        self._forced.add(server)
        if target is not None:
            target.maintenances = server.maintenances
        server.set_up(up, f"set {'up' if up else 'down'} by an operator")

    @property
    def forced(self) -> list[tuple[str, str]]:
        """Backend and name of each server whose health an operator has set."""
        return [
            (name, server.name)
            for name, pool in self._pools.items()
            for server in pool.servers
            if server in self._forced
        ]

    def discover(self, backend: str, changed: Iterable[Server], removed: Iterable[Server]) -> None:
        """Servers of a backend's discovery are new or have another address, or are gone. The costs
        are those of these servers."""
        for server in removed:
            self._known.discard(server)
            self._forced.discard(server)
            target = self._targets.pop(server, None)
            if target is not None and (watch := self._watches.pop(target, None)) is not None:
                watch.cancel()
        configured = self._configured.get(backend)
        if configured is None or configured.health is None:
            return
        new = []
        for server in changed:
            target = self._targets.get(server)
            if target is None:
                target = self._target(self._pools[backend], server, configured.health)
                self._targets[server] = target
                new.append(target)
            dialer = self._dialers[backend]
            target.dialer = dialer.to(server.config, dialer.protocol)
            self._known.add(server)
        if self._is_running:
            self._watch(new)

    async def stop(self) -> None:
        """End all checks and close their connections. The servers keep their states. Idempotent."""
        await self._tasks.cancel_all()
        self._watches.clear()
        self._is_running = False

    def _retarget(self, configured: Mapping[str, config.Backend]) -> None:
        """Decide which servers are checked, and how."""
        self._configured = configured
        before, self._targets = self._targets, {}
        for name, pool in self._pools.items():
            health = configured[name].health
            if health is None:
                continue
            dialer = Dialer.of(name, configured[name], self._dialers.get(name))
            self._dialers[name] = dialer
            for server in pool.servers:
                target = before.get(server)
                if target is None or target.health != health:
                    target = self._target(pool, server, health)
                target.dialer = dialer.to(server.config, dialer.protocol)  # from the next check on
                self._targets[server] = target
        self._known = {server for pool in self._pools.values() for server in pool.servers}
        self._forced &= self._known

    def _target(self, pool: Pool, server: Server, health: ProbeOptions) -> _Target:
        probe = self._probes.get(pool.name)
        if probe is None or probe[0] != health:
            self._probes[pool.name] = probe = health, PROBES[health.probe](health)
        return _Target(pool, server, health, probe[1], is_new=server not in self._known)

    def _watch_all(self) -> None:
        """Start the checks of new targets."""
        self._watch([target for target in self._targets.values() if target not in self._watches])

    def _watch(self, new: list[_Target]) -> None:
        for place, target in enumerate(new):
            server = target.server
            server.starts_down = target.health.start == "down"
            if server.starts_down and target.is_new:
                server.await_first_check()
            delay = first_delay(target.interval, place, len(new), self._rng)
            self._watches[target] = self._tasks.spawn(
                self._follow(target, delay), name=f"health check of {target.name}"
            )

    async def _follow(self, target: _Target, delay: float) -> None:
        while True:
            await asyncio.sleep(delay)
            try:
                await self._look_at(target)
            except Exception:  # a bug must not end the checks of this server
                logger.exception("the check of %s went wrong", target.name)
            delay = jittered(target.interval, self._rng)

    async def _look_at(self, target: _Target) -> None:
        """One check and its result, unless the server is or was in maintenance meanwhile."""
        server = target.server
        if server.admin == "maint":
            return
        if server in self._forced:
            if target.maintenances == server.maintenances:
                return
            self._forced.discard(server)  # a maintenance ends that, too
        if target.maintenances != server.maintenances:
            target.reset()
        began = self._clock()
        result = await self._check(target)
        if result is None:
            return
        moves = result.is_silent and target.state.is_up and await self._is_streaming(target)
        if target.maintenances == server.maintenances and server not in self._forced:
            if result.passed:
                target.pool.check_passed(server, began)
            self._judge(target, result, moves=moves)

    async def _check(self, target: _Target) -> _Result | None:
        """None: this machine could not make the check, which says nothing about the server."""
        started = self._own_time()
        try:
            async with self._lateness.timeout(target.timeout):
                finding = await target.probe.check(target.dialer)
        except Exception as error:  # of any kind: the check failed, and that is all
            if isinstance(error, OSError) and error.errno in EXHAUSTION:
                logger.warning("%s was not checked: %s", target.name, os.strerror(error.errno))
                return None
            # The kernel's own, for a connection, has a number.
            if isinstance(error, TimeoutError) and error.errno is None:
                because = f"timeout after {target.timeout:g}s"
                return _Result(False, because, timed_out=True, is_silent=True)
            is_silent = isinstance(error, OSError) and error.errno in _UNREACHABLE
            return _Result(False, _describe(error), is_silent=is_silent)
        took = self._own_time() - started
        if finding.load is not None:
            self._reported(target.server, finding.load)
        if finding.passed:
            return _Result(True, f"{finding.text} in {took * 1000:.0f} ms")
        return _Result(False, finding.text, announces_drain=finding.announces_drain)

    def _own_time(self) -> float:
        """A clock that stops while the loop is late."""
        return self._clock() - self._lateness.lost(asyncio.get_running_loop().time())

    def _judge(self, target: _Target, result: _Result, *, moves: bool) -> None:
        """Apply a result. `moves`: no answer, but the server's streams make progress."""
        server, state, because = target.server, target.state, result.because
        before = server.state
        server.last_check = because
        if result.announces_drain:
            server.announce_drain(because)
        elif result.passed:
            state.passed()
            if state.is_up:
                server.set_up(True, because)
        elif result.timed_out and moves:
            because += ", but its streams go on"
            server.set_degraded(because)
        else:
            was_up = state.is_up
            state.failed()
            if not state.is_up:
                server.set_up(False, because)
            if was_up and not state.is_up and target.pool.on_marked_down is not None:
                target.pool.on_marked_down(server, result.is_silent and not moves)
        if server.state != before:
            _log_change(target, because)

    async def _is_streaming(self, target: _Target) -> bool:
        return await self._moved(target.server, max(target.health.interval, target.timeout))


def _describe(error: Exception) -> str:
    """A few words for people: "connection refused", "no valid HTTP response: ..."."""
    if isinstance(error, NoAnswer):
        return _one_line(str(error))
    if isinstance(error, socket.gaierror):
        return "the host name can't be resolved"
    if isinstance(error, OSError):
        words = in_words(error)
        is_of_kernel = error.errno is not None and not isinstance(error, ssl.SSLError)
        return words.lower() if is_of_kernel else words
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    """A short, printable line, as an error may quote what a server has sent."""
    line = " ".join(text.split())[:100]
    return line if line.isprintable() else ascii(line)


def _log_change(target: _Target, because: str) -> None:
    """As in HAProxy: a server that goes down is a warning, the last one an error."""
    up = sum(server.is_up and not server.is_draining for server in target.pool.servers)
    state = target.server.state
    left = f"{up or 'no'} server{'' if up == 1 else 's'} up"
    level = logging.INFO if state in ("up", "drain") else logging.WARNING
    if not up:
        level = logging.ERROR
    logger.log(level, "%s is %s: %s; %s", target.name, state.upper(), because, left)
