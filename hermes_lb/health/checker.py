"""Active checks: one HTTP request to each server at every interval, each on a fresh connection."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from yarl import URL

from hermes_lb.errors import EXHAUSTION
from hermes_lb.health.expect import BODY_MAX, Expectation, reported_load
from hermes_lb.health.rise_fall import RiseFall
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from hermes_lb import config
    from hermes_lb.pool import Pool, Server

logger = logging.getLogger("hermes_lb.health")

USER_AGENT = "hermes-lb-check"
# Of each interval, either way, so that the checks of many balancers do not fall into step.
JITTER = 0.1


def first_delay(interval: float, place: int, count: int, rng: random.Random) -> float:
    """Seconds until the first check of the `place`th (from 0) of `count` servers: somewhere in its
    own slice of the interval, so that they never come all at once."""
    return interval * (place + rng.random()) / count


def jittered(interval: float, rng: random.Random) -> float:
    """`interval`, in seconds, give or take `JITTER` of it."""
    return interval * rng.uniform(1 - JITTER, 1 + JITTER)


class _Result(NamedTuple):
    passed: bool
    because: str
    timed_out: bool = False


class _Target:
    """One server, what to ask it, and how it has answered so far."""

    def __init__(self, pool: Pool, server: Server, health: config.Health) -> None:
        self.pool = pool
        self.server = server
        self.health = health
        self.state = RiseFall(health.rise, health.fall, up=health.start == "up")
        self.url = URL(f"http://{server.config.address}{health.path}", encoded=True)
        self.headers = {"Host": health.host} if health.host else {}
        self.expected = Expectation(health)
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


class HealthChecker:
    """Checks every server of the pools whose backend has a health section.

    `configured` has the backend of every name in `pools`; servers that the configuration marks
    down are left alone. `clock` is monotonic, in seconds. Verdicts go to the server, in the loop's
    own thread, and every change of state is one line of the log `hermes_lb.health`.

    Busy is not dead: `moved(server, seconds)` tells whether a response that the server is in the
    middle of has moved within so many seconds. If so, a check that timed out makes a server that
    is up degraded, and counts towards nothing. `reported(server, load)` hears what an answer says
    of the server's load.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        configured: Mapping[str, config.Backend],
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        moved: Callable[[Server, float], bool] = lambda server, seconds: False,
        reported: Callable[[Server, float], None] = lambda server, load: None,
    ) -> None:
        self._rng = rng
        self._moved = moved
        self._reported = reported
        self._clock = clock
        self._tasks = Tasks()
        self._session: aiohttp.ClientSession | None = None
        self._targets = [
            _Target(pool, server, health)
            for name, pool in pools.items()
            if (health := configured[name].health) is not None
            for server in pool.servers
            if not server.config.down
        ]

    def __repr__(self) -> str:
        state = "running" if self._session else "stopped"
        return f"<HealthChecker {state}, {len(self._targets)} servers>"

    async def start(self) -> None:
        """Begin. Servers with `start = "down"` are down when this returns: accept clients after.

        The first checks are spread over each one's interval.
        """
        if self._session is not None:
            raise RuntimeError("the health checks were started already")
        if not self._targets:
            return
        self._session = _new_session()
        for place, target in enumerate(self._targets):
            if not target.state.is_up:
                target.server.await_first_check()
            delay = first_delay(target.interval, place, len(self._targets), self._rng)
            self._tasks.spawn(
                self._watch(target, self._session, delay), name=f"health check of {target.name}"
            )

    async def stop(self) -> None:
        """End all checks and close their connections. The last verdicts stay. Idempotent."""
        await self._tasks.cancel_all()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _watch(self, target: _Target, session: aiohttp.ClientSession, delay: float) -> None:
        while True:
            await asyncio.sleep(delay)
            try:
                if (result := await self._check(target, session)) is not None:
                    self._judge(target, result)
            except Exception:  # a bug must not end the checks of this server
                logger.exception("the check of %s went wrong", target.name)
            delay = jittered(target.interval, self._rng)

    async def _check(self, target: _Target, session: aiohttp.ClientSession) -> _Result | None:
        """None: it could not be asked, for a reason of ours, which says nothing of the server."""
        started = self._clock()
        try:
            async with (
                asyncio.timeout(target.timeout),
                session.request(
                    target.health.method, target.url, headers=target.headers, allow_redirects=False
                ) as response,
            ):
                body = await _beginning_of_body(response)
        except Exception as error:  # of any kind: the check failed, and that is all
            if (cause := _os_error(error)) is not None and cause.errno in EXHAUSTION:
                logger.warning("%s was not checked: %s", target.name, os.strerror(cause.errno))
                return None
            timed_out = isinstance(error, TimeoutError)
            return _Result(False, _describe(error, target.timeout), timed_out)
        status = response.status
        load = reported_load(response.headers.getall("X-Hermes-Load", []), body)
        if load is not None:
            self._reported(target.server, load)
        fault = target.expected.fault(status, lambda name: response.headers.getall(name, []), body)
        if fault is not None:
            return _Result(False, fault)
        return _Result(True, f"{status} in {(self._clock() - started) * 1000:.0f} ms")

    def _judge(self, target: _Target, result: _Result) -> None:
        server, state, because = target.server, target.state, result.because
        before = server.state
        server.last_check = because
        if result.passed:
            state.passed()
            if state.is_up:
                server.set_up(True, because)
        elif result.timed_out and state.is_up and self._is_streaming(target):
            because += ", but its streams go on"
            server.set_degraded(because)
        else:
            state.failed()
            if not state.is_up:
                server.set_up(False, because)
        if server.state != before:
            _log_change(target, because)

    def _is_streaming(self, target: _Target) -> bool:
        return self._moved(target.server, max(target.health.interval, target.timeout))


