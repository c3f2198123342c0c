"""Passive failures of the servers of one backend: whether all are out, and the log of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hermes_lb.backends.pool import Pool
    from hermes_lb.backends.server import Server

logger = logging.getLogger("hermes_lb.health")

# Seconds between two lines of one server: in a panic it may come and go with each request.
_EVERY = 1.0


def are_all(servers: Iterable[Server], failing: Callable[[Server], bool]) -> bool:
    """True if `failing` holds for every server that is otherwise in rotation, and there is one.

    Usually the first server decides.
    """
    is_any = False
    for server in servers:
        if server.is_able and server.is_in_rotation:
            if not failing(server):
                return False
            is_any = True
    return is_any


class _Logged:
    """The last state of a server, or of the panic, that was logged."""

    __slots__ = ("at", "because", "is_out")

    def __init__(self) -> None:
        self.is_out = False
        self.at = float("-inf")
        self.because = ""  # why it is back


class FailureLog:
    """Logs the beginning and end of a server's state `failing`, and of a panic.

    At most one line a second for each: a change within that time that lasts is logged by a later
    `tick`.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._logged: dict[Server, _Logged] = {}
        self._panic = _Logged()

    def changed(self, server: Server, now: float, because: str = "") -> None:
        """It has failed, or its failures are cleared (`because`)."""
        logged = self._logged.setdefault(server, _Logged())
        logged.because = because
        self._look(server, logged, now)

    def tick(self, now: float) -> None:
        """Log what is due. A server that checks or an operator took out meanwhile is skipped."""
        for server, logged in list(self._logged.items()):
            self._look(server, logged, now)
            if not logged.is_out and now - logged.at >= _EVERY:
                del self._logged[server]
        self.panic_changed(now)

    def panic_changed(self, now: float) -> None:
        """A panic has begun or ended."""
        pool, logged = self._pool, self._panic
        if pool.in_panic == logged.is_out or now - logged.at < _EVERY:
            return
        logged.is_out, logged.at = pool.in_panic, now
        if pool.in_panic:
            text = "all servers of %s are failing: requests go to all of them as if none were"
            logger.error(text, pool.name)
        else:
            logger.info("%s: not all servers are failing any more", pool.name)

    def _look(self, server: Server, logged: _Logged, now: float) -> None:
        if server.is_failing == logged.is_out or now - logged.at < _EVERY:
            return
        logged.is_out = server.is_failing
        if not (logged.is_out or logged.because):
            return
        logged.at = now
        name = f"{self._pool.name}/{server.name}"
        if logged.is_out:
            left = sum(
                s.is_up and not s.is_draining and not s.is_failing for s in self._pool.servers
            )
            failures = f"{server.fails} failure{'' if server.fails == 1 else 's'}"
            if server.is_only_server:
                text = "%s is FAILING after %s: %s; it is the only server and stays in use"
                logger.error(text, name, failures, server.failed_because)
            else:
                logger.warning(
                    "%s is FAILING, taken out for %g s after %s: %s; %s server%s left",
                    name, server.config.fail_timeout, failures, server.failed_because,
                    left or "no", "" if left == 1 else "s",
                )  # fmt: skip
        else:
            logger.info("%s is back: %s", name, logged.because)
