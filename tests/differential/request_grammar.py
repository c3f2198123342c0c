"""What a client may send: a few requests, pipelined, most of them with something odd."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from tests.differential.fragments import chunks, damaged, in_pieces, mostly, payloads, with_lengths
from tests.http.messages import requests


class RequestCase(NamedTuple):
    """The pieces that a client sends; `early`, `refuses`: see `Answers`."""

    pieces: list[bytes]
    early: int = 0
    refuses: int = 0


# `<i>` is the request's number, so that they can be distinguished.
_start_lines = mostly(
    [
        *[b"GET /<i> HTTP/1.1", b"POST /<i> HTTP/1.1"] * 6,
        b"HEAD /<i> HTTP/1.1", b"PUT /<i>?a=b HTTP/1.1", b"DELETE /<i>/../a//b HTTP/1.1",
        b"OPTIONS * HTTP/1.1", b"PATCH //<i> HTTP/1.1", b"GET /<i> HTTP/1.0",
        b"POST /<i> HTTP/1.0", b"HEAD /<i> HTTP/1.0", b"GET http://b:80/<i> HTTP/1.1",
        b"OPTIONS http://b HTTP/1.1", b"GET HTTP://B?<i> HTTP/1.1", b"LOCK /%00<i>\\ HTTP/1.1",
        b"M-SEARCH * HTTP/1.1", b"PROPFIND /<i> HTTP/1.1",
    ],
    [
        b"GET /<i> HTTP/1.2", b"GET /<i> HTTP/2.0", b"GET /<i> HTTP/0.9", b"GET /<i>",
        b"GET  /<i> HTTP/1.1",
        b"GET\t/<i> HTTP/1.1", b"GET /<i>\tHTTP/1.1", b"GET /<i> HTTP/1.1 ", b" GET /<i> HTTP/1.1",
        b"get /<i> HTTP/1.1", b"GET /<i> http/1.1", b"GET /<i>#f HTTP/1.1", b"GET * HTTP/1.1",
        b"GET <i> HTTP/1.1", b"CONNECT a:80 HTTP/1.1", b"TRACE /<i> HTTP/1.1", b"G\xc9T / HTTP/1.1",
        b"GET /\xe9<i> HTTP/1.1", b"GET /a b HTTP/1.1", b"GET http://u@b/<i> HTTP/1.1",
        b"GET http:/<i> HTTP/1.1", b"GET ftp://b/<i> HTTP/1.1", b"GET http://b,c/<i> HTTP/1.1",
        b"PRI * HTTP/2.0", b"XYZZY /<i> HTTP/1.1", b"", b"\r\nGET /<i> HTTP/1.1",
        b"\r\n\r\nGET /<i> HTTP/1.1", b"\nGET /<i> HTTP/1.1", b"GET /<i> HTTP/1.10",
        b"GET /<i> HTTP/01.1", b"GET /<i> HTTPS/1.1", b"HTTP/1.1 200 OK",
    ],
)  # fmt: skip
_hosts = mostly(
    [
        *[[b"Host: a"]] * 12,
        [b"host:A.b:80"], [b"HOST: [::1]"], [b"Host:\ta\t"], [b"Host: a "], [b"Host:"],
    ],
    [
        [], [b"Host: a", b"Host: a"], [b"Host: a", b"hOST: b"], [b"Host : a"], [b" Host: a"],
        [b"Host: a/b"], [b"Host: a, b"], [b"Host: u@a"], [b"Host: a:b"], [b"Ho_st: a"],
        [b"Host: [::::]"], [b"Host: [::1]x"], [b"Host: a:65536"], [b"Host: a%zz"], [b"Host: \t "],
        [b"Host: a\x0b"], [b"Host: \xe9"], [b"Host:", b" a"], [b"X: y", b"\tz", b"Host: a"],
    ],
)  # fmt: skip
_fields = mostly(
    [
        b"X-Own: y", b"X-Own:\t y \t", b"Accept: */*", b"X-Empty:", b"X-Text: \xe9\xff \t!",
        b"Cookie: a=b; c=d", b"cookie:e=f", b"Authorization: Basic eA==", b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: X-Own, TE", b"Connection: close, host, content-length", b"TE: trailers",
        b"Expect: 100-continue", b"Expect: 100-Continue", b"Keep-Alive: timeout=5",
        b"Proxy-Connection: close", b"Via: 1.0 x", b"X-Forwarded-For: 1.2.3.4",
        b"X-Request-ID: r-1",
        b"Max-Forwards: 3", b"Upgrade: h2c", b"Content-Type: text/plain", b"Trailer: X-T",
        b"Content_Length: 7", b"Transfer_Encoding: chunked", b"X-Long: " + b"a" * 300,
        b"Idempotency-Key: k", b"%s-%%d%b: %s", b"Content-Encoding: gzip", b"Accept: text/html",
    ],
    [
        b"Expect: 100-continue, x", b"Expect: x", b"Expect:", b"Expect : 100-continue",
        b"Expect: 100-continue\r\n ", b"Max-Forwards: 0", b"Connection: Upgrade",
        b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhl", b"X-Own",
        b"X Own: y", b"X-Own : y", b": y", b"X-Own: y\r\n folded", b"X-Own: a\nb", b"X-Own: a\rb",
        b"X-Own: \0", b"X-Own: \x7f", b"X-\xe9: y", b"X(Own): y", b"X-Own:\x0by", b"From x", b"",
        b"X-Own: y\nContent-Length: 5", b"X-Own: y\rTransfer-Encoding: chunked",
    ],
)  # fmt: skip
_how_many = st.sampled_from([0, 0, 1, 1, 1, 2, 3])

_CHUNKED = b"Transfer-Encoding: chunked"
_ODD_FRAMINGS = [
    [b"Content-Length: <n>", _CHUNKED], [_CHUNKED, b"Content-Length: <n>"],
    [b"Content-Length: 5", _CHUNKED], [b"Content-Length: 0", _CHUNKED],
    [b"Transfer-Encoding: xchunked"], [b"Transfer-Encoding : chunked"],
    [b"Transfer-Encoding: \x0bchunked"], [b"Transfer-Encoding: chunked", _CHUNKED],
    [b"Transfer-Encoding: gzip, chunked"], [b"Transfer-Encoding: chunked, identity"],
    [b"Transfer-Encoding: identity"], [b'Transfer-Encoding: "chunked"'],
    [b"Transfer-Encoding:", b" chunked"], [b"X: y", b" Transfer-Encoding: chunked"],
    [b"Transfer-Encoding: chunked;a=b"], [b"Transfer-Encoding: ,chunked,"],
    [b"Transfer-Encoding: \xa0chunked"], [b"Transfer-Encoding:"], [b"Transfer-Encoding"],
    [b"X: y\nTransfer-Encoding: chunked"], [b"Transfer-Encoding: chunked\r\n\tx"],
    [b"Content-Length: <n>", b"Transfer-Encoding: identity"],
    [b"Content-Length: <n>", b"Transfer_Encoding: chunked"],
]  # fmt: skip
_ODD_LENGTHS = [
    b"Content-Length: <n+1>", b"Content-Length: <n-1>", b"Content-Length: +<n>",
    b"Content-Length: -<n>", b"Content-Length: <n>, <n>", b"Content-Length: 0x<n>",
    b"Content-Length: <n>\r\nContent-Length: <n>", b"Content-Length: <n>\r\nContent-Length: 0",
    b"Content-Length: 0\r\nContent-Length: <n>", b"Content-Length : <n>", b"Content-Length: <n>;",
    b"Content-Length: <n> 0", b"Content-Length: \x0b<n>", b"Content-Length: <n>.0",
    b'Content-Length: "<n>"', b"Content-Length: <n>_0", b"Content-Length: \xd9\xa5",
    b"Content-Length: 1844674407370955161<n>", b"Content-Length:", b"Content-Length: <n>e0",
    b"Content-Length:\r\n <n>", b"Content-Length: 00000000000000000000<n>",
    b"Content-Length: <n>\n",
    b"X: y\nContent-Length: <n>", b"Content-Length\0: <n>",
]  # fmt: skip
# Field lines, and whether the body is in chunks; None: there is none.
_framings = mostly(
    [
        *[([], None), ([b"Content-Length: <n>"], False), ([_CHUNKED], True), ([_CHUNKED], True)]
        * 3,
        ([b"content-length:<n>"], False),
        ([b"CONTENT-LENGTH: 000<n> "], False),
        ([b"transfer-encoding:CHUNKED\t"], True),
    ],
    [
        *((lines, in_chunks) for in_chunks in (True, False) for lines in _ODD_FRAMINGS),
        *(([line], False) for line in _ODD_LENGTHS),
    ],
    share=0.12,
)
_counts = st.sampled_from([1, 1, 1, 2, 2, 3])
# How an origin answers that does not wait for bodies: early, or what expects a 100.
_origins = st.sampled_from([(0, 0)] * 13 + [(200, 0), (200, 0), (413, 0), (0, 200), (0, 417)])
_HOST = b"\r\nHost: a\r\n"
_sources = st.sampled_from(["ours"] * 9 + ["any"])


def _request(draw: st.DrawFn, number: int) -> bytes:
    start = draw(_start_lines).replace(b"<i>", b"%d" % number)
    lines, in_chunks = draw(_framings)
    payload = b"" if in_chunks is None else draw(payloads)
    body = chunks(draw, payload) if in_chunks else payload
    framing = [with_lengths(line, body) for line in lines]
    fields = [draw(_fields) for _ in range(draw(_how_many))]
    place = min(len(fields), number)
    lines = [start, *draw(_hosts), *fields[:place], *framing, *fields[place:], b"", b""]
    return b"\r\n".join(lines) + body


@st.composite
def request_cases(draw: st.DrawFn) -> RequestCase:
    """A client's bytes; about a third of them can't be accepted."""
    if draw(_sources) == "any":
        message = draw(requests())
        wire = message.head + message.body
    else:
        wire = b"".join(_request(draw, number) for number in range(draw(_counts)))
    wire = damaged(draw, wire)
    pieces = in_pieces(draw)
    early, refuses = draw(_origins)
    if refuses:
        wire = wire.replace(_HOST, _HOST + b"Expect: 100-continue\r\n")
    return RequestCase(pieces(wire), early, refuses)
