"""A request's head of HTTP/1.1 as fields of HTTP/2, and a response's fields as such a head. Pure.

The parser of HTTP/1.1 judges the head of a response, as it does that of a request (`fields`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hermes_lb.errors import InvalidResponse
from hermes_lb.http.bounded_cache import BoundedCache
from hermes_lb.http.request import CHUNKED
from hermes_lb.proxy.http2.fields import OF_ONE_HOP, has_forbidden_bytes, is_name

if TYPE_CHECKING:
    from collections.abc import Iterable


# The last line of `build_request`: another one for each request.
_REQUEST_ID: Final = b"X-Request-ID: "


class Asked(NamedTuple):
    """A request. `length`: of its body, or `CHUNKED`."""

    fields: list[tuple[bytes, bytes]]
    length: int
    is_head: bool


def as_fields(head: bytes, scheme: bytes) -> Asked:
    """`head`: as `build_request` has written it, up to its last CRLF."""
    rest, _, last = head.rpartition(b"\r\n")
    if not last.startswith(_REQUEST_ID):
        rest, last = head, b""
    known = _requests.get((scheme, rest))
    if known is None:
        known = _requests.remember((scheme, rest), len(rest), _as_fields(rest, scheme))
    if not last:
        return known
    fields = [*known.fields, (b"x-request-id", last[len(_REQUEST_ID) :])]
    return Asked(fields, known.length, known.is_head)


def _as_fields(head: bytes, scheme: bytes) -> Asked:
    lines = head.split(b"\r\n")
    method, target, _ = lines[0].split(b" ")
    authority, length = b"", 0
    fields: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"host":
            authority = value
        elif name == b"transfer-encoding":
            length = CHUNKED
        elif colon and name not in OF_ONE_HOP:
            if name == b"content-length":
                length = int(value)
            fields.append((name, value))
    pseudo = [(b":method", method), (b":scheme", scheme), (b":path", target)]
    if authority:
        pseudo.append((b":authority", authority))
    return Asked(pseudo + fields, length, method == b"HEAD")


def as_head(fields: tuple[tuple[bytes, bytes], ...], *, ended: bool, is_head: bool) -> bytes:
    """`ended`: no body follows. `is_head`: the request was a HEAD. Raises InvalidResponse."""
    known = _heads.get((fields, ended, is_head))
    if known is None:
        known = _as_head(fields, ended=ended, is_head=is_head)
        _heads.remember((fields, ended, is_head), len(known), known)
    return known


def _as_head(fields: Iterable[tuple[bytes, bytes]], *, ended: bool, is_head: bool) -> bytes:
    lines: list[bytes] = []
    status, has_length = b"", False
    for name, value, *_ in fields:
        if name == b":status":
            status = value
        elif not is_name(name) or name in OF_ONE_HOP or has_forbidden_bytes(value):
            raise InvalidResponse("HTTP/2: a malformed field")
        else:
            has_length = has_length or name == b"content-length"
            lines += (name, b": ", value, b"\r\n")
    if not has_length and not is_head and status not in (b"204", b"304") and status[:1] != b"1":
        lines.append(b"Content-Length: 0\r\n" if ended else b"Transfer-Encoding: chunked\r\n")
    return b"HTTP/1.1 %b \r\n%b\r\n" % (status, b"".join(lines))


# A client repeats its requests, but for their ids.
_requests: BoundedCache[tuple[bytes, bytes], Asked] = BoundedCache(most=256, longest=1024)
# A server's responses recur, for a second at least, in which Date is the same.
_heads: BoundedCache[tuple[tuple[tuple[bytes, bytes], ...], bool, bool], bytes] = BoundedCache(
    most=256, longest=1024
)
