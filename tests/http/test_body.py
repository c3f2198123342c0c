"""Bodies on their way: bytes in, however they are cut -> bytes out, or InvalidBody."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.errors import InvalidBody
from hermes_lb.http import (
    CHUNKED,
    UNTIL_CLOSE,
    ChunkedBody,
    LengthBody,
    UntilCloseBody,
    make_body,
)
from hermes_lb.http.body import MOST_CHUNKS, MOST_KNOWN, NEVER_BEHIND
from tests.http.messages import chunked_bodies, mutated
from tests.support.bodies import feed, feed_all, read_chunks
from tests.support.cuts import byte_by_byte, cut, ways
from tests.support.examples import examples
from tests.support.heads import NEXT, row
from tests.support.referees import h11_chunked, is_whole

LAST = b"0\r\n\r\n"
BEHIND = [b"", b"\r\n", NEXT, b"0\r\n\r\n", b"\0"]
BEHIND_IDS = ["alone", "crlf", "request", "chunk", "nul"]
places = st.lists(st.integers(0, 1000), max_size=12)


# Chunks.

# name, what arrives, its payload, what leaves in chunks
VALID = [
    row("nothing", LAST, b"", LAST),
    row("one", b"5\r\nhello\r\n" + LAST, b"hello", b"5\r\nhello\r\n" + LAST),
    row("two", b"5\r\nhello\r\n1\r\n!\r\n" + LAST, b"hello!", b"5\r\nhello\r\n1\r\n!\r\n" + LAST),
    row("hex", b"A\r\n0123456789\r\nb\r\n0123456789a\r\n" + LAST, b"01234567890123456789a",
        b"A\r\n0123456789\r\nb\r\n0123456789a\r\n" + LAST),
    row("leading-zeros", b"005\r\nhello\r\n" + LAST, b"hello", b"005\r\nhello\r\n" + LAST),
    row("15-digits", b"000000000000005\r\nhello\r\n" + LAST, b"hello",
        b"000000000000005\r\nhello\r\n" + LAST),
    row("zeros-at-the-end", b"5\r\nhello\r\n000\r\n\r\n", b"hello", b"5\r\nhello\r\n" + LAST),
    row("data-like-framing", b"7\r\n\r\n0\r\n\r\n\r\n" + LAST, b"\r\n0\r\n\r\n",
        b"7\r\n\r\n0\r\n\r\n\r\n" + LAST),
    row("row10-name", b"5;a\r\nhello\r\n" + LAST, b"hello", b"5\r\nhello\r\n" + LAST),
    row("row10-value", b"5;a=b;c\r\nhello\r\n" + LAST, b"hello", b"5\r\nhello\r\n" + LAST),
    row("row10-quoted", b'5;a="b;c \t\xff"\r\nhello\r\n' + LAST, b"hello",
        b"5\r\nhello\r\n" + LAST),
    row("row10-quoted-pair", b'5;a="\\"\\\\;\\\xff"\r\nhello\r\n' + LAST, b"hello",
        b"5\r\nhello\r\n" + LAST),
    row("row10-quoted-nothing", b'5;a=""\r\nhello\r\n' + LAST, b"hello", b"5\r\nhello\r\n" + LAST),
    row("row10-blank-before", b"5 ;a=b\r\nhello\r\n" + LAST, b"hello", b"5\r\nhello\r\n" + LAST),
    row("row10-blanks", b'5\t ; a\t= b \t;c =\t"d" ;e\r\nhello\r\n0 ;f\r\n\r\n', b"hello",
        b"5\r\nhello\r\n" + LAST),
    row("row10-second", b"1\r\na\r\n2;x\r\nbc\r\n1\r\nd\r\n" + LAST, b"abcd",
        b"1\r\na\r\n2\r\nbc\r\n1\r\nd\r\n" + LAST),
    row("row10-last-chunk", b"1\r\na\r\n0;a=b\r\n\r\n", b"a", b"1\r\na\r\n" + LAST),
    row("row10-4-KiB", b"5;%b\r\nhello\r\n" % (b"a" * 4096) + LAST, b"hello",
        b"5\r\nhello\r\n" + LAST),
    row("row11-trailer", b"1\r\na\r\n0\r\nX-T: b\r\n\r\n", b"a", b"1\r\na\r\n" + LAST),
    *(
        row(f"row11-{name.decode()}", b"1\r\na\r\n0\r\n%b\r\nY:\r\n\r\n" % name, b"a",
            b"1\r\na\r\n" + LAST)
        for name in (b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Host: b",
                     b"Authorization: x", b"Cookie: a=b")
    ),
    row("row11-both", b"1;x=y\r\na\r\n0;z\r\nA: b\r\nC: d\r\n\r\n", b"a", b"1\r\na\r\n" + LAST),
]  # fmt: skip

# Input; each is followed by more, so that the parser need not wait for a line's end.
INVALID = [
    *(
        row(f"row8-size-{size!r}", size + b"\r\nhello\r\n" + LAST)
        for size in (
            b"+5", b"-0", b"-5", b"0x5", b"0X5", b"5_0", b" 5", b"5 ", b"\t5", b"5\t", b"",
            b" ",
            b"g", b"5h", b"5.0", b"5,5", b"5:", b"\xd9\xa5", b"5\0", b"\x0b5", b"5\xa0", b"%35",
            b"10000000000000005", b"0" * 16 + b"5", b"0" * 17, b"f" * 17, b"f" * 100, b"f" * 16,
        )
    ),
    row("row8-size-plus-0", b"+0\r\n\r\n"),
    row("row8-size-minus-0", b"-0\r\n\r\n"),
    row("row8-size-0x0", b"0x0\r\n\r\n"),
    row("row8-crlf-before-the-size", b"\r\n5\r\nhello\r\n" + LAST),
    row("row9-lf-behind-the-size", b"5\nhello\r\n" + LAST),
    row("row9-cr-behind-the-size", b"5\rhello\r\n" + LAST),
    row("row9-cr-cr-lf-behind-the-size", b"5\r\r\nhello\r\n" + LAST),
    row("row9-lf-cr-behind-the-size", b"5\n\rhello\r\n" + LAST),
    row("row9-lf-behind-the-data", b"5\r\nhello\n" + LAST),
    row("row9-cr-behind-the-data", b"5\r\nhello\r" + LAST),
    row("row9-cr-cr-lf-behind-the-data", b"5\r\nhello\r\r\n" + LAST),
    row("row9-nothing-behind-the-data", b"5\r\nhello" + LAST),
    row("row9-too-much-data", b"5\r\nhello!\r\n" + LAST),
    row("row9-too-little-data", b"5\r\nhell\r\n" + LAST),
    row("row9-lf-behind-the-last-size", b"0\n\r\n\r\n"),
    row("row9-cr-behind-the-last-size", b"0\r0\r\n\r\n"),
    row("row9-only-lf", b"5\nhello\n0\n\n\r\n\r\n"),
    row("row9-lf-at-the-end", b"0\r\n\n\r\n\r\n"),
    row("row9-cr-at-the-end", b"0\r\n\r\r\n\r\n"),
    row("row10-lf", b"5;a\nb\r\nhello\r\n" + LAST),
    row("row10-cr", b"5;a\rb\r\nhello\r\n" + LAST),
    row("row10-lf-hides-a-size", b"2;\nxx\r\nab\r\n" + LAST),
    row("row10-lf-at-the-end", b"5;a\nhello\r\n" + LAST),
    row("row10-lf-in-quotes", b'5;a="\n"\r\nhello\r\n' + LAST),
    *(
        row(f"row10-{byte:#04x}", b"5;a%c\r\nhello\r\n" % byte + LAST)
        for byte in (0x00, 0x01, 0x08, 0x0B, 0x0C, 0x1F, 0x7F)
    ),
    row("row10-over-4-KiB", b"5;%b\r\nhello\r\n" % (b"a" * 5000) + LAST),
    row("row10-endless", b"5;" + b"a" * 5000),
    *(
        row(f"row10-grammar-{extension!r}", b"5%b\r\nhello\r\n" % extension + LAST)
        for extension in (
            b";", b"; ", b";;", b";;a", b";a;", b";a ", b";a=b ", b";=", b";=b", b";a=", b";a= ",
            b";a b", b";a=b c", b";a=b=c", b';a="b', b';a="b\\"', b';a=b"c"', b';a="b"c',
            b';a="b""c"', b';"a"', b";(a)", b";a=(b)", b";a=\xff", b";\xffa", b";a:b", b",a", b" a",
            b' ;a="b"=c', b';a="\\',
        )
    ),
    row("row10-no-semicolon", b"5 a=b\r\nhello\r\n" + LAST),
    *(
        row(f"row11-{name}", b"1\r\na\r\n0\r\n%b\r\n\r\n" % lines)
        for name, lines in {
            "no-colon": b"A", "empty-name": b": b", "space-before-colon": b"A : b",
            "fold": b"A: b\r\n c",
            "leading-space": b" A: b", "space-in-name": b"A b: c", "nul": b"A: \0",
            "ctl": b"A: \x01",
            "lf": b"A: b\nC: d", "cr": b"A: b\rC: d", "name-obs-text": b"A\x80: b",
            "next-request": NEXT[:-4], "too-long": b"A: " + b"b" * 9000,
            "many": b"A: b\r\n" * 2000 + b"A: b",
        }.items()
    ),
    row("row11-endless", b"0\r\nA: " + b"b" * 9000),
]  # fmt: skip


@pytest.mark.parametrize("behind", BEHIND, ids=BEHIND_IDS)
@pytest.mark.parametrize(("data", "payload", "chunks"), VALID)
def test_chunks_pass(data: bytes, payload: bytes, chunks: bytes, behind: bytes) -> None:
    for pieces in ways(data + behind):
        assert feed(ChunkedBody(keep_chunks=True), pieces) == (chunks, behind)
        assert feed(ChunkedBody(keep_chunks=False), pieces) == (payload, behind)


@pytest.mark.parametrize("keep_chunks", [True, False])
@pytest.mark.parametrize("data", INVALID)
def test_chunks_are_refused(data: bytes, keep_chunks: bool) -> None:
    whole, *others = ways(data)
    for pieces in (whole, *others[:40]):
        body = ChunkedBody(keep_chunks=keep_chunks)
        passed: list[bytes] = []
        with pytest.raises(InvalidBody):
            passed.extend(map(body.feed, pieces))
        assert not body.is_done
        assert not (keep_chunks and is_whole(b"".join(passed)))


@pytest.mark.parametrize(
    "garbage",
    [
        row("row8-no-digits", b"zz"),
        row("row8-space", b"5 x"),
        row("row8-16-digits", b"0" * 16),
        row("row9-cr", b"5\rx"),
        row("row9-cr-cr", b"5\r\r"),
        row("row9-cr-at-the-end", b"0\r\n\rx"),
        row("row9-lf-at-the-end", b"0\r\n\n"),
        row("row10-nul", b"5;\0"),
        row("row10-lf", b"5;a\n"),
        row("row10-no-name", b"5;="),
        row("row10-no-name-2", b"5;a;;"),
        row("row10-second-value", b"5;a=b="),
        row("row10-behind-quotes", b'5;a="b"c'),
        row("row10-in-quotes", b'5;a="\x7f'),
        row("row10-behind-a-backslash", b'5;a="\\\r'),
        row("row10-blank-at-the-end", b"5;a \r"),
        row("row11-no-colon", b"0\r\na\r"),
        row("row11-space", b"0\r\na "),
        row("row11-fold", b"0\r\na: b\r\n "),
        row("row11-nul", b"0\r\na: b\0"),
        row("row9-lf", b"5\n"),
        row("row9-behind-the-data", b"1\r\nab"),
    ],
)
def test_garbage_is_refused_when_it_comes(garbage: bytes) -> None:
    with pytest.raises(InvalidBody):
        ChunkedBody(keep_chunks=True).feed(garbage)


@pytest.mark.parametrize("keep_chunks", [True, False])
@pytest.mark.parametrize(("data", "payload", "chunks"), VALID)
def test_row12_row27_an_early_end(
    data: bytes, payload: bytes, chunks: bytes, keep_chunks: bool
) -> None:
    """Wherever a sender stops, its body is not complete, and what left does not look so."""
    body = ChunkedBody(keep_chunks=keep_chunks)
    passed = b""
    for piece in byte_by_byte(data):
        assert not body.is_done
        assert not (keep_chunks and is_whole(passed))
        with pytest.raises(InvalidBody):
            body.end()
        passed += body.feed(piece)
    assert body.is_done


def test_chunks_leave_when_they_come() -> None:
    """A token of a stream doesn't wait for the next."""
    body = ChunkedBody(keep_chunks=True)
    assert body.feed(b"5\r\nhello\r\n") == b"5\r\nhello\r\n"
    assert body.feed(b"5\r\nhe") == b"5\r\nhe"
    assert body.feed(b"llo") == b"llo"
    assert body.feed(b"\r\n") == b"\r\n"
    body = ChunkedBody(keep_chunks=False)
    assert body.feed(b"5\r\nhello\r\n") == b"hello"
    assert body.feed(b"5\r\nhe") == b"he"
    assert body.feed(b"llo\r") == b"llo"


