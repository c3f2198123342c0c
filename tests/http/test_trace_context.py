"""Which `traceparent` is passed on, and what one of ours looks like (W3C Trace Context)."""

from __future__ import annotations

import re
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.config import Limits
from hermes_lb.http import RequestParser
from hermes_lb.http.trace_context import NewTraces, trace_id_of

if TYPE_CHECKING:
    from hermes_lb.http import RequestHead

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"


def parse(*fields: str, method: str = "GET", body: str = "") -> RequestHead:
    lines = [f"{method} / HTTP/1.1", "Host: a", *fields]
    return RequestParser(Limits()).parse("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")


@pytest.mark.parametrize(
    "value",
    [
        VALID,
        f"00-{TRACE}-{SPAN}-00",
        f"00-{TRACE}-{SPAN}-ff",
        f"01-{TRACE}-{SPAN}-01",  # a later version, as far as ours knows it
        f"cc-{TRACE}-{SPAN}-01-what the-future-brings".replace(" ", "."),
        f"cc-{TRACE}-{SPAN}-01-",
    ],
)
def test_a_valid_one_names_the_trace(value: str) -> None:
    assert trace_id_of([value.encode()]) == TRACE.encode()


@pytest.mark.parametrize(
    "value",
    [
        "",
        TRACE,
        VALID[:-1],
        VALID + "0",
        VALID + "-00",  # version 00 has no more than that
        f"ff-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.x",
        f"0-{TRACE}-{SPAN}-01",
        f"0x-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE}-{SPAN}-0A",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}1-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        VALID + "\n",
        f"{VALID},{VALID}",
    ],
)
def test_an_invalid_one_names_none(value: str) -> None:
    assert trace_id_of([value.encode()]) == b""


def test_two_of_them_name_none() -> None:
    assert trace_id_of([VALID.encode()] * 2) == b""
    assert trace_id_of([]) == b""


@given(value=st.binary(max_size=80))
def test_no_bytes_are_taken_for_a_trace_but_hex_digits(value: bytes) -> None:
    assert re.fullmatch(rb"[0-9a-f]{32}|", trace_id_of([value]))


@pytest.mark.parametrize("name", ["traceparent", "Traceparent", "TRACEPARENT"])
def test_a_valid_one_is_passed_on_as_it_came_with_its_state(name: str) -> None:
    head = parse(f"{name}: {VALID}", "tracestate: a=1,b=2", "tracestate: c=3")
    assert head.trace_id == TRACE.encode()
    assert head.forwarded == (
        f"{name}: {VALID}\r\ntracestate: a=1,b=2\r\ntracestate: c=3\r\n".encode()
    )


@pytest.mark.parametrize(
    "fields",
    [
        ["traceparent: nonsense", "tracestate: a=1"],
        ["tracestate: a=1"],
        [f"traceparent: {VALID}", f"Traceparent: {VALID}", "tracestate: a=1"],
        ["traceparent:", "tracestate:"],
    ],
)
def test_without_a_valid_one_neither_is_passed_on(fields: list[str]) -> None:
    head = parse("X-Before: 1", *fields, "X-After: 2")
    assert head.trace_id == b""
    assert head.forwarded == b"X-Before: 1\r\nX-After: 2\r\n"


def test_blanks_around_it_do_not_matter() -> None:
    assert parse(f"traceparent: \t {VALID} \t").trace_id == TRACE.encode()


def test_a_client_cannot_have_it_taken_away() -> None:
    """By naming it in Connection: the trace would go on under another id behind us."""
    head = parse(f"traceparent: {VALID}", "tracestate: a=1", "Connection: traceparent, tracestate")
    assert head.trace_id == TRACE.encode()
    assert head.forwarded == f"traceparent: {VALID}\r\ntracestate: a=1\r\n".encode()


def test_a_head_that_comes_again_has_its_trace_again() -> None:
    parser = RequestParser(Limits())
    data = f"GET / HTTP/1.1\r\nHost: a\r\ntraceparent: {VALID}\r\n\r\n".encode()
    heads = [parser.parse(data) for _ in range(3)]
    assert [head.trace_id for head in heads] == [TRACE.encode()] * 3


def test_one_that_is_made_is_valid_and_another_each_time() -> None:
    made = set()
    traces = NewTraces(Random(1))
    for _ in range(200):
        head = parse("X: y")
        traces.start(head)
        before, line, after = re.split(rb"(traceparent: [^\r]*)", head.forwarded)
        assert (before, after) == (b"X: y\r\n", b"\r\n")
        value = line.removeprefix(b"traceparent: ")
        assert value.startswith(b"00-")
        assert value.endswith(b"-01")
        assert trace_id_of([value]) == head.trace_id
        made.add(head.trace_id)
    assert len(made) == 200


def test_a_trace_that_is_made_for_one_head_is_not_the_next_ones() -> None:
    """Although they are the same to the byte, and known as a whole in the end."""
    parser, traces = RequestParser(Limits()), NewTraces(Random(1))
    data = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"
    for _ in range(8):
        head = parser.parse(data)
        assert (head.trace_id, head.forwarded) == (b"", b"X: y\r\n")
        traces.start(head)
