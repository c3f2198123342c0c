"""CORS, as the Fetch standard has it (sections 3.2 and 3.3): who may read a response. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_ORIGIN = re.compile(rb"^(?i:origin):[ \t]*([\x21-\x7e]+)[ \t]*\r$", re.MULTILINE)
_ASKED_METHOD = re.compile(rb"^(?i:access-control-request-method):", re.MULTILINE)
_ASKED_FIELDS = re.compile(
    rb"^(?i:access-control-request-headers):[ \t]*([\t -~]{0,1024}?)[ \t]*\r$", re.MULTILINE
)
# A server's own, where a route decides: browsers accept only one (section 3.2.3).
_ALLOWED_BY_SERVER = re.compile(
    rb"^access-control-allow-(?:origin|credentials):[^\r\n]*\r\n", re.I | re.M
)
_VARIES = re.compile(rb"^vary:[^\r\n]*(?:\borigin\b|\*)[^\r\n]*\r$", re.I | re.M)
_VARY: Final = b"Vary: Origin\r\n"
_VARY_PREFLIGHT: Final = (
    b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
)


def origin_of(lines: bytes) -> bytes:
    """The page whose request it is, by the lines of its fields; b"" for none, or several."""
    found = _ORIGIN.findall(lines)
    return found[0] if len(found) == 1 else b""


def is_preflight(lines: bytes) -> bool:
    """Of an OPTIONS: whether a browser asks for the sake of another request."""
    return _ASKED_METHOD.search(lines) is not None


def asked_fields(lines: bytes) -> bytes:
    """The names of fields that a preflight asks for."""
    found = _ASKED_FIELDS.search(lines)
    return found[1] if found is not None else b""


def preflight(
    origin: bytes, vary: bytes, methods: bytes, fields: bytes, max_age: int, *, credentials: bool
) -> bytes:
    """Lines of the answer to a preflight that is allowed."""
    lines = b"Access-Control-Allow-Origin: %b\r\n%bAccess-Control-Allow-Methods: %b\r\n" % (
        origin, vary, methods,
    )  # fmt: skip
    lines += b"Access-Control-Max-Age: %d\r\n" % max_age
    if fields:
        lines += b"Access-Control-Allow-Headers: %b\r\n" % fields
    if credentials:
        lines += b"Access-Control-Allow-Credentials: true\r\n"
    return lines


class Cors:
    """The rules of a route."""

    __slots__ = ("_credentials", "_exposed", "_fields", "_is_public", "_matches", "_max_age",
                 "_methods")  # fmt: skip

    def __init__(
        self,
        origins: Sequence[str],
        methods: Sequence[str],
        fields: Sequence[str],
        exposed: Sequence[str],
        max_age: float,
        *,
        credentials: bool,
    ) -> None:
        """`origins`: as browsers write them; "*" for all, `https://*.example.com` for the names
        below one. `fields`: "*" for those that a preflight asks for."""
        self._is_public = "*" in origins
        patterns = (re.escape(one.encode()) for one in origins)
        self._matches = re.compile(
            b"|".join(one.replace(rb"://\*\.", rb"://[a-z0-9.-]+\.") for one in patterns)
        ).fullmatch
        self._methods = ", ".join(methods).encode()
        self._fields = None if "*" in fields else ", ".join(fields).encode()
        self._exposed = ", ".join(exposed).encode()
        self._max_age = int(max_age)
        self._credentials = credentials

    def _allowed(self, origin: bytes) -> bytes:
        if self._is_public:
            return b"*"
        return origin if origin and self._matches(origin) else b""

    def preflight(self, lines: bytes) -> bytes:
        """The fields of a preflight -> those of the answer, which may allow nothing."""
        allowed = self._allowed(origin_of(lines))
        if not allowed:
            return _VARY_PREFLIGHT
        fields = asked_fields(lines) if self._fields is None else self._fields
        return preflight(
            allowed, _VARY_PREFLIGHT, self._methods, fields, self._max_age,
            credentials=self._credentials,
        )  # fmt: skip

    def applied(self, lines: bytes, origin: bytes) -> bytes:
        """The fields of a response to a request of a page at `origin`, or of no page."""
        lines = _ALLOWED_BY_SERVER.sub(b"", lines)
        if allowed := self._allowed(origin):
            lines += b"Access-Control-Allow-Origin: %b\r\n" % allowed
            if self._credentials:
                lines += b"Access-Control-Allow-Credentials: true\r\n"
            if self._exposed:
                lines += b"Access-Control-Expose-Headers: %b\r\n" % self._exposed
        if not self._is_public and _VARIES.search(lines) is None:
            lines += _VARY
        return lines
