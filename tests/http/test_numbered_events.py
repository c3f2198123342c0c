"""Events get ids and are kept; nothing else of a stream changes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hermes_lb.errors import InvalidBody
from hermes_lb.http import CHUNKED, UNTIL_CLOSE, make_body
from hermes_lb.http.numbered_events import NumberedEvents


class Kept:
    """The kept events of a stream, their count, and the numbers of those that were skipped."""

    def __init__(self) -> None:
        self.data = b""
        self.count = 0
        self.skipped: list[int] = []

    def append(self, data: bytes, events: int) -> None:
        self.data += data
        self.count += events

    def skip(self) -> None:
        self.count += 1
        self.skipped.append(self.count)


def chunks(*parts: bytes, last: bool = True) -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return framed + b"0\r\n\r\n" if last else framed


def numbered(*feeds: bytes, length: int = CHUNKED, **options: Any) -> tuple[bytes, Kept]:
    """What leaves, without its chunks, and what is kept."""
    kept = Kept()
    body = NumberedEvents(length, b"T.", kept, **{"most_in_event": 1000, **options})
    plain = make_body(CHUNKED, to_http11=False)
    passed = b""
    for data in feeds:
        passed += plain.feed(body.feed(data))
        while body.behind:
            passed += plain.feed(body.feed(b""))
    if length == UNTIL_CLOSE:
        passed += plain.feed(body.end())
    assert body.is_done == plain.is_done
    return passed, kept


@pytest.mark.parametrize(
    ("came", "leaves"),
    [
        (b"data: a\n\n", b"id: T.1\ndata: a\n\n"),
        (b"data: a\r\n\r\n", b"id: T.1\r\ndata: a\r\n\r\n"),
        (b"data: a\r\r", b"id: T.1\rdata: a\r\r"),
        (b"data: a\n\ndata: b\n\n", b"id: T.1\ndata: a\n\nid: T.2\ndata: b\n\n"),
        # Its own id stays, and counts.
        (b"id: x\ndata: a\n\ndata: b\n\n", b"id: x\ndata: a\n\nid: T.2\ndata: b\n\n"),
        (b"data: a\nid: x\n\n", b"data: a\nid: x\n\n"),
        (b"data: a\rid: x\r\r", b"data: a\rid: x\r\r"),
        (b"data: a\nid\n\n", b"data: a\nid\n\n"),
        (b"data: a\nidx: x\n\n", b"id: T.1\ndata: a\nidx: x\n\n"),
        (b"event: e\ndata: a\nid: x\n\n", b"event: e\ndata: a\nid: x\n\n"),
        # A mark of the byte order is the first thing in a stream.
        (b"\xef\xbb\xbfdata: a\n\n", b"\xef\xbb\xbfid: T.1\ndata: a\n\n"),
        # Comments lose their blank line, and stray blank lines go.
        (b": ping\n\ndata: a\n\n", b": ping\nid: T.1\ndata: a\n\n"),
        (b": a\r\n: b\r\n\r\ndata: a\r\n\r\n", b": a\r\n: b\r\nid: T.1\r\ndata: a\r\n\r\n"),
        (b":\n\n:\n\n", b":\n:\n"),
        (b"\n\n\ndata: a\n\n\n\ndata: b\n\n", b"id: T.1\ndata: a\n\nid: T.2\ndata: b\n\n"),
        (b": c\ndata: a\n\n", b"id: T.1\n: c\ndata: a\n\n"),
        (b"retry: 5\n\n", b"id: T.1\nretry: 5\n\n"),
    ],
)
def test_each_event_gets_an_id_wherever_it_is_cut(came: bytes, leaves: bytes) -> None:
    comments = leaves.startswith(b":")
    wire = chunks(came)
    for feeds in [
        [wire],
        [wire[i : i + 1] for i in range(len(wire))],
        [chunks(*(came[i : i + 1] for i in range(len(came))))],
        [chunks(came, last=False), b"0\r\n\r\n"],
    ]:
        passed, kept = numbered(*feeds)
        assert passed == leaves
        if not comments:
            assert kept.data in leaves.removeprefix(b"\xef\xbb\xbf")
        assert b": ping" not in kept.data
        assert not kept.skipped


def test_only_what_was_passed_whole_is_kept() -> None:
    passed, kept = numbered(chunks(b"data: a\n\ndata: b\nda"))
    assert passed == b"id: T.1\ndata: a\n\ndata: b\nda"
    assert (kept.data, kept.count) == (b"id: T.1\ndata: a\n\n", 1)


def test_a_token_takes_the_short_way_and_the_same_bytes() -> None:
    token = b'data: {"delta": "x"}\n\n'
    feeds = [chunks(token, last=False)] * 3
    passed, kept = numbered(*feeds, b"0\r\n\r\n")
    assert passed == b"".join(b"id: T.%d\n%b" % (n, token) for n in (1, 2, 3))
    assert (kept.data, kept.count) == (passed, 3)


@pytest.mark.parametrize("cut", [3, 500, 1200])
def test_a_long_event_is_passed_on_and_not_kept(cut: int) -> None:
    long = b"data: " + b"x" * 1500 + b"\n\n"
    came = b"data: a\n\n" + long + b"data: b\n\n"
    passed, kept = numbered(chunks(came[:cut], last=False), chunks(came[cut:]), most_in_event=1000)
    assert passed == b"id: T.1\ndata: a\n\nid: T.2\n" + long + b"id: T.3\ndata: b\n\n"
    assert (kept.count, kept.skipped) == (3, [2])
    assert kept.data == b"id: T.1\ndata: a\n\nid: T.3\ndata: b\n\n"


def test_a_stream_that_ends_with_its_connection() -> None:
    passed, kept = numbered(b"data: a\n", b"\ndata: b", length=UNTIL_CLOSE)
    assert passed == b"id: T.1\ndata: a\n\ndata: b"
    assert kept.count == 1


def test_a_stream_that_is_cut_has_no_end() -> None:
    kept = Kept()
    body = NumberedEvents(CHUNKED, b"T.", kept, most_in_event=1000)
    body.feed(chunks(b"data: a\n\n", last=False))
    with pytest.raises(InvalidBody):
        body.end()


@pytest.mark.parametrize("event", [b"data:\n\n", b"a\n\n", b"a\r\r", b"a\r\n\r\n"])
def test_one_feed_looks_at_a_bounded_part(event: bytes) -> None:
    """At few events, not at few bytes: each costs the same, however short it is."""
    kept = Kept()
    body = NumberedEvents(CHUNKED, b"T.", kept, most_in_event=1000)
    body.feed(chunks(event * 30_000, last=False))
    counts = [kept.count]
    while body.behind:
        body.feed(b"")
        counts.append(kept.count)
    assert kept.count == 30_000
    assert max(after - before for before, after in pairwise([0, *counts])) <= 700


LINES = st.sampled_from(
    [b"data: a", b"data", b"event: e", b"id: own", b"id", b": c", b"retry: 1", b"x: y", b""]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(
    st.lists(st.tuples(LINES, ENDS), max_size=30), st.lists(st.integers(0, 60), max_size=5), ENDS
)
@example([(b"data: a", b""), (b"", b"")] * 2, [14], b"\r\n")
@example([(line, b"") for line in (b"data: a", b"data", b"data", b"", b"")], [23], b"\n")
def test_the_cuts_of_a_stream_do_not_matter(
    lines: list[tuple[bytes, bytes]], cuts: list[int], end: bytes
) -> None:
    came = b"".join(line + end for line, _ in lines)
    whole, kept = numbered(chunks(came))
    wire = chunks(came)
    places = sorted({0, *(cut % len(wire) for cut in cuts), len(wire)})
    feeds = [wire[a:b] for a, b in pairwise(places)]
    in_parts, kept_in_parts = numbered(*feeds)
    assert in_parts == whole
    assert (kept_in_parts.data, kept_in_parts.count) == (kept.data, kept.count)
