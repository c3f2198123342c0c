"""What the generated requests and responses share: chunked bodies, damage, and ways to cut.

Each choice costs hypothesis some 50 us, so most of them are one pick from a pool. A pool's first
entry is the simplest, to which it shrinks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from hypothesis import strategies as st

from tests.support.cuts import byte_by_byte, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_T = TypeVar("_T")


def mostly(plain: Sequence[_T], odd: Sequence[_T], *, share: float = 0.06) -> st.SearchStrategy[_T]:
    """One of these; `share` of the time an odd one."""
    times = round(len(odd) * (1 - share) / share / len(plain))
    return st.sampled_from([*plain] * times + [*odd])


# Payloads that look like messages or chunks are those that a wrong framing would let loose.
_SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: s\r\n\r\n"
_SPLIT = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
payloads = st.sampled_from(
    [
        b"", b"x", b"x", b"hello", b"0\r\n\r\n", b"\r\n", _SMUGGLED, b"0\r\n\r\n" + _SMUGGLED,
        b"5\r\nhello\r\n0\r\n\r\n", b"\r\n\r\n" + _SMUGGLED, _SPLIT, b"0\r\n\r\n" + _SPLIT, b"\n\n",
        b"a" * 300, b"x=" + _SMUGGLED[:-2],
    ]
)  # fmt: skip

_sizes = mostly(
    [
        b"%x", b"%x", b"%X", b"0%x", b"000%X", b"0000000000000%x", b"%x;a", b"%x;a=b",
        b'%x;a="b;c"', b"%x ;a=b", b"%x; a = b", b'%x;a="\\""\t;b',
    ],
    [
        b"+%x", b"-%x", b"0x%x", b" %x", b"%x ", b"\t%x", b"%x\t", b"%x;",
        b"%x;=b", b"%x;a=", b'%x;a="b',
        b"%x;a ", b"%x;a b", b"%x;a\nb", b"%x;\n", b"%x\n", b"%x\r", b"%x;a\rb", b"%x;\0",
        b"%x,5", b"%x_0", b"%xg", b"",
        b"00000000000000000%x", b"fffffffffffffff%x", b"1000000000000000%x", b"%x\r\n%x",
        b'%x;a="\r\n"', b"\xd9\xa1%x", b"%x.0", b"%xe0", b"0%x;\xff\xfe", b"%x\x0b", b"%x\x85",
    ],
)  # fmt: skip
_lasts = mostly(
    [b"0", b"0", *[b"000", b"0;a=b", b"0;a", b"0" * 15]],
    [b"-0", b"+0", b"0x0", b"0 ", b"0\n", b"0;\n", b"0" * 17, b"", b"0;a\rb", b"00\t"],
)  # fmt: skip
_trailers = mostly(
    [b"\r\n", b"\r\n", *[b"X-T: v\r\n\r\n", b"A:\r\nB: \xff\r\n\r\n"]],
    [
        b"Content-Length: 5\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b"Host: evil\r\n\r\n",
        b"X-T : v\r\n\r\n", b"X-T\r\n\r\n", b" X: v\r\n\r\n", b"X: v\r\n y\r\n\r\n",
        b"X: \0\r\n\r\n",
        b"X: v\n\r\n", b"X: v\r\n\n", b"\n", b"\r", b"\r\n\r\n", b"", b": v\r\n\r\n",
        _SMUGGLED,
    ],
)  # fmt: skip
_chunk_ends = mostly(
    [b"\r\n"], [b"\n", b"\r", b"", b"x\r\n", b"\r\r\n", b" \r\n", b"\r\n\r\n", b"\0\0"]
)
_splits = st.sampled_from([(), (), (1,), (3,), (1, 2), tuple(range(40))])


def chunks(draw: st.DrawFn, payload: bytes) -> bytes:
    """A chunked body, mostly valid."""
    size, end = draw(_sizes), draw(_chunk_ends)
    wire = b""
    for piece in cut(payload, draw(_splits)):
        if piece:
            digits = (b"%x" if b"%x" in size else b"%X") % len(piece)
            wire += size.replace(b"%x", digits).replace(b"%X", digits) + b"\r\n" + piece + end
    return wire + draw(_lasts) + b"\r\n" + draw(_trailers)


def with_lengths(template: bytes, body: bytes) -> bytes:
    """Field lines in which `<n>` stands for the length of the body, `<n+1>` for one more, ..."""
    size = len(body)
    for name, length in ((b"<n>", size), (b"<n+1>", size + 1), (b"<n-1>", max(0, size - 1))):
        template = template.replace(name, b"%d" % length)
    return template


_ODD_BYTES = [
    b" ", b"\t", b"\r", b"\n", b"\0", b":", b",", b";", b"0", b"1", b"+", b"-", b"_", b"#", b"/",
    b'"', b"x", b"\x0b", b"\x0c", b"\x1f", b"\x7f", b"\x85", b"\xa0", b"\xff", b"\xc3\xa9",
    b"\r\n", b"\r\n\r\n", b"\n\n", b"\r\n ", b"\r\nX: y", b"\r\nContent-Length: 5",
    b"\r\nTransfer-Encoding: chunked", b"GET /inserted HTTP/1.1\r\nHost: i\r\n\r\n",
]  # fmt: skip
_odd_bytes = st.sampled_from(_ODD_BYTES)
_odd_line_ends = st.sampled_from(
    [
        b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"\r\n ", b"\r\n\t", b" \r\n", b"\0\r\n",
        b"\x0b\r\n", b"", b"\n\n", b"\r\n\n", b"\x85", b"\r\n\r\n\r\n",
    ]
)  # fmt: skip
_places = st.integers(0, 999)
_ways = st.sampled_from(["line end", "insert", "replace", "delete", "repeat line", "swap case"])
_how_often = st.sampled_from([0] * 7 + [1, 1, 2])


def damaged(draw: st.DrawFn, wire: bytes) -> bytes:
    """`wire` with up to three changes, mostly where lines begin and end."""
    for _ in range(draw(_how_often)):
        way, place = draw(_ways), draw(_places)
        if way in ("line end", "repeat line", "swap case"):
            lines = wire.split(b"\r\n")
            before, (line, *after) = split_at(lines, place)
            if way == "line end":
                end = draw(_odd_line_ends)
                wire = b"\r\n".join([*before, line]) + end + b"\r\n".join(after)
            elif way == "repeat line":
                wire = b"\r\n".join([*before, line, line, *after])
            else:
                wire = b"\r\n".join([*before, line.swapcase(), *after])
        else:
            place = place * len(wire) // 1000
            odd = b"" if way == "delete" else draw(_odd_bytes)
            wire = wire[:place] + odd + wire[place + (way != "insert") :]
    return wire


def split_at(lines: list[bytes], place: int) -> tuple[list[bytes], list[bytes]]:
    place %= len(lines)
    return lines[:place], lines[place:]


_cut_ways = st.sampled_from(["whole", "whole", "cut", "cut", "bytes"])
_cut_places = st.binary(min_size=1, max_size=6)


def in_pieces(draw: st.DrawFn) -> Callable[[bytes], list[bytes]]:
    """A way to cut any bytes: whole, at a few places, or byte by byte."""
    way = draw(_cut_ways)
    places = draw(_cut_places) if way == "cut" else b""

    def pieces(wire: bytes) -> list[bytes]:
        if places:
            return cut(wire, [place * len(wire) // 256 for place in places])
        return byte_by_byte(wire) if way == "bytes" and len(wire) < 1000 else [wire]

    return pieces