def _new_session() -> aiohttp.ClientSession:
    """For checks: nothing is kept, followed, decoded, repeated or limited behind our back."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),  # `_check` has its own
        auto_decompress=False,
        headers={"User-Agent": USER_AGENT},
        skip_auto_headers=["Accept-Encoding"],
        middlewares=[_only_once],
    )


class _ConnectionLost(Exception):
    """Wraps an aiohttp error that aiohttp would answer with a second attempt."""


async def _only_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """aiohttp (3.14, `ClientSession._request`) repeats a GET or HEAD whose connection was lost,
    even a fresh one: half of a server's failures would be hidden."""
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLost from error


async def _beginning_of_body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > BODY_MAX:
            break
    return bytes(body[:BODY_MAX])


def _describe(error: Exception, timeout: float) -> str:
    """A few words for a person: "connection refused", "timeout after 5s", "not HTTP: ..."."""
    cause = _os_error(error)
    if isinstance(error, _ConnectionLost) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, TimeoutError):
        return f"timeout after {timeout:g}s"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "connection closed before a response"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "connection closed within the response body"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"no valid HTTP response: {_one_line(error.message)}"
    if isinstance(cause, socket.gaierror):
        return "the host name can't be resolved"
    if cause is not None and cause.errno is not None:
        return os.strerror(cause.errno).lower()
    return _one_line(str(error)) or type(error).__name__


def _os_error(error: BaseException | None) -> OSError | None:
    """What the kernel said, if that is what is behind it."""
    if isinstance(error, _ConnectionLost):
        error = error.__cause__
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error
    return error if isinstance(error, OSError) else None


def _one_line(text: str) -> str:
    """What a server sent may be quoted in an error: keep it short, printable and on one line."""
    line = " ".join(text.split())[:100]
    return line if line.isprintable() else ascii(line)


def _log_change(target: _Target, because: str) -> None:
    """As HAProxy says it: a server that left is a warning, the last one that left an error."""
    up = sum(server.is_up for server in target.pool.servers)
    state = target.server.state
    left = f"{up or 'no'} server{'' if up == 1 else 's'} up"
    level = logging.INFO if state == "up" else logging.WARNING if up else logging.ERROR
    logger.log(level, "%s is %s: %s; %s", target.name, state.upper(), because, left)
