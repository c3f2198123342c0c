"""What a client may send on a stream of HTTP/2: a request's fields, DATA and trailers, often odd.

The codec of HTTP/2 is no fence: names and values are any bytes, and DATA ends where frames say.
"""

from __future__ import annotations

from typing import NamedTuple

from hpack import Encoder
from hypothesis import strategies as st

from tests.differential.fragments import in_pieces, mostly, payloads
from tests.support.cuts import cut
from tests.support.http2_peer import PREFACE, SETTINGS

Fields = list[tuple[bytes, bytes]]

STREAM = 1
NEXT_STREAM = 3


class StreamCase(NamedTuple):
    """`pieces`: of the connection, up to the end of the stream; `fields`, `body`, `trailers`: the
    request in it."""

    pieces: list[bytes]
    fields: Fields
    body: bytes | None
    trailers: Fields | None


_methods = mostly(
    [*[b"GET", b"POST"] * 4, b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"PROPFIND"],
    [
        b"", b"get", b"G T", b"GET ", b"GET\r\n", b"GET /x HTTP/1.1\r\nX: ", b"CONNECT", b"TRACE",
        b"XYZZY", b"G\xc9T", b"GET\0", b"M-SEARCH", b"PRI", b"GET\t",
    ],
)  # fmt: skip
_paths = mostly(
    [b"/", b"/a", b"/a?b=c", b"/../a//b", b"/%00%20\\", b"//a", b"/a;b,c"],
    [
        b"", b"*", b"a", b"/a b", b"/a#b", b"/#", b"/a?b#c", b"/\xe9", b"/\x80", b"/\xff", b"/a\0",
        b"/\r\nX: y", b"/ HTTP/1.1\r\nHost: s\r\n\r\nGET /smuggled", b"/a\t", b"/\x7f", b" /a",
        b"http://b/a", b"HTTP://b:80/a", b"http:/a", b"ftp://b/a", b"//b@c/", b"/\x0b", b"?a",
        b"http://u@b/", b"https://a/x", b"/a\n", b"/a\r",
    ],
)  # fmt: skip
_schemes = mostly(
    [b"http", b"http", b"https"], [b"", b"ftp", b"HTTP", b"ht tp", b"http\r\nX: y", b"x"]
)
_authorities = mostly(
    [*[b"a"] * 6, b"A.b:80", b"[::1]"],
    [
        None, b"", b"a/b", b"u@a", b"a, b", b"a:b", b"a\r\nX: y", b"a b", b"a\0", b"\xe9",
        b"a:65536",
        b"[::1]x", b"a\t", b" a", b"a#b", b"a?b", b"*",
    ],
)  # fmt: skip
_hosts = mostly(
    [[], [], []], [[b"a"], [b"b"], [b"A"], [b"a:80"], [b"a", b"a"], [b"a", b"b"], [b""]]
)
_fields = mostly(
    [
        (b"x-own", b"y"), (b"accept", b"*/*"), (b"x-empty", b""), (b"x-text", b"\xe9\xff !"),
        (b"cookie", b"a=b"), (b"cookie", b"c=d; e=f"), (b"authorization", b"Basic eA=="),
        (b"te", b"trailers"), (b"via", b"2.0 x"), (b"x-forwarded-for", b"1.2.3.4"),
        (b"x-request-id", b"r-1"), (b"content-type", b"text/plain"), (b"trailer", b"x-t"),
        (b"content_length", b"7"), (b"transfer_encoding", b"chunked"), (b"x-long", b"a" * 300),
        (b"content-encoding", b"gzip"), (b"x-own", b"a, b"), (b"cookie", b""), (b"x-tab", b"a\tb"),
    ],
    [
        (b"connection", b"close"), (b"connection", b"x-own"), (b"keep-alive", b"1"),
        (b"proxy-connection", b"close"), (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"), (b"upgrade", b"h2c"), (b"te", b"gzip"),
        (b"te", b"trailers, chunked"), (b"te", b"Trailers"),
        (b"X-Upper", b"y"), (b"x own", b"y"), (b"x-own:", b"y"), (b"x-own ", b"y"), (b"", b"y"),
        (b"x-\xe9", b"y"), (b"x\0", b"y"), (b"x-own\r\ncontent-length", b"5"), (b"x\n", b"y"),
        (b"x-own", b"a\r\nx-b: c"), (b"x-own", b"a\nb"), (b"x-own", b"a\rb"), (b"x-own", b"a\0b"),
        (b"x-own", b" y"), (b"x-own", b"y "), (b"x-own", b"\ty"), (b"x-own", b"a\x0bb"),
        (b"x-own", b"\x7f"), (b"cookie", b"a=b\r\nx: y"), (b"cookie", b"a=\0"),
        (b"cookie", b" a=b"),
        (b"content-length\0", b"5"), (b"x(own)", b"y"), (b":path", b"/other"), (b":x", b"y"),
        (b":authority", b"c"), (b":status", b"200"), (b":protocol", b"websocket"),
        (b"host", b"c"), (b"expect", b"x"), (b"proxy", b"y"), (b"http2-settings", b"AAMAAABk"),
        (b"sec-websocket-key", b"dGhl"), (b"transfer-encoding\t", b"chunked"), (b":", b"y"),
    ],
    share=0.25,
)  # fmt: skip
_how_many = st.sampled_from([0, 0, 1, 1, 2, 3])
# Of a body with <n> bytes; None: no field says it.
_lengths = mostly(
    [None, None, b"<n>", b"<n>"],
    [
        b"<n+1>", b"<n-1>", b"0", b"5", b"+<n>", b"-<n>", b"<n>, <n>", b"0x<n>", b" <n>", b"<n> ",
        b"<n>;", b"", b"000<n>", b"1844674407370955161<n>", b"<n>.0", b"<n>\r\nx: y", b"\xb2",
    ],
)  # fmt: skip
_times = st.sampled_from([1] * 15 + [2])
_bodies = st.one_of(st.none(), payloads)
_trailers = mostly(
    [None] * 5,
    [
        [(b"x-t", b"v")], [(b"content-length", b"5")], [(b"transfer-encoding", b"chunked")],
        [(b"host", b"evil")], [(b":path", b"/evil")], [(b"X-T", b"v")], [(b"x-t", b"a\r\nb: c")],
        [(b"x-t\r\n\r\nGET /smuggled HTTP/1.1\r\nhost", b"s")], [(b"cookie", b"a=b")], [],
        [(b"x-t", b"v\0")], [(b"connection", b"close")], [(b"", b"")],
    ],
    share=0.2,
)  # fmt: skip
_splits = st.sampled_from([(), (), (1,), (3,), (1, 2), (0,), tuple(range(40))])
_orders = st.sampled_from(["plain"] * 14 + ["late pseudo", "twice", "without", "shuffled"])
_pads = st.sampled_from([0, 0, 0, 1, 7])


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def head_frames(stream: int, block: bytes, *, ends: bool, cuts: tuple[int, ...] = ()) -> bytes:
    """HEADERS, and CONTINUATION for what is cut off it."""
    first, *more = cut(block, cuts[:4]) if cuts else [block]
    wire = frame(1, ends | (0 if more else 4), stream, first)
    for number, part in enumerate(more, 1):
        wire += frame(9, 4 if number == len(more) else 0, stream, part)
    return wire


@st.composite
def stream_cases(draw: st.DrawFn) -> StreamCase:
    """A connection's bytes with one request; about half of them can't be accepted."""
    pseudo: Fields = [
        (b":method", draw(_methods)), (b":scheme", draw(_schemes)), (b":path", draw(_paths)),
    ]  # fmt: skip
    authority = draw(_authorities)
    if authority is not None:
        pseudo.append((b":authority", authority))
    order = draw(_orders)
    if order == "twice":
        pseudo.append(pseudo[draw(_how_many) % len(pseudo)])
    elif order == "without":
        del pseudo[draw(_how_many) % 3]
    body, trailers = draw(_bodies), draw(_trailers)
    if trailers is not None and body is None:
        body = b""
    fields: Fields = [(b"host", host) for host in draw(_hosts)]
    fields += [draw(_fields) for _ in range(draw(_how_many))]
    length = draw(_lengths)
    if length is not None:
        size = len(body or b"")
        for name, number in ((b"<n>", size), (b"<n+1>", size + 1), (b"<n-1>", max(0, size - 1))):
            length = length.replace(name, b"%d" % number)
        fields += [(b"content-length", length)] * draw(_times)
    if order == "late pseudo":
        fields = [*fields, pseudo.pop()]
    all_fields = [*pseudo, *fields]
    if order == "shuffled":
        all_fields.reverse()
    cuts, pad = (draw(_splits), draw(_splits)), draw(_pads)
    wire = wire_of(all_fields, body, trailers, cuts, pad)
    return StreamCase(in_pieces(draw)(wire), all_fields, body, trailers)


def wire_of(
    fields: Fields,
    body: bytes | None,
    trailers: Fields | None,
    cuts: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
    pad: int = 0,
) -> bytes:
    """A connection with one request. `cuts`: where its head and its body go on in another frame;
    `pad`: bytes of padding in each frame of DATA."""
    encoder = Encoder()
    wire = PREFACE + SETTINGS
    wire += head_frames(STREAM, encoder.encode(fields), ends=body is None, cuts=cuts[0])
    if body is not None:
        wire += _data(cut(body, cuts[1]) or [b""], pad, ends=trailers is None)
    if trailers is not None:
        wire += head_frames(STREAM, encoder.encode(trailers), ends=True)
    return wire


def _data(pieces: list[bytes], pad: int, *, ends: bool) -> bytes:
    wire = b""
    for number, piece in enumerate(pieces, 1):
        flags = (1 if ends and number == len(pieces) else 0) | (8 if pad else 0)
        wire += frame(0, flags, STREAM, bytes((pad,)) + piece + bytes(pad) if pad else piece)
    return wire


#: Behind the first request; names are never compressed, so the state of the codec is of no account.
_PLAIN = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/next"), (b":authority", b"a")]
NEXT_WIRE = head_frames(
    NEXT_STREAM,
    b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in _PLAIN),
    ends=True,
)
