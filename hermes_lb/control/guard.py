"""Access control of the admin listener.

Without a token it is on loopback (`config.Admin`), and every local process may use it. A foreign
page in a local browser can still send requests here if its name resolves to 127.0.0.1 (DNS
rebinding); they have that name in their Host header, and are refused.

With a token: clients that send it (`Authorization: Bearer`, RFC 6750 section 2.1). Any Host is
accepted then, as a foreign page does not have the token. Open without a token are /healthz, for
other load balancers, and the dashboard's files, which contain no data.

Health checks are answered without a Host header too: HAProxy's `option httpchk` sends HTTP/1.0, and
browsers always have one. They ask for /healthz, or for HAProxy's default `OPTIONS /`.

In both cases pages of other origins can do nothing (CSRF): browsers declare the origin of a request
(Fetch Metadata, Origin), and send JSON to another origin only after a preflight request (CORS),
which is never granted here.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from typing import TYPE_CHECKING

from aiohttp import web

from hermes_lb.options.units import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_lb.control.token import Token

logger = logging.getLogger("hermes_lb.admin")

# Seconds by which the answer to a wrong token is delayed, and how many answers may be pending; the
# rest get a 429 at once. This limits guessing to 16 tokens a second, and bounds memory.
_PENALTY = 1.0
_MOST_WAITING = 16

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::\d{1,5})?", re.ASCII)
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # RFC 9110 section 9.2.1, but for TRACE

HEADERS = {
    "Server": "hermes_lb",  # not the versions of Python and aiohttp
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every response."""


class Guard:
    """Call `check` before a request is handled. `open_paths` need no token."""

    def __init__(self, host: str, token: Token, open_paths: Iterable[str]) -> None:
        self._host = host.lower()
        self._token = token
        self._open_paths = frozenset(open_paths)
        self._waiting = 0

    async def check(self, request: web.Request) -> bool:
        """False if the request is open to all and may come from an untrusted client.

        Raises HTTPForbidden, HTTPUnauthorized, HTTPUnsupportedMediaType or HTTPTooManyRequests,
        with a message in `reason`.
        """
        hosts = request.headers.getall("Host", [])
        if hosts or not _is_probe(request):
            host = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
            if host is None or not (self._token.is_set or self._is_ours(host[1])):
                raise web.HTTPForbidden(reason="the Host header does not name this listener")
        _check_origin(request, hosts[0] if hosts else "")
        is_open = request.path in self._open_paths
        if not is_open and (token := self._token.current()) is not None:
            await self._check_token(request, token)
        if request.method not in _SAFE_METHODS and request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(reason="send Content-Type: application/json")
        return not (self._token.is_set and is_open)

    def _is_ours(self, host: str) -> bool:
        """True for the bind address and loopback; any port (ssh forwards them)."""
        host = host.strip("[]").lower()
        return host == self._host or is_loopback(host)

    async def _check_token(self, request: web.Request, expected: bytes) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(
            token.strip().encode("utf-8", "surrogateescape"), expected
        ):
            return
        if token:
            await self._slow_down(request.remote)
        raise web.HTTPUnauthorized(
            reason="wrong token" if token else "a token is needed: Authorization: Bearer TOKEN",
            headers={"WWW-Authenticate": 'Bearer realm="hermes_lb"'},
        )

    async def _slow_down(self, client: str | None) -> None:
        if self._waiting >= _MOST_WAITING:
            raise web.HTTPTooManyRequests(
                reason="too many wrong tokens", headers={"Retry-After": "1"}
            )
        if not self._waiting:  # one line per burst
            logger.warning("a wrong token came from %s", client)
        self._waiting += 1
        try:
            await asyncio.sleep(_PENALTY)
        finally:
            self._waiting -= 1


def _is_probe(request: web.Request) -> bool:
    return request.path == "/healthz" or (request.path == "/" and request.method == "OPTIONS")


def _check_origin(request: web.Request, host: str) -> None:
    """Raises HTTPForbidden for a browser's request from a page of another origin.

    Links to pages here may be followed: that changes nothing, and the origin can't read the page.
    """
    site = request.headers.get("Sec-Fetch-Site", "none")
    is_link = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
    origin = request.headers.get("Origin")
    if (site not in ("same-origin", "none") and not is_link) or (
        origin is not None and origin.partition("://")[2] != host
    ):
        raise web.HTTPForbidden(reason="requests from pages of other origins are refused")
