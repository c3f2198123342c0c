"""What one test has running: servers, and balancers in front of them."""

from __future__ import annotations

import asyncio
import traceback
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from hermes_lb.options.problems import ConfigError
from hermes_lb.testing.balancer import WatchedBalancer, config_for
from hermes_lb.testing.servers import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from _pytest._code import ExceptionInfo
    from aiohttp import web

    from hermes_lb.config import Config
    from hermes_lb.testing.application import Application
    from hermes_lb.testing.messages import Handler

_NAMES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_LINES_SHOWN = 20  # last records of each balancer, in a failed test's report


class Rig:
    """`async with Rig() as rig:` ends everything that `rig` has started, balancers first.

    Leaving it raises an ExceptionGroup of errors that escaped from handlers and faults. If the test
    itself has failed, its own error is raised, with these as notes.
    """

    def __init__(self) -> None:
        self._servers: list[Server] = []
        self._balancers: list[WatchedBalancer] = []
        self._running_servers = AsyncExitStack()
        self._running_balancers = AsyncExitStack()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._loop = None
        async with self._running_servers, self._running_balancers:
            pass
        escaped = [error for server in self._servers for error in server.errors]
        if error is not None:
            for other in escaped:
                lines = "".join(traceback.format_exception(other))
                error.add_note(
                    f"Besides, a handler or fault of the test's servers failed:\n{lines}"
                )
        elif escaped:
            raise BaseExceptionGroup("handlers or faults of the test's servers failed", escaped)

    async def servers(
        self,
        count: int = 1,
        *,
        names: Sequence[str] = (),
        handler: Handler | None = None,
        app: Callable[[], web.Application] | web.Application | None = None,
    ) -> list[Server]:
        """Start servers: `count` of them, named one, two, ..., or one for each of `names`.

        They respond by `handler` or by `app`, an aiohttp application; several of these need a
        function that makes one.
        """
        self._check_loop()
        known = len(self._servers)
        names = names or [_name(known + number) for number in range(count)]
        started = []
        for name, application in zip(names, _apps(app, len(names)), strict=True):
            server = Server(name, handler, application)
            self._servers.append(server)
            started.append(await self._running_servers.enter_async_context(server))
        return started

    async def balancer(
        self,
        *servers: Server | str,
        config: Config | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> WatchedBalancer:
        """Start a balancer for `servers`, with the options of `config_for`; or with `config`.

        Raises ConfigError if the configuration is invalid.
        """
        __tracebackhide__ = _is_of_the_test  # pytest
        self._check_loop()
        if config is not None and (servers or options):
            raise TypeError("a whole config has its own servers and options")
        try:
            lb = WatchedBalancer(config_for(*servers, **options) if config is None else config)
        except ConfigError as error:  # the caller's mistake: not in the frames of this package
            raise error.with_traceback(None) from None
        self._balancers.append(lb)
        return await self._running_balancers.enter_async_context(lb)

    def noted(self) -> str:
        """A report of all servers and balancers, with the last records, for a failed test."""
        lines = [repr(server) for server in self._servers]
        for lb in self._balancers:
            before = max(0, len(lb.records) - _LINES_SHOWN)
            lines += [repr(lb), *([f"{before} records, and:"] if before else [])]
            lines += [record.line for record in lb.records[before:]]
        return "\n".join(lines)

    def _check_loop(self) -> None:
        if self._loop is None:
            raise RuntimeError("a Rig starts something only within `async with Rig() as rig:`")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "the fixture and the test run in different event loops: "
                "give them one loop scope (asyncio_default_fixture_loop_scope of pytest-asyncio)"
            )


def _is_of_the_test(caught: ExceptionInfo[BaseException]) -> bool:
    return caught.errisinstance(ConfigError)


def _name(number: int) -> str:
    return _NAMES[number] if number < len(_NAMES) else f"server{number + 1}"


def _apps(
    app: Callable[[], web.Application] | web.Application | None, count: int
) -> list[Application | None]:
    """One for each of `count` servers."""
    if app is None:
        return [None] * count
    from aiohttp import web  # only if it is used

    from hermes_lb.testing.application import Application

    if not isinstance(app, web.Application):
        return [Application(app()) for _ in range(count)]
    if count > 1:
        raise TypeError("an application can be one server only: give a function that makes it")
    return [Application(app)]
