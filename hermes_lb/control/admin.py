"""The admin listener: the dashboard at /, /api/v1, /metrics for Prometheus, and /healthz.

Access control: `control.guard`. Commands: `control.operator`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import ExitStack
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import web

from hermes_lb.control import strangers
from hermes_lb.control.api import Api
from hermes_lb.control.certificate import AdminCertificate
from hermes_lb.control.commands import CommandsApi
from hermes_lb.control.endpoints import PREFIX, routes_of
from hermes_lb.control.errors import answer_for, error_response
from hermes_lb.control.guard import HEADERS, Guard
from hermes_lb.control.history import History
from hermes_lb.control.openapi import document
from hermes_lb.control.openapi_page import render as render_description
from hermes_lb.control.quiet import QuietLog
from hermes_lb.control.runner import Runner
from hermes_lb.control.scaling import ScalingApi
from hermes_lb.control.token import Token
from hermes_lb.control.turns_api import TurnsApi
from hermes_lb.observe.metrics import CONTENT_TYPE, render
from hermes_lb.options.units import Address
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.typedefs import Handler

    from hermes_lb import config
    from hermes_lb.control.operator import Operator

logger = logging.getLogger("hermes_lb.admin")

# Seconds that `stop` waits for responses in progress.
_STOP_WAITS = 1.0
# aiohttp's.
_BACKLOG = 128
# Bytes of a body; the longest valid one has a server's options.
_BODY_SIZE = 4096

_PAGE = resources.files("hermes_lb.control") / "page"
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


class AdminServer:
    """The listener of one balancer. Only for `configured.enabled`."""

    def __init__(self, configured: config.Admin, operator: Operator) -> None:
        self._config = configured
        self._operator = operator
        self.history = History(operator.observed.pools)  # kept by `stop`, for an upgrade
        self._strangers = strangers.Strangers()
        self._tasks = Tasks()
        self._runner: web.AppRunner | None = None

    def __repr__(self) -> str:
        return f"<AdminServer {self.address if self._runner else 'stopped'}>"

    @property
    def address(self) -> Address:
        """The listening address with its real port; the configured one while stopped."""
        if self._runner is None or not self._runner.addresses:
            return self._config.bind
        host, port = self._runner.addresses[0][:2]
        return Address(host, port)

    @property
    def url(self) -> str:
        """The URL for clients on this machine."""
        scheme = "http" if self._config.tls is None else "https"
        return f"{scheme}://{self.address.as_destination()}"

    async def start(self, sockets: Sequence[socket.socket] = ()) -> None:
        """Listen on new sockets or on `sockets`, which are closed if the start fails.

        Raises OSError if the address or a file is not available, ValueError if a file is invalid,
        each with a one-line message.
        """
        if self._runner is not None:
            raise RuntimeError("the admin listener was started already")
        with ExitStack() as unused:
            for sock in sockets:
                unused.callback(sock.close)
            token = Token(self._config)
            tls = None if self._config.tls is None else AdminCertificate(self._config.tls)
            unused.pop_all()
        context = None if tls is None else tls.context
        runner = Runner(
            self._application(token),
            access_log=None,
            logger=QuietLog(logger),
            auto_decompress=False,  # bodies are tiny
            handle_signals=False,
            shutdown_timeout=_STOP_WAITS,
        )
        await runner.setup()
        try:
            for sock in sockets or listening_sockets(self._config.bind):
                await web.SockSite(runner, sock, ssl_context=context).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self._tasks.spawn(self._sweep(runner), name="admin connections")
        if tls is not None:
            self._tasks.spawn(tls.follow_files(), name="admin certificate")

    async def _sweep(self, runner: web.AppRunner) -> None:
        while True:
            await asyncio.sleep(strangers.EVERY)
            if runner.server is not None:
                self._strangers.sweep(runner.server.connections)

    async def stop(self) -> None:
        """Close the listener and its connections. Idempotent."""
        runner, self._runner = self._runner, None
        await self._tasks.cancel_all()
        if runner is not None:
            await runner.cleanup()

    def _application(self, token: Token) -> web.Application:
        page = _page_files()
        scaling = ScalingApi(self._operator)
        api = Api(self._operator, self.history, scaling.scaling)
        self._guard = Guard(
            self._config.bind.host,
            token,
            ["/healthz", PREFIX, f"{PREFIX}openapi.json", *page],
        )
        application = web.Application(middlewares=[self._guarded], client_max_size=_BODY_SIZE)
        application.router.add_routes(
            [
                web.get("/healthz", self._healthz),
                *(web.options(path, self._options) for path in ("/", "/healthz")),
                web.get("/metrics", self._metrics),
                web.get(PREFIX, self._description_page),
                web.get(f"{PREFIX}openapi.json", self._description),
                *routes_of(api),
                *routes_of(CommandsApi(self._operator, self.history)),
                *routes_of(scaling),
                *routes_of(TurnsApi(self._operator)),
                *(web.get(path, handler) for path, handler in page.items()),
            ]
        )
        application.on_response_prepare.append(_add_headers)

        async def start(_: web.Application) -> None:
            api.start()

        async def stop(_: web.Application) -> None:
            await api.stop()

        application.on_startup.append(start)
        application.on_shutdown.append(stop)
        return application

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Apply the access rules; turn every exception into an error without a traceback."""
        try:
            if await self._guard.check(request):
                self._strangers.welcome(request.protocol)
            return await handler(request)
        except Exception as error:
            answer = answer_for(error)
            if answer is None:
                logger.exception("%s %s failed", request.method, request.rel_url.raw_path)
                answer = error_response(500, "Internal Server Error")
            return answer

    async def _healthz(self, request: web.Request) -> web.Response:
        """The health of the balancer, not of its servers."""
        if self._operator.is_draining:
            return web.json_response({"status": "draining"}, status=503)
        missing = self._operator.missing_processes
        if missing == "all":
            return web.json_response({"status": "down"}, status=503)
        return web.json_response({"status": "ok" if missing == "none" else "degraded"})

    async def _options(self, request: web.Request) -> web.Response:
        """A health check as HAProxy's `option httpchk` sends it by default."""
        answer = await self._healthz(request)
        answer.headers["Allow"] = "GET, HEAD, OPTIONS"
        return answer

    async def _description_page(self, request: web.Request) -> web.Response:
        return web.Response(text=render_description(document()), content_type="text/html")

    async def _description(self, request: web.Request) -> web.Response:
        return web.json_response(document())

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        """In parts, yielding between them: 2,000 servers make 22 MB."""
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
        try:
            await response.prepare(request)
            if request.method != "HEAD":
                for part in render(self._operator.observed):
                    await response.write(part)
                    await asyncio.sleep(0)
        except ConnectionError:
            pass  # the client has left
        return response


def listening_sockets(bind: Address) -> list[socket.socket]:
    """Non-blocking, one per address of the host. Raises OSError with a one-line message."""
    opened: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(*bind, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, where in dict.fromkeys(found):
            opened.append(socket.create_server(where, family=family, backlog=_BACKLOG))
            opened[-1].setblocking(False)
    except OSError as error:
        for sock in opened:
            sock.close()
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise OSError(error.errno, f"can't listen on {bind} ([admin] bind): {reason}") from None
    return opened


def _page_files() -> dict[str, Handler]:
    """The dashboard's files, by path."""
    handlers: dict[str, Handler] = {}
    for file in _PAGE.iterdir():
        kind = _TYPES.get(f".{file.name.rpartition('.')[2]}")
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            handlers[path] = _send(file.read_bytes(), kind)
    return handlers


def _send(content: bytes, kind: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=content, content_type=kind, charset="utf-8")

    return handler


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
