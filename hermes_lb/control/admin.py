"""The admin listener: /healthz, /metrics, /api/v1/servers, and an index of them.

Read-only, and on loopback only (`config.Admin` sees to it). A browser of this machine can still be
led here by a foreign page whose name resolves to 127.0.0.1 (DNS rebinding): such a request names
that page's host in its Host header, and is refused.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from hermes_lb.config.units import Address
from hermes_lb.control.views import INDEX, describe_servers
from hermes_lb.observe.metrics import CONTENT_TYPE, registry_for, render_in_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler

    from hermes_lb import config
    from hermes_lb.observe.observed import Observed

logger = logging.getLogger("hermes_lb.admin")

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::\d{1,5})?", re.ASCII)
# Seconds that `stop` waits for a scrape in progress.
_STOP_WAITS = 1.0

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


class AdminServer:
    """The listener of one balancer.

    `clock` is the data path's: monotonic, in seconds. Set `is_draining` when the balancer takes no
    new work, so that /healthz says so. Build none if `config.enabled` is false.
    """

    def __init__(
        self,
        config: config.Admin,
        observed: Observed,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_draining = False
        self._bind = config.bind
        self._observed = observed
        self._clock = clock
        self._registry = registry_for(observed)
        self._runner: web.AppRunner | None = None

    def __repr__(self) -> str:
        return f"<AdminServer {self.address if self._runner else 'stopped'}>"

    @property
    def address(self) -> Address:
        """Where it listens, with the real port; the configured address while it is stopped."""
        if self._runner is None or not self._runner.addresses:
            return self._bind
        host, port = self._runner.addresses[0][:2]
        return Address(host, port)

    async def start(self) -> None:
        """Listen. Raises OSError if the address can't be had; nothing is left open then."""
        if self._runner is not None:
            raise RuntimeError("the admin listener was started already")
        runner = web.AppRunner(
            self._application(), access_log=None, handle_signals=False, shutdown_timeout=_STOP_WAITS
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._bind.host, self._bind.port).start()
        except OSError as error:
            await runner.cleanup()
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(
                error.errno, f"can't listen on {self._bind} ([admin] bind): {reason}"
            ) from None
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner

    async def stop(self) -> None:
        """Close the listener and its connections. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard])
        application.router.add_get("/", self._index)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/api/v1/servers", self._servers)
        application.on_response_prepare.append(_add_headers)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse foreign hosts, and give every error the same form, without a traceback."""
        if not self._is_ours(request.headers.getall("Host", [])):
            return _error(403, "the Host header does not name this listener")
        try:
            return await handler(request)
        except web.HTTPException as error:
            response = _error(error.status, error.reason)
            if "Allow" in error.headers:  # RFC 9110 section 15.5.6: a 405 must carry it
                response.headers["Allow"] = error.headers["Allow"]
            return response
        except Exception:
            logger.exception("%s %s failed", request.method, request.rel_url.raw_path)
            return _error(500, "Internal Server Error")

    def _is_ours(self, hosts: list[str]) -> bool:
        """True for one Host that is the bind address or loopback; any port (ssh forwards them)."""
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None:
            return False
        host = match[1].strip("[]").lower()
        return host in ("localhost", self._bind.host.lower()) or _is_loopback(host)

    async def _index(self, request: web.Request) -> web.Response:
        return web.Response(text=INDEX, content_type="text/html")

    async def _healthz(self, request: web.Request) -> web.Response:
        """About the balancer itself, not about its servers."""
        if self.is_draining:
            return web.json_response({"status": "draining"}, status=503)
        return web.json_response({"status": "ok"})

    async def _metrics(self, request: web.Request) -> web.Response:
        body = await render_in_turns(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _servers(self, request: web.Request) -> web.Response:
        return web.json_response(describe_servers(self._observed.pools.values(), self._clock()))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _error(status: int, message: str) -> web.Response:
    body: dict[str, Any] = {"error": {"status": status, "message": message}}
    return web.json_response(body, status=status)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
