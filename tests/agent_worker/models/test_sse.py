from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.models.sse import EventParser, EventTooLarge, ServerEvent


def parse(stream: bytes, *cuts: int) -> list[ServerEvent]:
    parser = EventParser()
    places = [0, *sorted(cuts), len(stream)]
    return [
        event
        for begin, end in itertools.pairwise(places)
        for event in parser.feed(stream[begin:end])
    ]


def data(*texts: str) -> list[ServerEvent]:
    return [ServerEvent("", text) for text in texts]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        ("data: a\n\ndata: b\n\n", data("a", "b")),
        ("data: a\r\n\r\ndata: b\r\n\r\n", data("a", "b")),
        ("data: a\r\rdata: b\r\r", data("a", "b")),
        ("data: a\r\ndata: b\r\n\r\n", data("a\nb")),
        ("data:a\n\n", data("a")),
        ("data:  a\n\n", data(" a")),
        ("data: a\ndata\ndata: b\n\n", data("a\n\nb")),
        ("event: e\ndata: a\n\ndata: b\n\n", [ServerEvent("e", "a"), ServerEvent("", "b")]),
        ("event: e\n\ndata: b\n\n", data("b")),
        (": comment\n\n: another\ndata: a\n\n", data("a")),
        ("id: 1\nretry: 5\nother: x\ndata: a\n\n", data("a")),
        ("\ufeffdata: a\n\n", data("a")),
        ("data: a:b\u2028c\x0bd\n\n", data("a:b\u2028c\x0bd")),
        ("data: cut off", []),
        ("data: cut off\n", []),
    ],
)
def test_streams_whole_and_byte_by_byte(stream: str, events: list[ServerEvent]) -> None:
    encoded = stream.encode()
    assert parse(encoded) == events
    assert parse(encoded, *range(len(encoded))) == events


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8")), min_size=1),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 300)),
)
def test_what_is_sent_arrives_wherever_it_is_cut(
    texts: list[str], end: str, cuts: list[int]
) -> None:
    stream = "".join(f": note{end}data: {text}{end}{end}" for text in texts).encode()
    assert parse(stream, *(cut for cut in cuts if cut < len(stream))) == data(*texts)


@given(st.binary(), st.lists(st.integers(0, 50)))
def test_any_bytes_are_read(stream: bytes, cuts: list[int]) -> None:
    cuts = [cut for cut in cuts if cut < len(stream)]
    assert parse(stream, *cuts) == parse(stream)


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    assert parse(b"data: \xff\n\n") == data("\ufffd")


def test_a_line_is_given_out_without_a_look_at_the_next_one() -> None:
    assert EventParser().feed(b"data: a\r\r") == data("a")


@pytest.mark.parametrize("part", [b"x", b"data: x\n", b"event: x\n"])
def test_an_event_without_end_is_refused(part: bytes) -> None:
    parser = EventParser(max_event=1000)
    for _ in range(100):
        parser.feed(part)
    with pytest.raises(EventTooLarge):
        parser.feed(part * 1000)


def test_the_bound_is_for_each_event() -> None:
    parser = EventParser(max_event=100)
    for _ in range(100):
        parser.feed(b": " + b"c" * 90 + b"\n")
        assert parser.feed(b"data: " + b"x" * 90 + b"\n\n") == data("x" * 90)
