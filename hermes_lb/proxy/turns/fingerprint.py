"""What makes two requests the same: method, target, Content-Type and body. Pure.

No other field counts: SDKs count their retries in some. The body is hashed while it streams.
"""

from __future__ import annotations

import re
from base64 import b32encode
from hashlib import blake2b
from typing import TYPE_CHECKING

from hermes_lb.http import make_body
from hermes_lb.http.request import CHUNKED

if TYPE_CHECKING:
    from hermes_lb.http import Body, RequestHead

_CONTENT_TYPE = re.compile(rb"\r\n(?i:content-type):[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)")


def plain_body(length: int) -> Body | None:
    """What takes a request's body out of its chunks; None: it has none."""
    return make_body(CHUNKED, to_http11=False) if length == CHUNKED else None


class Fingerprint:
    """`add` the body's data, without its framing; `text` is valid at any time."""

    __slots__ = ("_hash",)

    def __init__(self, secret: bytes, head: RequestHead, request_head: bytes) -> None:
        """`request_head`: as the server gets it."""
        self._hash = made = blake2b(key=secret, digest_size=16, person=b"fingerprint")
        types = _CONTENT_TYPE.findall(request_head, 0, request_head.find(b"\r\n\r\n") + 2)
        for part in (head.method, head.target, b"\n".join(types)):
            made.update(b"%d:%b" % (len(part), part))

    def add(self, data: bytes) -> None:
        self._hash.update(data)

    @property
    def text(self) -> str:
        return b32encode(self._hash.digest()).decode().lower()[:26]
