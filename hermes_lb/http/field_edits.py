"""Fields that a route sets, adds or removes: which may be, and how. Pure.

What frames a message, what belongs to one hop, and what the balancer itself says are not a route's
to write: the server or the client would read another message than the one that is sent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from hermes_lb.options.problems import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FRAMING: Final = frozenset(
    ("connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip
_OURS: Final = frozenset(
    ("x-hermes-degraded", "x-hermes-fence", "x-hermes-resume", "x-hermes-turn",
     "idempotency-replayed")
)  # fmt: skip
_HANDSHAKE: Final = frozenset(("sec-websocket-accept", "sec-websocket-key"))

#: Neither set, nor added, nor removed: in a request, in a response.
NEVER_IN_REQUEST: Final = (
    _FRAMING
    | _OURS
    | _HANDSHAKE
    | {"expect", "host", "http2-settings", "max-forwards", "via", "x-hermes-handover",
       "x-request-id"}
)  # fmt: skip
NEVER_IN_RESPONSE: Final = _FRAMING | _OURS | _HANDSHAKE
#: These may be removed or added to, as said there, but not set: they carry the affinity cookie.
_COOKIES: Final = {
    "cookie": "the affinity cookie is in it: it can be removed from requests only",
    "set-cookie": "the affinity cookie is in one: further ones can be added",
}


def refuse_field(name: str, action: str, *, in_request: bool) -> None:
    """Raise ValueError for a field that must not be changed so.

    `action`: "set", "add" or "remove", where a name may end with `*`.
    """
    lower = name.lower().replace("_", "-")
    never = NEVER_IN_REQUEST if in_request else NEVER_IN_RESPONSE
    if action == "remove" and lower.endswith("*"):
        covered = sorted(one for one in (*never, "set-cookie") if one.startswith(lower[:-1]))
        if covered:
            raise ValueError(f"{quoted(name)} would remove {covered[0]}, which can not be changed")
        return
    if lower in never:
        hint = "; give host to match it" if lower == "host" else ""
        raise ValueError(f"{quoted(name)} can not be changed: it is the balancer's own{hint}")
    allowed = {"cookie": "remove"} if in_request else {"set-cookie": "add"}
    if lower in _COOKIES and allowed.get(lower) != action:
        raise ValueError(f"{quoted(name)} can not be changed so: {_COOKIES[lower]}")


class Removal:
    """Takes fields out of lines. `names`: those that are set, and those that are removed."""

    __slots__ = ("_find",)

    def __init__(self, names: Iterable[str]) -> None:
        # A server of CGI or WSGI reads X_Tenant as X-Tenant: it must not pass for ours.
        patterns = b"|".join(_pattern(name) for name in names)
        self._find = re.compile(
            rb"^(?:%b)[ \t]*:[^\r\n]*\r\n" % patterns, re.IGNORECASE | re.MULTILINE
        )

    def apply(self, lines: bytes) -> bytes:
        return self._find.sub(b"", lines)


def _pattern(name: str) -> bytes:
    whole = name.removesuffix("*")
    escaped = b"[-_]".join(re.escape(part.encode()) for part in re.split("[-_]", whole))
    return escaped + rb"[^:\r\n]*" if whole != name else escaped


def lines_of(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Lines, each with its CRLF; a field without a value is left out (nginx does the same)."""
    return b"".join(b"%b: %b\r\n" % field for field in fields if field[1])
