"""Cookie affinity: HAProxy's `cookie NAME insert indirect nocache`.

HAProxy, `http_ana.c`: `http_manage_client_side_cookies`, `http_manage_server_side_cookies`,
`http_process_res_common`. Checked against a running HAProxy 2.6; where this differs, it says why.
Every byte that is sent comes from the configuration, so nothing can be injected into a header.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hermes_lb import config
    from hermes_lb.http1 import ResponseHead
    from hermes_lb.pool import Server

_SPACE = b" \t"
# A quoted string, closed or running to the end, or a delimiter outside of one.
_MARK = re.compile(rb'"(?:[^"\\]|\\.)*"?|[;,]', re.DOTALL)

# HAProxy, `http_wait_for_request` and `http_wait_for_response`: what may be stored by default.
# The statuses are RFC 7231 section 6.1's.
_CACHEABLE_METHODS = frozenset([b"GET", b"HEAD", b"OPTIONS", b"TRACE"])
_CACHEABLE_STATUSES = frozenset([200, 203, 204, 206, 300, 301, 404, 405, 410, 414, 501])
_NOT_SHARED = frozenset([b"private", b"no-cache", b"no-store", b"s-maxage=0"])
_FRESHNESS = (b"max-age", b"s-maxage")
_VALIDATORS = frozenset([b"etag", b"last-modified"])


class CookieAffinity:
    """Which server a client's cookie names, and the cookie that names a server."""

    def __init__(self, configured: config.CookieAffinity, servers: Sequence[Server]) -> None:
        self._name = configured.cookie.encode("ascii")
        self._prefix = self._name + b"="
        self._nocache = configured.nocache
        self._preserve = configured.preserve
        self._named: dict[bytes, Server] = {}
        self._set_cookies: dict[Server, bytes] = {}
        self._inserted: dict[Server, tuple[bytes, bytes]] = {}  # without and with nocache's field
        attributes = _attributes(configured)
        for server in servers:
            value = (server.config.cookie or server.name).encode("ascii")
            self._named[value] = server
            set_cookie = self._prefix + value + attributes
            self._set_cookies[server] = set_cookie
            line = b"Set-Cookie: %b\r\n" % set_cookie
            self._inserted[server] = (line, line + b"Cache-Control: private\r\n")

    def extract(self, values: list[bytes]) -> tuple[bytes | None, list[bytes]]:
        """The affinity cookie's value, None if absent, and the Cookie headers without it.

        The other cookies stay byte for byte as they were, and a header that has none left is
        dropped. Every pair of that name is removed. Of several, the first that names a server
        that is up counts, else the first that names one, else the first (HAProxy's order).

        Pairs end at `;` outside of double quotes, as RFC 6265 and Python's and most servers'
        parsers have it. HAProxy also ends them at a comma, which would cut other cookies' values.
        """
        prefix = self._prefix
        for value in values:
            if prefix in value:
                break
        else:
            return None, values
        found: list[bytes] = []
        remaining: list[bytes] = []
        for value in values:
            rest = self._removed(value, found)
            if rest or not value:
                remaining.append(rest)
        if len(found) > 1:
            return self._most_useful(found), remaining
        return (found[0] if found else None), remaining

    def _removed(self, value: bytes, found: list[bytes]) -> bytes:
        """What is left of one Cookie header; the affinity cookie's values go to `found`."""
        prefix = self._prefix
        start = value.find(prefix)
        if start < 0:
            return value
        if b'"' in value or value.find(prefix, start + 1) >= 0:
            return self._removed_pairwise(value, found)
        before = value[:start].rstrip(_SPACE)
        if before and not before.endswith(b";"):
            return value  # another name's end, or in another's value
        end = value.find(b";", start)
        if end < 0:
            found.append(value[start + len(prefix) :].strip(_SPACE))
            return before[:-1]
        found.append(value[start + len(prefix) : end].strip(_SPACE))
        return before[:-1] + value[end:] if before else value[end + 1 :].lstrip(_SPACE)

    def _removed_pairwise(self, value: bytes, found: list[bytes]) -> bytes:
        """The general case of `_removed`: several such pairs, or quotes."""
        prefix = self._prefix
        pairs = _split(value, b";")
        kept: list[bytes] = []
        for pair in pairs:
            stripped = pair.strip(_SPACE)
            if stripped.startswith(prefix):
                found.append(stripped[len(prefix) :].lstrip(_SPACE))
            else:
                kept.append(pair)
        rest = b";".join(kept)
        # A leading space belonged after the pair that has gone.
        return rest.lstrip(_SPACE) if kept and kept[0] is not pairs[0] else rest

    def _most_useful(self, found: list[bytes]) -> bytes:
        named = [(value, server) for value in found if (server := self.server_for(value))]
        for value, server in named:
            if server.is_up:
                return value
        return named[0][0] if named else found[0]

    def server_for(self, value: bytes) -> Server | None:
        """The server a cookie names, up or not; None if it names none.

        The dates that HAProxy adds after a `|` for `maxidle` and `maxlife` are ignored, so that
        its cookies stay good.
        """
        server = self._named.get(value)
        if server is None and b"|" in value:
            server = self._named.get(value.partition(b"|")[0])
        return server

    def set_cookie(self, server: Server) -> bytes:
        """The value of the Set-Cookie header that names `server`.

        Send it when the client's cookie did not already name the server that answered, on a 101
        too, unless the server's own was preserved (`preserves`).
        """
        return self._set_cookies[server]

    def strips(self, set_cookie_value: bytes) -> bool:
        """True if a server's own Set-Cookie must be removed: it bears our name."""
        return not self._preserve and self._is_ours(set_cookie_value)

    def preserves(self, set_cookie_value: bytes) -> bool:
        """True if a server's own Set-Cookie bears our name and stays; then ours is not sent."""
        return self._preserve and self._is_ours(set_cookie_value)

    def _is_ours(self, set_cookie_value: bytes) -> bool:
        name, equals, _ = set_cookie_value.partition(b"=")
        return bool(equals) and name.strip(_SPACE) == self._name

    def makes_private(
        self, method: bytes, status: int, headers: Iterable[tuple[bytes, bytes]]
    ) -> bool:
        """`nocache`: True if `Cache-Control: private` must be added to the server's headers.

        Ask only for a response to which `set_cookie` is added; `headers` are the server's.
        HAProxy adds it where a shared cache might store the response:

        ====================================================  =======
        GET 200 with max-age=60, or Expires                   yes
        GET 200, 203, 204, 206, 300, 301 with ETag            yes
        GET 404, 405, 410, 414, 501 with Last-Modified        yes
        HEAD, OPTIONS, TRACE 200 with ETag                    yes
        GET 200 with none of these (no freshness, validator)  no
        GET 201, 302, 304, 307, 400, 403, 500, 503 with ETag  no
        POST, PUT, PATCH, DELETE 200 with max-age=60          no
        any method and status, public, with ETag              yes
        private, no-cache, no-store, max-age=0, s-maxage=0    no
        no-store, public (the last one counts) with ETag      yes
        no-cache="set-cookie" with ETag                       yes
        Pragma: no-cache, whatever else                       no
        1xx (a WebSocket's 101), whatever else                no
        ====================================================  =======

        The server's Set-Cookie and the request's fields change nothing. `max-age=0, s-maxage=5`
        says yes, by RFC 9111 section 5.2.2.10 and as later HAProxy does (2.6.12 said no).
        """
        return self._nocache and status >= 200 and _is_cacheable(method, status, tuple(headers))

    def inserted(self, server: Server, method: bytes, head: ResponseHead) -> bytes:
        """The fields that insert our cookie into a response, each with its CRLF."""
        plan, status = head.plan, head.status
        if not self._nocache:
            is_private = False
        elif plan.cache_fields:
            is_private = self.makes_private(method, status, head.cache_fields())
        else:  # the same, without asking about values that are not there
            is_private = (
                plan.has_validator
                and status in _CACHEABLE_STATUSES
                and method in _CACHEABLE_METHODS
            )
        return self._inserted[server][is_private]


