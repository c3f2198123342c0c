"""Cookie affinity: HAProxy's `cookie NAME insert indirect nocache`, `rewrite` and `prefix`.

    insert     the balancer's own cookie, which is removed from requests
    rewrite    a cookie of the servers, whose value the balancer replaces
    prefix     a cookie of the servers, to whose value the balancer adds a prefix on the client side

HAProxy, `http_ana.c`: `http_manage_client_side_cookies`, `http_manage_server_side_cookies`,
`http_process_res_common`. Checked against a running HAProxy 2.6; every difference is explained.
Every byte that is sent comes from the configuration, so nothing can be injected into a header.
"""

from __future__ import annotations

import hmac
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from hermes_lb.affinity.dates import from_text, is_past, to_text
from hermes_lb.options.patterns import COOKIE_NAME, pattern
from hermes_lb.options.section import Section
from hermes_lb.options.units import PositiveDuration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hermes_lb.backends import Server
    from hermes_lb.http import ResponseHead


class Reading(NamedTuple):
    """A client's cookie at present. `letter`: E or O if it is too old, else empty."""

    server: Server | None
    letter: str = ""
    #: Seconds since 1970, 0 for none.
    last: int = 0
    first: int = 0


_DOMAIN = pattern(r"^[A-Za-z0-9.-]+$", 'a domain such as "example.com"')
_SPACE = b" \t"
_PREFIX_END = b"~"
# A quoted string, closed or running to the end, or a delimiter outside of one.
_MARK = re.compile(rb'"(?:[^"\\]|\\.)*"?|[;,]', re.DOTALL)

# HAProxy, `http_wait_for_request` and `http_wait_for_response`: what may be stored by default.
# The statuses are RFC 7231 section 6.1's.
_CACHEABLE_METHODS = frozenset([b"GET", b"HEAD", b"OPTIONS", b"TRACE"])
_CACHEABLE_STATUSES = frozenset([200, 203, 204, 206, 300, 301, 404, 405, 410, 414, 501])
_NOT_SHARED = frozenset([b"private", b"no-cache", b"no-store", b"s-maxage=0"])
_FRESHNESS = (b"max-age", b"s-maxage")
_VALIDATORS = frozenset([b"etag", b"last-modified"])


class CookieOptions(Section):
    """`[backends.NAME.affinity]`: HAProxy's `cookie NAME insert indirect nocache`, `rewrite` or
    `prefix`."""

    cookie: str = Field(pattern=COOKIE_NAME)
    secret: str | None = Field(None, min_length=1, repr=False)
    secret_file: str | None = Field(None, min_length=1)
    mode: Literal["insert", "rewrite", "prefix"] = "insert"
    indirect: Literal[True] = True
    nocache: bool = True
    preserve: bool = False
    max_idle: PositiveDuration | None = None
    max_life: PositiveDuration | None = None
    domain: str | None = Field(None, pattern=_DOMAIN)
    httponly: bool = False
    secure: bool = False
    samesite: Literal["Strict", "Lax", "None"] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.samesite == "None" and not self.secure:
            raise ValueError('samesite = "None" needs secure = true, or browsers drop the cookie')
        if self.mode != "insert" and (self.max_idle or self.max_life):
            raise ValueError('max_idle and max_life are for mode = "insert": the dates are ours')
        return self


def separator(options: Mapping[str, Any]) -> tuple[str, str] | None:
    """What must not be in a server's value, as it ends there, and why; for plain tables."""
    if options.get("secret") or options.get("secret_file"):
        return None  # hexadecimal digits
    if options.get("mode") == "prefix":
        why = 'stands between it and the server\'s own value with mode = "prefix"'
        return _PREFIX_END.decode(), why
    if options.get("max_idle") or options.get("max_life"):
        return "|", "stands between it and the dates of max_idle and max_life"
    return None