@pytest.mark.parametrize("size_line", [b"%x", b"%X", b"0%x"])
def test_whole_chunks_are_not_copied(size_line: bytes) -> None:
    """Of any size: short ones are recognised by their length, others are parsed."""
    for size in range(1, MOST_KNOWN + 10):
        body = ChunkedBody(keep_chunks=True)
        data = size_line % size + b"\r\n" + bytes(size) + b"\r\n"
        assert body.feed(data) is data
        assert body.is_between_chunks


def test_a_chunk_without_its_end_is_no_whole_chunk() -> None:
    for size in range(1, MOST_KNOWN + 10):
        with pytest.raises(InvalidBody):
            ChunkedBody(keep_chunks=True).feed(b"%x\r\n%b" % (size, bytes(size + 2)))


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_chunk_whose_size_is_wrong_by_one_is_no_whole_chunk(wrong: int) -> None:
    for size in range(2, MOST_KNOWN + 10):
        body = ChunkedBody(keep_chunks=True)
        with pytest.raises(InvalidBody):
            body.feed(b"%x\r\n%b\r\n" % (size + wrong, bytes(size)))


def test_no_bytes_change_nothing() -> None:
    for keep_chunks in (True, False):
        body = ChunkedBody(keep_chunks=keep_chunks)
        for piece in byte_by_byte(b"1;x\r\na\r\n0\r\nA: b\r\n\r\n"):
            assert body.feed(b"") == b""
            body.feed(piece)
        assert body.is_done


