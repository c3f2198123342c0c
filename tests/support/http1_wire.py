"""HTTP/1.1 as the tests write and read it, for a client that says it by HTTP/2.

Requests are taken apart as their bytes come, and responses are put together. Not a judge of
anything: it takes what is well-formed, and `NotSaid` is for what HTTP/2 has no words for.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections import deque
from hashlib import sha1
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

Fields = list[tuple[bytes, bytes]]

# Of the connection, and so said by frames (RFC 9113 section 8.2.2).
_BY_FRAMES = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_ABSOLUTE = re.compile(rb"https?://(?P<authority>[^/?]*)(?P<path>.*)", re.IGNORECASE)


class NotSaid(Exception):
    """It has no counterpart in HTTP/2: the test is one of HTTP/1.1 only."""


class Begins(NamedTuple):
    """A request. `key`: of a WebSocket, whose bytes follow without framing."""

    fields: Fields
    ends: bool
    method: bytes
    key: bytes = b""


class Data(NamedTuple):
    """Of the body of the request before it; of a WebSocket."""

    data: bytes
    ends: bool = False


class Requests:
    """Bytes of a connection's requests, in any pieces."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._left: float = -1  # bytes of the body or chunk; -1: a head comes
        self._is_chunked = False

    def take(self, data: bytes) -> Iterator[Begins | Data]:
        self._held += data
        while self._held:
            if self._left < 0:
                if b"\r\n\r\n" not in self._held:
                    return
                head, _, rest = bytes(self._held).partition(b"\r\n\r\n")
                self._held[:] = rest
                yield self._begin(head)
            elif self._left:
                passed = bytes(self._held[: int(min(self._left, len(self._held)))])
                del self._held[: len(passed)]
                self._left -= len(passed)
                ends = not self._left and not self._is_chunked
                if ends:
                    self._left = -1
                yield Data(passed, ends)
            elif b"\r\n" not in self._held.removeprefix(b"\r\n"):
                return
            else:
                line, _, rest = bytes(self._held).removeprefix(b"\r\n").partition(b"\r\n")
                self._left = int(line.partition(b";")[0], 16)
                if not self._left:
                    if b"\r\n" not in rest:
                        self._left = 0
                        return
                    if not rest.startswith(b"\r\n"):
                        raise NotSaid("trailers")
                    rest, self._left = rest[2:], -1
                    yield Data(b"", ends=True)
                self._held[:] = rest

    def _begin(self, head: bytes) -> Begins:
        line, *lines = head.split(b"\r\n")
        method, _, rest = line.partition(b" ")
        target, _, version = rest.rpartition(b" ")
        if version != b"HTTP/1.1":
            raise NotSaid(repr(version))
        pairs = [each.partition(b":") for each in lines]
        fields = [(name.lower(), value.strip(b" \t")) for name, _, value in pairs]
        said = dict(fields)
        authorities = [value for name, value in fields if name == b"host"]
        if len(authorities) != 1:
            raise NotSaid("no Host, or several")
        if absolute := _ABSOLUTE.fullmatch(target):
            authorities = [absolute["authority"]]
            target = absolute["path"] if absolute["path"][:1] == b"/" else b"/" + absolute["path"]
        kept = [
            (name, value)
            for name, value in fields
            if name not in _BY_FRAMES and name not in (b"host", b"te", b"sec-websocket-key")
        ]
        key = said.get(b"sec-websocket-key", b"") if b"upgrade" in said else b""
        if b"upgrade" in said and not key:
            raise NotSaid("an upgrade that is no WebSocket")
        pseudo = [
            (b":method", b"CONNECT" if key else method),
            *([(b":protocol", b"websocket")] if key else []),
            (b":scheme", b"http"),
            (b":path", target),
            (b":authority", authorities[0]),
        ]
        self._is_chunked = b"transfer-encoding" in said
        if key:
            self._left = float("inf")
        elif self._is_chunked:
            self._left = 0
        else:
            self._left = int(said.get(b"content-length", b"0")) or -1
        return Begins([*pseudo, *kept], self._left < 0, method, key)


class Asked:
    """A request on a stream, and its response as HTTP/1.1 has it."""

    def __init__(self, number: int, begins: Begins) -> None:
        self.number = number
        self.method = begins.method
        self.key = begins.key
        self.wire = bytearray()  # not yet read by the test
        self.has_ended = False
        self.was_reset = False
        self.is_tunnel = False
        self._is_chunked = False

    def head_came(self, fields: Fields) -> None:
        (_, status), *others = fields
        code = int(status)
        is_switched = code == 200 and self.key
        if is_switched:
            code, self.is_tunnel = 101, True
            proof = b64encode(sha1(self.key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            others += [
                (b"upgrade", b"websocket"),
                (b"connection", b"Upgrade"),
                (b"sec-websocket-accept", proof),
            ]
        elif code < 200 or code in (204, 304) or self.method == b"HEAD":
            pass
        elif all(name != b"content-length" for name, _ in others):
            self._is_chunked = True
            others.append((b"transfer-encoding", b"chunked"))
        self.wire += b"HTTP/1.1 %d %b\r\n" % (code, HTTPStatus(code).phrase.encode())
        for name, value in others:
            self.wire += b"%b: %b\r\n" % (name.title(), value)
        self.wire += b"\r\n"

    def data_came(self, data: bytes) -> None:
        self.wire += b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked and data else data

    def ended(self) -> None:
        self.has_ended = True
        if self._is_chunked:
            self.wire += b"0\r\n\r\n"


class Responses:
    """Those of a connection, in the order of their requests."""

    def __init__(self) -> None:
        self._asked: deque[Asked] = deque()
        self._streams: dict[int, Asked] = {}
        self.is_cut = False  # what came is not whole, and nothing follows
        self.is_over = False  # a tunnel has ended: nothing follows

    def add(self, asked: Asked) -> None:
        self._asked.append(asked)
        self._streams[asked.number] = asked

    def of(self, stream: int) -> Asked:
        return self._streams[stream]

    @property
    def are_complete(self) -> bool:
        return not self._asked

    def take(self) -> bytes:
        """What may be read now."""
        taken = bytearray()
        while self._asked and not self.is_cut:
            first = self._asked[0]
            taken += first.wire
            first.wire.clear()
            if first.has_ended:
                self._asked.popleft()
                self.is_over = first.is_tunnel
            elif first.was_reset:
                self.is_cut = True
            else:
                break
        return bytes(taken)