class CookieAffinity:
    """The server that a client's cookie names, and the cookie that names a server."""

    def __init__(self, configured: CookieOptions, servers: Sequence[Server]) -> None:
        self._name = configured.cookie.encode("ascii")
        self._prefix = self._name + b"="
        self.inserts = configured.mode == "insert"
        self._has_prefixes = configured.mode == "prefix"
        self._max_idle = configured.max_idle
        self._max_life = configured.max_life
        self.has_dates = bool(configured.max_idle or configured.max_life)
        self._attributes = _attributes(configured)
        self._nocache = configured.nocache
        self._preserve = configured.preserve
        self._named: dict[bytes, Server] = {}
        self._values: dict[Server, bytes] = {}
        self._inserted: dict[Server, tuple[bytes, bytes]] = {}  # without and with nocache's field
        self._secret = configured.secret
        for server in servers:
            self.add(server)

    def add(self, server: Server) -> None:
        """A server that is new."""
        value, *previous = self._all_values(server)
        for one in previous:
            self._named.setdefault(one, server)
        self._named[value] = server
        self._values[server] = value
        line = b"Set-Cookie: %b%b%b\r\n" % (self._prefix, value, self._attributes)
        self._inserted[server] = (line, line + b"Cache-Control: private\r\n")

    def remove(self, server: Server) -> None:
        """A server that is gone. Its requests may still end."""
        if self._values.pop(server, None) is not None:
            del self._inserted[server]
            for value in self._all_values(server):
                if self._named.get(value) is server:
                    del self._named[value]

    def _all_values(self, server: Server) -> list[bytes]:
        """Of several lines of the secret the first is in use; the others are accepted."""
        value = (server.config.cookie or server.name).encode("ascii")
        if self._secret is None:
            return [value]
        return [keyed(one.strip(), value) for one in self._secret.splitlines()]

    def extract(self, values: list[bytes]) -> tuple[bytes | None, list[bytes]]:
        """The affinity cookie's value, None if absent, and the Cookie headers without it.

        `rewrite` leaves them unchanged, `prefix` removes the balancer's part of the value. The
        other cookies stay byte for byte the same, and a header without cookies is dropped. Every
        pair of that name is removed. Of several, the first that names a server that is up counts,
        else the first that names one, else the first (HAProxy's order).

        Pairs end at `;` outside of double quotes, as RFC 6265 and Python's and most servers'
        parsers have it. HAProxy also ends them at a comma, which would cut other cookies' values.
        """
        prefix = self._prefix
        for value in values:
            if prefix in value:
                break
        else:
            return None, values
        if not self.inserts:
            return self._extract_servers_own(values)
        found: list[bytes] = []
        remaining: list[bytes] = []
        for value in values:
            rest = self._removed(value, found)
            if rest or not value:
                remaining.append(rest)
        if len(found) > 1:
            return self._most_useful(found), remaining
        return (found[0] if found else None), remaining

    def _extract_servers_own(self, values: list[bytes]) -> tuple[bytes | None, list[bytes]]:
        found: list[bytes] = []
        kept = [
            b";".join(self._without_prefix(pair, found) for pair in _split(value, b";"))
            for value in values
        ]
        return (self._most_useful(found) if found else None), kept

    def _without_prefix(self, pair: bytes, found: list[bytes]) -> bytes:
        """The pair for the server; the balancer's part of its value is added to `found`."""
        stripped = pair.strip(_SPACE)
        if not stripped.startswith(self._prefix):
            return pair
        value = stripped[len(self._prefix) :]
        if not self._has_prefixes:
            found.append(value)
            return pair
        ours, mark, own = value.partition(_PREFIX_END)
        if not mark:
            return pair  # only the server's part: it was set without the balancer
        found.append(ours)
        return pair[: len(pair) - len(pair.lstrip(_SPACE))] + self._prefix + own

    def _removed(self, value: bytes, found: list[bytes]) -> bytes:
        """One Cookie header without the affinity cookie, whose values are added to `found`."""
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
        # A leading space belonged to the removed pair before it.
        return rest.lstrip(_SPACE) if kept and kept[0] is not pairs[0] else rest

    def _most_useful(self, found: list[bytes]) -> bytes:
        named = [(value, server) for value in found if (server := self.server_for(value))]
        for value, server in named:
            if server.is_up:
                return value
        return named[0][0] if named else found[0]

    def knows(self, server: Server) -> bool:
        """False for a server that has left the configuration: no cookie may name it."""
        return server in self._values

    def server_for(self, value: bytes) -> Server | None:
        """The server a cookie names, up or not; None if it names none.

        The dates that HAProxy adds after a `|` for `maxidle` and `maxlife` are ignored, so that
        its cookies stay valid.
        """
        server = self._named.get(value)
        if server is None and b"|" in value:
            server = self._named.get(value.partition(b"|")[0])
        return server

    def read(self, value: bytes, now: int) -> Reading:
        """Like `server_for`, unless the cookie is too old (`has_dates`); `now`: since 1970."""
        if not self.has_dates:
            return Reading(self.server_for(value))
        name, _, dates = value.partition(b"|")
        last_text, _, first_text = dates.partition(b"|")
        last, first = from_text(last_text), from_text(first_text)
        if self._max_life and first and is_past(first, self._max_life, now):
            return Reading(None, "O")
        if self._max_idle and last and is_past(last, self._max_idle, now):
            return Reading(None, "E")
        return Reading(self._named.get(name), "", last, first)

    def dated(self, server: Server, reading: Reading, now: int) -> bytes | None:
        """The Set-Cookie value that keeps the client on `server`; None: its own cookie does.

        HAProxy's rule: with `max_idle` the date of last use is sent again once it is in the past.
        """
        is_due = (
            reading.server is not server
            or ((self._max_idle or reading.last) and reading.last < now)
            or bool(self._max_life) != bool(reading.first)
        )
        if not is_due:
            return None
        value = self._prefix + self._values[server] + b"|" + to_text(now)
        if self._max_life:
            value += b"|" + (to_text(reading.first) if reading.first else to_text(now))
        return value + self._attributes

    def strips(self, set_cookie_value: bytes) -> bool:
        """True if a server's own Set-Cookie must be removed: it has the affinity cookie's name."""
        return not self._preserve and self._is_ours(set_cookie_value)

    def rewritten(self, set_cookie_value: bytes, server: Server) -> bytes:
        """A server's own Set-Cookie of that name, as the client gets it (not `insert`)."""
        name, _, rest = set_cookie_value.partition(b"=")
        own, semicolon, attributes = rest.partition(b";")
        value = self._values[server]
        if self._has_prefixes:
            value += _PREFIX_END + own.lstrip(_SPACE)
        return name + b"=" + value + semicolon + attributes

    def preserves(self, set_cookie_value: bytes) -> bool:
        """True if a server's own Set-Cookie of that name is kept, and no other is sent."""
        return self._preserve and self._is_ours(set_cookie_value)

    def _is_ours(self, set_cookie_value: bytes) -> bool:
        name, equals, _ = set_cookie_value.partition(b"=")
        return bool(equals) and name.strip(_SPACE) == self._name

    def makes_private(
        self, method: bytes, status: int, headers: Iterable[tuple[bytes, bytes]]
    ) -> bool:
        """`nocache`: True if `Cache-Control: private` must be added to the server's headers.

        Ask only for a response to which the cookie is added; `headers` are the server's.
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

    def inserted(
        self, server: Server, method: bytes, head: ResponseHead, value: bytes | None = None
    ) -> bytes:
        """The fields that insert the cookie into a response, each with its CRLF.

        Send them when the client's cookie did not already name the server that answered, on a 101
        too, unless the server's own was preserved (`preserves`). `value`: of `dated`, for cookies
        with dates.
        """
        is_private = False
        if self._nocache:
            is_safe = method in _CACHEABLE_METHODS  # of a method nothing else matters
            known = head.storable.get(is_safe)
            if known is None:
                known = self.makes_private(method, head.status, head.cache_fields())
                head.storable[is_safe] = known
            is_private = known
        if value is not None:
            private = b"Cache-Control: private\r\n" if is_private else b""
            return b"Set-Cookie: %b\r\n%b" % (value, private)
        return self._inserted[server][is_private]


@lru_cache(maxsize=64)  # at most a head each; most responses of a server have the same values
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


def request_letter(reading: Reading | None, asked: Server | None) -> str:
    """HAProxy's letter for the client's cookie, in the access log.

    `asked` is the server that got the request, the last one if there were several, or None. N: no
    cookie. E, O: too old. I: it names no server. V: it names the server that was asked. D: it names
    one that is down or could not be reached, so that another was asked.
    """
    if reading is None:
        return "N"
    named = reading.server
    if named is None:
        return reading.letter or "I"
    is_valid = named is asked if asked is not None else named.is_up
    return "V" if is_valid else "D"


def keyed(secret: str, value: bytes) -> bytes:
    """A value for the cookie that can't be guessed without `secret`: 32 hexadecimal digits.

    Balancers with the same secret agree, and a client can't forge a server's cookie.
    """
    return hmac.digest(secret.encode(), value, "sha256").hex()[:32].encode("ascii")


def _attributes(configured: CookieOptions) -> bytes:
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