@pytest.mark.parametrize("keep_chunks", [True, False])
@pytest.mark.parametrize("chunk", [
    b"1\r\na\r\n", b"1;x\r\na\r\n",
    # Lines that a pattern may try in many ways.
    b"1" + b" ;\ta = b" * 400 + b"\r\na\r\n", b'1;x="' + b'\\"' * 2000 + b'"\r\na\r\n',
])  # fmt: skip
def test_row10_small_chunks_cost_no_more_than_their_bytes(chunk: bytes, keep_chunks: bool) -> None:
    """512 KiB of the smallest chunks in one piece: a quadratic reader takes seconds."""
    data = chunk * (512 * 1024 // len(chunk))
    body = ChunkedBody(keep_chunks=keep_chunks)
    start = time.process_time()
    feed_all(body, data)
    assert time.process_time() - start < 0.5


MANY = 5 * MOST_CHUNKS


@pytest.mark.parametrize("keep_chunks", [True, False])
@pytest.mark.parametrize("chunk", [b"1\r\na\r\n", b"1;x\r\na\r\n"])
def test_one_feed_parses_a_bounded_number_of_chunks(chunk: bytes, keep_chunks: bool) -> None:
    body = ChunkedBody(keep_chunks=keep_chunks)
    left = b"a" if not keep_chunks else b"1\r\na\r\n"
    wire = chunk * MANY + b"0\r\nA: b\r\n\r\n" + NEXT
    assert body.feed(wire) == left * MOST_CHUNKS
    for parsed in range(MOST_CHUNKS, MANY, MOST_CHUNKS):
        assert body.behind == len(wire) - parsed * len(chunk)
        assert not body.is_done
        assert not body.is_between_chunks
        assert body.feed(b"") == left * MOST_CHUNKS
    assert body.behind
    assert body.feed(b"") == (LAST if keep_chunks else b"")
    assert (body.behind, body.is_done, body.excess) == (0, True, NEXT)


def test_what_is_behind_is_not_copied_by_each_feed() -> None:
    body = ChunkedBody(keep_chunks=True)
    body.feed(b"1\r\na\r\n" * MANY)
    held = body._held
    body.feed(b"")
    assert body._held is held


@pytest.mark.parametrize("keep_chunks", [True, False])
def test_bytes_that_come_while_some_are_behind_follow_them(keep_chunks: bool) -> None:
    wire = b"1\r\na\r\n" * MANY + b"5\r\nhello\r\n" + LAST
    body = ChunkedBody(keep_chunks=keep_chunks)
    passed = b"".join(body.feed(piece) for piece in cut(wire, [len(wire) // 2, len(wire) - 3]))
    assert body.behind
    passed += feed_all(body, b"")
    assert passed == (wire if keep_chunks else b"a" * MANY + b"hello")
    assert body.is_done


def test_what_is_behind_may_be_malformed() -> None:
    body = ChunkedBody(keep_chunks=True)
    assert body.feed(b"1\r\na\r\n" * MOST_CHUNKS + b"x") == b"1\r\na\r\n" * MOST_CHUNKS
    with pytest.raises(InvalidBody):
        body.feed(b"")


@pytest.mark.parametrize("keep_chunks", [True, False])
@pytest.mark.parametrize("held", [b"", b"1", b"1\r\na", b"1;" + b"x" * 4000 + b"\r"])
def test_a_short_read_is_never_behind(held: bytes, keep_chunks: bool) -> None:
    body = ChunkedBody(keep_chunks=keep_chunks)
    whole = held.partition(b"\r")[0] + b"\r\na\r\n" if held else b""
    body.feed(held)
    body.feed((whole.removeprefix(held) + b"1\r\na\r\n" * MOST_CHUNKS)[:NEVER_BEHIND])
    assert not body.behind


@examples(100)
@given(chunked_bodies(), st.binary(max_size=20), places)
def test_any_chunked_message(message: tuple[bytes, bytes], behind: bytes, at: list[int]) -> None:
    data, payload = message
    for pieces in (cut(data + behind, at), byte_by_byte(data + behind)):
        chunks, rest = feed(ChunkedBody(keep_chunks=True), pieces)
        assert (read_chunks(chunks), rest) == (payload, behind)
        assert h11_chunked(chunks) == (payload, b"")
        assert feed(ChunkedBody(keep_chunks=False), pieces) == (payload, behind)


# Without trailers that h11 interprets (and refuses, if malformed): here they are dropped unread.
_messages = st.one_of(
    chunked_bodies().map(lambda message: message[0]),
    st.sampled_from([case.values[0] for case in VALID if "-" not in str(case.id)[5:]]),
)


@examples(200)
@given(mutated(_messages), places)
def test_a_changed_message_is_refused_or_means_what_others_read(data: bytes, at: list[int]) -> None:
    results = []
    for keep_chunks in (True, False):
        for pieces in ([data], cut(data, at), byte_by_byte(data)):
            body = ChunkedBody(keep_chunks=keep_chunks)
            try:
                passed, rest = feed(body, pieces)
            except InvalidBody:
                results.append(None)
            else:
                results.append((read_chunks(passed) if keep_chunks else passed, rest))
    assert results == results[:1] * 6  # however it is cut
    if results[0] is not None:
        # h11 knows no blanks before an extension.
        assert results[0] == h11_chunked(re.sub(rb"(?m)^([0-9A-Fa-f]+)[ \t]+;", rb"\1;", data))


@examples(200)
@given(st.lists(st.one_of(st.binary(max_size=8), st.sampled_from([b"\r\n", b"0", b"1", LAST]))))
def test_any_bytes_are_chunks_or_refused(pieces: list[bytes]) -> None:
    try:
        passed, rest = feed(ChunkedBody(keep_chunks=True), pieces)
    except InvalidBody:
        return
    assert h11_chunked(b"".join(pieces)) == (read_chunks(passed), rest)


# A length.


@pytest.mark.parametrize("behind", BEHIND, ids=BEHIND_IDS)
@pytest.mark.parametrize(
    "payload", [b"a", b"hello", b"0\r\n\r\n", b"\0" * 100], ids=["1", "5", "chunk", "100"]
)
def test_row6_row28_a_length(payload: bytes, behind: bytes) -> None:
    for pieces in ways(payload + behind):
        assert feed(LengthBody(len(payload)), pieces) == (payload, behind)


def test_row6_a_length_of_0_is_done_at_once() -> None:
    """Nothing is fed then: what comes is the next request."""
    assert LengthBody(0).is_done


@pytest.mark.parametrize("sent", [0, 1, 4])
def test_row12_row27_a_length_ends_early(sent: int) -> None:
    body = LengthBody(5)
    assert body.feed(b"hello"[:sent]) == b"hello"[:sent]
    assert not body.is_done
    with pytest.raises(InvalidBody, match=f"{5 - sent} bytes"):
        body.end()


@examples(100)
@given(st.binary(min_size=1, max_size=60), st.binary(max_size=20), places)
def test_any_length(payload: bytes, behind: bytes, at: list[int]) -> None:
    assert feed(LengthBody(len(payload)), cut(payload + behind, at)) == (payload, behind)


# Until the connection ends.


@examples(100)
@given(st.binary(max_size=60), places)
def test_until_the_end(payload: bytes, at: list[int]) -> None:
    for pieces in (cut(payload, at), byte_by_byte(payload)):
        assert feed(UntilCloseBody(chunked=False), pieces) == (payload, b"")
        chunks, rest = feed(UntilCloseBody(chunked=True), pieces)
        assert (read_chunks(chunks), rest) == (payload, b"")


def test_row27_only_the_end_is_an_end() -> None:
    body = UntilCloseBody(chunked=True)
    assert body.feed(b"hello") == b"5\r\nhello\r\n"
    assert not body.is_done
    assert body.feed(b"") == b""  # a chunk of size 0 would be the last one
    assert body.end() == LAST
    assert body.is_done


# Which one.


@pytest.mark.parametrize(
    ("length", "data", "to_http11", "to_http10"),
    [
        (5, b"hello", b"hello", b"hello"),
        (CHUNKED, b"5;x\r\nhello\r\n0\r\nA: b\r\n\r\n", b"5\r\nhello\r\n" + LAST, b"hello"),
        (UNTIL_CLOSE, b"hello", b"5\r\nhello\r\n" + LAST, b"hello"),
    ],
)
def test_row25_what_each_version_gets(
    length: int, data: bytes, to_http11: bytes, to_http10: bytes
) -> None:
    assert feed(make_body(length, to_http11=True), [data])[0] == to_http11
    assert feed(make_body(length, to_http11=False), [data])[0] == to_http10