@lru_cache(maxsize=256)  # servers say the same of most of their responses
def _is_cacheable(method: bytes, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> bool:
    cacheable = method in _CACHEABLE_METHODS and status in _CACHEABLE_STATUSES
    is_stale = has_lifetime = False
    for name, value in headers:
        lower = name.lower()
        if lower == b"cache-control":
            for part in _split(value.lower(), b","):
                directive = part.strip(_SPACE)
                if directive == b"public":
                    cacheable = True
                elif directive in _NOT_SHARED:
                    cacheable = False
                elif directive == b"max-age=0":
                    is_stale = True
                elif directive.startswith(_FRESHNESS):
                    has_lifetime = True
                    is_stale = is_stale and not directive.startswith(b"s-maxage")
        elif lower == b"pragma":
            if value.strip(_SPACE).lower() == b"no-cache":
                return False
        elif lower == b"expires" or lower in _VALIDATORS:
            has_lifetime = True
    return cacheable and has_lifetime and not is_stale


def request_letter(value: bytes | None, named: Server | None, answered: Server | None) -> str:
    """What the client's cookie was, in HAProxy's letter for the access log.

    `value` comes from `extract`, `named` from `server_for`; `answered` is the server that served
    the request, or None. N: no cookie. I: it names no server. V: it names the server that served.
    D: it names one that is down or could not be reached, so that another served.
    """
    if value is None:
        return "N"
    if named is None:
        return "I"
    is_valid = named is answered if answered is not None else named.is_up
    return "V" if is_valid else "D"


def _attributes(configured: config.CookieAffinity) -> bytes:
    """The attributes after the value, in HAProxy's order and form."""
    text = "; path=/"
    if configured.domain is not None:
        text += f"; domain={configured.domain}"
    if configured.httponly:
        text += "; HttpOnly"
    if configured.secure:
        text += "; Secure"
    if configured.samesite is not None:
        text += f"; SameSite={configured.samesite}"
    return text.encode("ascii")


def _split(value: bytes, delimiter: bytes) -> list[bytes]:
    """Cut at each `delimiter` that is not inside double quotes."""
    if b'"' not in value:
        return value.split(delimiter)
    parts: list[bytes] = []
    start = 0
    for mark in _MARK.finditer(value):
        if mark[0] == delimiter:
            parts.append(value[start : mark.start()])
            start = mark.end()
    parts.append(value[start:])
    return parts
