"""What an origin may answer, most of it with something odd."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from tests.differential.fragments import chunks, damaged, in_pieces, mostly, payloads, with_lengths
from tests.differential.response_referees import FIN, RESET
from tests.http.messages import responses


class ResponseCase(NamedTuple):
    """A client's request, the pieces of the answer, and how the origin ends if it has to."""

    request: bytes
    pieces: list[bytes]
    ending: str


_requests = st.sampled_from(
    [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"] * 6
    + [
        b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxxx",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"HEAD / HTTP/1.0\r\n\r\n",
    ]
)
_informational = mostly(
    [
        *[b""] * 12,
        b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
        b"HTTP/1.1 102 X\r\n\r\nHTTP/1.1 100 Y\r\nX-Own: y\r\n\r\n",
    ],
    [
        b"HTTP/1.1 103 X\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.0 100 Continue\r\n\r\n",
        b"HTTP/1.1 199 X\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 100 Continue\n\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 103 X\r\n\r\n" * 33, b"HTTP/1.1 103 X\r\nConnection: close\r\n\r\n",
    ],
)  # fmt: skip
_status_lines = mostly(
    [
        *[b"HTTP/1.1 200 OK"] * 12,
        b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified", b"HTTP/1.0 200 OK",
        b"HTTP/1.1 404 Not  Found\xe9", b"HTTP/1.1 500 ", b"HTTP/1.1 206 x", b"HTTP/1.1 301 y",
        b"HTTP/1.1 205 Reset Content", b"HTTP/1.0 304 x", b"HTTP/1.1 503 200", b"HTTP/1.1 401 x",
    ],
    [
        b"HTTP/1.1 200", b"HTTP/1.1  200 OK", b"HTTP/1.1 200  OK", b"HTTP/1.1\t200 OK",
        b"HTTP/1.2 200 OK", b"HTTP/2.0 200 OK", b"HTTP/0.9 200 OK", b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK", b"HTTP/1.1 999 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 +20 OK",
        b"http/1.1 200 OK", b"HTTP/1.1 200 O\rK", b"HTTP/1.1 200 O\0K", b"HTTP/1.1 OK", b"",
        b"ICY 200 OK", b"\r\nHTTP/1.1 200 OK", b" HTTP/1.1 200 OK", b"HTTP/1.1 200 \x7f",
        b"HTTP/1.1 200\xa0OK", b"HTTP/1.1 \xb2\xb2\xb2 OK", b"GET / HTTP/1.1", b"HTTP/1.1 600 x",
    ],
)  # fmt: skip
_fields = mostly(
    [
        b"X-Own: y", b"X-Empty:", b"X-Text: \xe9\xff \t!", b"Set-Cookie: a=b", b"set-cookie:c=d",
        b"Content-Type: text/event-stream", b"Cache-Control: no-store", b"ETag: x", b"Server: z",
        b"Connection: close", b"Connection: keep-alive", b"Connection: X-Own", b"Date: now",
        b"Connection: close, set-cookie, content-length", b"Keep-Alive: timeout=5",
        b"Proxy-Connection: close", b"Proxy-Authenticate: Basic", b"Trailer: X-T", b"Upgrade: h2c",
        b"Content_Length: 7", b"Transfer_Encoding: chunked", b"Content-Encoding: gzip",
        b"X-Long: " + b"a" * 300, b"Via: 1.1 x", b"%s: %s",
    ],
    [
        b"X-Own", b"X Own: y", b"X-Own : y", b": y", b"X-Own: y\r\n folded", b"X-Own: a\nb",
        b"X-Own: a\rb", b"X-Own: \0", b"X-Own: \x7f", b"X-\xe9: y", b"X(Own): y", b"",
        b"X-Own:\x0by", b" X-Own: y", b"X-Own: y\nContent-Length: 5", b"Upgrade: websocket",
    ],
)  # fmt: skip
_how_many = st.sampled_from([0, 0, 1, 1, 1, 2, 3])

_CHUNKED = b"Transfer-Encoding: chunked"
_ODD_FRAMINGS = [
    [b"Content-Length: <n>", _CHUNKED], [_CHUNKED, b"Content-Length: <n>"],
    [b"Content-Length: 3", _CHUNKED], [b"Transfer-Encoding: gzip"], [_CHUNKED, _CHUNKED],
    [b"Transfer-Encoding: gzip, chunked"], [b"Transfer-Encoding: chunked, gzip"],
    [b"Transfer-Encoding: identity"], [b"Transfer-Encoding : chunked"],
    [b"Transfer-Encoding: xchunked"], [b"Transfer-Encoding: \x0bchunked"],
    [b"Transfer-Encoding:", b" chunked"], [b"Transfer-Encoding: chunked;a"],
    [b"Transfer-Encoding:"], [b'Transfer-Encoding: "chunked"'], [b"Content-Length: 3"],
]  # fmt: skip
_ODD_LENGTHS = [
    b"Content-Length: <n+1>", b"Content-Length: <n-1>", b"Content-Length: +<n>",
    b"Content-Length: -1", b"Content-Length: <n>, <n>", b"Content-Length: 0x<n>",
    b"Content-Length: <n>\r\nContent-Length: <n>", b"Content-Length: <n>\r\nContent-Length: 0",
    b"Content-Length : <n>", b"Content-Length: <n> 0", b"Content-Length: \x0b<n>",
    b'Content-Length: "<n>"', b"Content-Length: <n>_0", b"Content-Length: \xd9\xa5",
    b"Content-Length: 1844674407370955161<n>", b"Content-Length:", b"Content-Length: <n>.0",
    b"Content-Length:\r\n <n>", b"X: y\nContent-Length: <n>", b"Content-Length: <n>;",
]  # fmt: skip
# Field lines, and whether the body is in chunks.
_framings = mostly(
    [
        *[([b"Content-Length: <n>"], False), ([_CHUNKED], True), ([_CHUNKED], True), ([], False)]
        * 3,
        ([b"content-length:000<n>\t"], False),
        ([b"transfer-encoding:\tCHUNKED "], True),
    ],
    [
        *((lines, in_chunks) for in_chunks in (True, False) for lines in _ODD_FRAMINGS),
        *(([line], False) for line in _ODD_LENGTHS),
    ],
    share=0.12,
)
_behind = st.sampled_from(
    [b""] * 6 + [b"x", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nunwanted!"]
)
_endings = st.sampled_from([FIN, FIN, RESET])
_sources = st.sampled_from(["ours"] * 9 + ["any"])


def _response(draw: st.DrawFn) -> bytes:
    lines, in_chunks = draw(_framings)
    payload = draw(payloads)
    body = chunks(draw, payload) if in_chunks else payload
    framing = [with_lengths(line, body) for line in lines]
    fields = [draw(_fields) for _ in range(draw(_how_many))]
    lines = [draw(_status_lines), *fields[:1], *framing, *fields[1:], b"", b""]
    return draw(_informational) + b"\r\n".join(lines) + body + draw(_behind)


@st.composite
def response_cases(draw: st.DrawFn) -> ResponseCase:
    """An origin's bytes, and to which request; about a third of them can't be accepted."""
    if draw(_sources) == "any":
        message = draw(responses())
        wire = message.head + message.body
    else:
        wire = _response(draw)
    wire = damaged(draw, wire)
    pieces = in_pieces(draw)(wire)
    return ResponseCase(draw(_requests), pieces, draw(_endings))
