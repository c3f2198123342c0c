"""The body of an event stream: whole events out, whatever arrives from which server."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.errors import InvalidBody
from hermes_lb.http import CHUNKED, UNTIL_CLOSE, sse
from hermes_lb.http.body import MOST_KNOWN
from hermes_lb.http.sse import (
    MOST_AT_ONCE,
    MOST_IN_EVENT,
    EventsBody,
    UnnumberedEventsBody,
)
from tests.support.bodies import feed_all

LAST = b"0\r\n\r\n"
HELLO = b'id: 1-1\nevent: message.delta\ndata: {"content":"hello"}\n\n'
DONE = b"id: 1-2\nevent: done\ndata: {}\n\n"
HANDOVER = b'event: handover\ndata: {"turn":"1"}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def unchunked(wire: bytes) -> bytes:
    """The data of whole chunks, without the last one."""
    data = b""
    while wire and wire != LAST:
        size, _, rest = wire.partition(b"\r\n")
        length = int(size, 16)
        assert length, "the last chunk is not the last thing"
        assert rest[length : length + 2] == b"\r\n"
        data, wire = data + rest[:length], rest[length + 2 :]
    return data


def stream(length: int = CHUNKED) -> EventsBody:
    return EventsBody(length, resumes=True)


def test_a_chunk_with_an_event_passes_as_it_is() -> None:
    body = stream()
    wire = chunk(HELLO)
    assert body.feed(wire) is wire
    assert body.last_id == b"1-1"
    assert not body.is_done


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_an_event_of_any_size_passes_as_it_is(end: bytes) -> None:
    for size in range(1, MOST_KNOWN + 10):
        body = stream()
        wire = chunk(b"id: 1\ndata: %b%b" % (b"x" * size, end))
        assert body.feed(wire) == wire
        assert body.last_id == b"1"


def test_an_event_in_a_chunk_without_its_end_does_not_pass() -> None:
    with pytest.raises(InvalidBody):
        stream().feed(chunk(HELLO)[:-2] + b"\0\0")


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("wrong", [-1, 1])
def test_an_event_in_a_chunk_of_a_wrong_size_does_not_pass(wrong: int, end: bytes) -> None:
    for size in range(1, MOST_KNOWN + 10):
        event = b"id: 1\ndata: %b%b" % (b"x" * size, end)
        with pytest.raises(InvalidBody):
            stream().feed(b"%x\r\n%b\r\n" % (len(event) + wrong, event))


def test_half_an_event_waits_for_its_other_half() -> None:
    body = stream()
    assert body.feed(chunk(HELLO + DONE[:9])) == chunk(HELLO)
    assert body.last_id == b"1-1"
    assert body.feed(chunk(DONE[9:])) == chunk(DONE)
    assert body.last_id == b"1-2"


def test_a_stream_that_ends_by_its_framing_ends() -> None:
    body = stream()
    body.feed(chunk(HELLO))
    assert body.feed(LAST) == LAST
    assert (body.is_done, body.is_handed_over) == (True, False)


def test_what_is_no_whole_event_at_the_end_passes_as_it_came() -> None:
    body = stream()
    assert body.feed(chunk(HELLO + b"data: x") + LAST) == chunk(HELLO + b"data: x") + LAST


@pytest.mark.parametrize("length", [CHUNKED, UNTIL_CLOSE, 1000])
def test_a_connection_that_ends_early_breaks_the_stream(length: int) -> None:
    body = stream(length)
    body.feed(chunk(HELLO) if length == CHUNKED else HELLO)
    with pytest.raises(InvalidBody):
        body.end()


@pytest.mark.parametrize("length", [CHUNKED, UNTIL_CLOSE])
def test_behind_done_only_framing_can_be_missing(length: int) -> None:
    body = stream(length)
    for event in (HELLO, DONE, b": a comment\n\n"):
        body.feed(chunk(event) if length == CHUNKED else event)
    assert body.has_ended
    assert body.end() == LAST
    assert body.is_done


def test_without_resuming_the_connections_end_is_the_end() -> None:
    body = EventsBody(UNTIL_CLOSE, resumes=False)
    assert body.feed(HELLO + b"data: x") == chunk(HELLO)
    assert body.end() == chunk(b"data: x") + LAST


def test_the_next_server_goes_on_behind_the_last_whole_event() -> None:
    body = stream()
    body.feed(chunk(HELLO + DONE[:9]))
    body.go_on(UNTIL_CLOSE)
    assert body.feed(DONE) == chunk(DONE)
    body.go_on(len(DONE))
    assert body.feed(DONE) == chunk(DONE) + LAST
    assert body.is_done


@pytest.mark.parametrize(
    "wire",
    [chunk(HELLO) + chunk(HANDOVER), chunk(HELLO + HANDOVER), chunk(HELLO + HANDOVER + DONE)],
)
def test_a_handover_is_not_for_the_client(wire: bytes) -> None:
    body = stream()
    assert body.feed(wire) == chunk(HELLO)
    assert (body.is_done, body.is_handed_over) == (True, True)
    assert body.excess.startswith(HANDOVER)
    body.go_on(CHUNKED)
    assert (body.is_done, body.is_handed_over) == (False, False)


def test_a_text_about_handovers_is_none() -> None:
    body = stream()
    event = b"id: 1-3\ndata: event: handover\n\n"
    assert body.feed(chunk(event)) == chunk(event)
    assert not body.is_done


def test_an_event_that_is_too_large_passes_and_ends_resuming() -> None:
    body = stream(UNTIL_CLOSE)
    start = b"data: " + b"x" * MOST_IN_EVENT
    assert feed_all(body, start) == chunk(start)
    assert not body.is_whole
    assert body.feed(b"y\n\nda") == chunk(b"y\n\n")
    assert body.end() == chunk(b"da") + LAST


@pytest.mark.parametrize(
    ("events", "last"),
    [
        (b"id: 7\ndata: x\n\n", b"7"),
        (b"id:7\r\ndata: x\r\n\r\n", b"7"),
        (b"data: x\nid:  7 \n\n", b" 7 "),
        (b"id: 7\n\nid: 8\ndata:\n\n", b"8"),
        (b'data: "\\nid: 9"\nid: 7\n\n', b"7"),
        (b"id: 7\nid: 8\0\n\n", b"7"),
        (b"data: id: 7\n\n", b""),
        (b"id: 7\n\nid\n\n", b""),
    ],
)
def test_the_last_id(events: bytes, last: bytes) -> None:
    body = stream()
    body.feed(chunk(events))
    assert body.last_id == last


def test_an_event_without_an_id_leaves_the_last_one() -> None:
    body = stream()
    for event in (HELLO, b": a comment\n\n", b"data: no id\n\n"):
        body.feed(chunk(event))
    assert body.last_id == b"1-1"


def test_malformed_chunks_break_the_stream() -> None:
    body = stream()
    with pytest.raises(InvalidBody):
        body.feed(b"5\r\nid: 1\n\n\r\n")


LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
EVENTS = st.lists(
    st.tuples(st.lists(st.sampled_from([b"id: 4", b"data: x", b": c", b"event: done"])), LINE_ENDS),
    max_size=8,
)


@given(EVENTS, st.data())
def test_only_whole_events_leave_and_nothing_is_lost(
    events: list[tuple[list[bytes], bytes]], data: st.DataObject
) -> None:
    wire = b"".join(end.join(lines) + 2 * end for lines, end in events if lines)
    body = stream(UNTIL_CLOSE)
    passed = b""
    position = 0
    while position < len(wire):
        size = data.draw(st.integers(1, len(wire) - position))
        out = unchunked(body.feed(wire[position : position + size]))
        position += size
        passed += out
        assert wire.startswith(passed)
        if out:
            assert re.search(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)\Z", passed)
    # The LF of a CRLF that was cut in two may wait for what comes next: its CR has ended the event.
    assert passed in (wire, wire.removesuffix(b"\n"))


@given(EVENTS, st.data())
def test_chunks_cut_anywhere_mean_the_same(
    events: list[tuple[list[bytes], bytes]], data: st.DataObject
) -> None:
    wire = b"".join(chunk(end.join(lines) + 2 * end) for lines, end in events if lines) + LAST
    body = stream()
    passed = b""
    position = 0
    while position < len(wire):
        size = data.draw(st.integers(1, len(wire) - position))
        passed += body.feed(wire[position : position + size])
        position += size
    assert body.is_done
    assert passed.endswith(LAST)
    assert unchunked(passed) == unchunked(wire)


LONG = b"id: 1-2\ndata: " + b"x" * MOST_IN_EVENT


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\r\n\n"])
@pytest.mark.parametrize("cut", [len(LONG) - 1, len(LONG), len(LONG) + 1])
def test_a_handover_behind_an_event_that_was_too_long_is_not_for_the_client(
    end: bytes, cut: int
) -> None:
    body = stream()
    wire = LONG + end
    passed = feed_all(body, chunk(wire[:cut]))
    for i in range(cut, len(wire)):
        passed += body.feed(chunk(wire[i : i + 1]))
    passed += body.feed(chunk(HELLO + HANDOVER))
    assert unchunked(passed) == LONG + end + HELLO
    assert (body.is_done, body.is_handed_over, body.is_whole) == (True, True, False)


@pytest.mark.parametrize("cut", range(len(HANDOVER)))
def test_a_handover_that_comes_in_parts_is_found_behind_a_long_event(cut: int) -> None:
    body = stream()
    passed = feed_all(body, chunk(LONG)) + body.feed(chunk(b"\n\n" + HANDOVER[:cut]))
    passed += body.feed(chunk(HANDOVER[cut:]))
    assert unchunked(passed) == LONG + b"\n\n"
    assert body.is_handed_over


def test_what_looks_like_a_handover_within_a_long_event_is_none() -> None:
    body = stream()
    parts = [LONG, HANDOVER, b"id: 1-3\n\n", LONG, b"id: 1-3\n\n", b"data: behind it\n\n"]
    wire = [chunk(part) for part in parts]
    assert unchunked(b"".join(feed_all(body, part) for part in wire)) == b"".join(parts)
    assert not body.is_done
    assert body.feed(chunk(HANDOVER)) == b""
    assert body.is_handed_over


@pytest.mark.parametrize("length", [CHUNKED, UNTIL_CLOSE])
def test_one_feed_looks_at_a_bounded_number_of_bytes(length: int) -> None:
    body = stream(length)
    events = HELLO * (3 * MOST_AT_ONCE // len(HELLO))
    wire = chunk(events) + chunk(HELLO) + LAST if length == CHUNKED else events
    passed = body.feed(wire)
    assert body.behind
    assert 0 < len(passed) <= 2 * MOST_AT_ONCE
    if length == CHUNKED:
        passed += body.feed(chunk(DONE))  # it comes behind what waits, the end: it is too much
    passed += feed_all(body, b"")
    assert (body.behind, body.is_done) == (0, length == CHUNKED)
    assert unchunked(passed) == events + (HELLO if length == CHUNKED else b"")
    assert body.excess == (chunk(DONE) if length == CHUNKED else b"")
    assert body.last_id == b"1-1"


def test_many_small_chunks_of_events_are_parsed_in_parts() -> None:
    body = stream()
    wire = b"".join(chunk(HELLO[i : i + 1]) for i in range(len(HELLO))) * 20
    assert len(wire) <= MOST_AT_ONCE
    passed = body.feed(wire)
    assert body.behind
    passed += body.feed(chunk(DONE))
    passed += feed_all(body, b"")
    assert unchunked(passed) == HELLO * 20 + DONE
    assert body.has_ended


def test_a_handover_leaves_nothing_behind() -> None:
    body = stream()
    passed = body.feed(chunk(HELLO + HANDOVER) + chunk(HELLO * MOST_AT_ONCE))
    assert (passed, body.is_handed_over, body.behind) == (chunk(HELLO), True, 0)
    body.go_on(CHUNKED)
    assert body.feed(chunk(DONE)) == chunk(DONE)


def test_a_stream_starts_behind_the_id_that_its_client_has_said() -> None:
    body = EventsBody(CHUNKED, resumes=True, after=b"1-0")
    body.feed(chunk(b": a comment\n\n"))
    assert body.last_id == b"1-0"
    body.go_on(CHUNKED)
    assert body.last_id == b"1-0"
    body.feed(chunk(HELLO))
    assert body.last_id == b"1-1"


@pytest.mark.parametrize("line", [b"data: x", b"data: x\n", b"data: x\r\n", b"data: x\r"])
def test_an_event_in_pieces_is_searched_and_copied_once(
    line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linear in its size: the work for a piece does not grow with what is held already."""
    searched = 0

    def search(data: bytes | bytearray, start: int) -> int:
        nonlocal searched
        searched += len(data) - start
        return end_of_last_event(data, start)

    end_of_last_event = sse.end_of_last_event
    monkeypatch.setattr(sse, "end_of_last_event", search)
    body = stream(UNTIL_CLOSE)
    event = line * (MOST_IN_EVENT // len(line) // 4)
    body.feed(event[:1])
    held = body._held
    for i in range(1, len(event)):
        assert body.feed(event[i : i + 1]) == b""
        assert body._held is held  # it has grown in place
    assert searched <= 4 * len(event)
    assert body.feed(b"\n\n") == chunk(event + b"\n\n")
    assert body.feed(HELLO) == chunk(HELLO)
    assert body.last_id == b"1-1"


# For a client whose version frames a body itself (HTTP/2).


@pytest.mark.parametrize("kind", [EventsBody, UnnumberedEventsBody])
@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("length", [CHUNKED, UNTIL_CLOSE])
@pytest.mark.parametrize("events", [HELLO + DONE, HELLO + HANDOVER + DONE, HELLO + b"data: x"])
def test_without_chunks_the_same_events_leave(
    kind: type[EventsBody], step: int, length: int, events: bytes
) -> None:
    wire = chunk(events) + LAST if length == CHUNKED else events
    as_chunks, as_they_are = (
        kind(length, resumes=HANDOVER in events, to_chunks=to_chunks) for to_chunks in (True, False)
    )
    passed, plain = b"", b""
    for at in range(0, len(wire), step):
        if not as_chunks.is_done:
            passed += as_chunks.feed(wire[at : at + step])
            plain += as_they_are.feed(wire[at : at + step])
    if not as_chunks.is_done:
        passed += as_chunks.end()
        plain += as_they_are.end()
    assert unchunked(passed) == plain != b""
    assert as_they_are.is_handed_over == as_chunks.is_handed_over == (HANDOVER in events)
    assert as_they_are.last_id == as_chunks.last_id
    assert as_they_are.frame(b": hi\n\n") == b": hi\n\n"


# Without ids.


def unnumbered(length: int = CHUNKED) -> UnnumberedEventsBody:
    return UnnumberedEventsBody(length, resumes=True)


@pytest.mark.parametrize(
    ("events", "passed"),
    [
        (HELLO, HELLO.removeprefix(b"id: 1-1\n")),
        (b"id: 7\r\ndata: x\r\n\r\n", b"data: x\r\n\r\n"),
        (b"data: x\rid: 7\n\n", b"data: x\r\n"),
        (b"data: a\nid:7\ndata: b\n\nid\ndata: c\n\n", b"data: a\ndata: b\n\ndata: c\n\n"),
        (b"id: 7\n\n", b"\n"),
        # No ids.
        (b"idle: 7\ndata: id: 7\nid : 7\n: id\n\n", b"idle: 7\ndata: id: 7\nid : 7\n: id\n\n"),
    ],
)
@pytest.mark.parametrize("step", [1, 5, 1000])
@pytest.mark.parametrize("is_chunked", [True, False])
def test_ids_are_left_out_and_known_all_the_same(
    events: bytes, passed: bytes, step: int, is_chunked: bool
) -> None:
    body = unnumbered(CHUNKED if is_chunked else UNTIL_CLOSE)
    known = stream(CHUNKED if is_chunked else UNTIL_CLOSE)
    events += DONE
    sent = chunk(events) + LAST if is_chunked else events
    wire = b"".join(body.feed(sent[i : i + step]) for i in range(0, len(sent), step))
    known.feed(sent)
    if not is_chunked:
        wire += body.end()
        known.end()
    assert unchunked(wire) == passed + DONE.removeprefix(b"id: 1-2\n")
    assert wire.endswith(LAST)
    assert body.last_id == known.last_id == b"1-2"
    assert body.is_done
    assert body.has_ended


def test_what_looks_like_an_id_within_an_event_that_passes_in_parts_stays() -> None:
    body = unnumbered()
    long = b"data: " + b"x" * MOST_IN_EVENT
    rest = b"id: y\n\nid: 8\ndata: z\n\n"
    wire = feed_all(body, chunk(b"id: 7\n" + long)) + feed_all(body, chunk(rest))
    assert unchunked(wire) == long + b"id: y\n\ndata: z\n\n"


def test_a_stream_without_ids_is_handed_over_and_goes_on() -> None:
    body = unnumbered()
    assert unchunked(body.feed(chunk(HELLO + HANDOVER))) == HELLO.removeprefix(b"id: 1-1\n")
    assert body.is_handed_over
    assert body.last_id == b"1-1"
    body.go_on(CHUNKED)
    assert body.feed(chunk(DONE) + LAST) == chunk(DONE.removeprefix(b"id: 1-2\n")) + LAST
