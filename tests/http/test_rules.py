"""Incomplete heads: wait for the rest, or refuse at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.errors import RequestRefused
from hermes_lb.http.rules import refuse_hopeless
from tests.http.messages import mutated, requests
from tests.support.cuts import byte_by_byte
from tests.support.examples import examples
from tests.support.heads import outcome, request, request_parser, row


def _arrives(data: bytes) -> None:
    """As the data path feeds it: piece by piece, what was seen before is not looked at again."""
    held, searched = bytearray(), 0
    for piece in byte_by_byte(data):
        held += piece
        refuse_hopeless(held, searched)
        searched = max(0, len(held) - 3)


HOPELESS = [
    row("row13-lf", b"GET / HTTP/1.1\nHost: a\n\n"),
    row("row13-lf-after-crlf", b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    row("row13-cr", b"GET / HTTP/1.1\rHost: a"),
    row("row13-nul", b"GET /\0"),
    row("row14-lf", b"\nGET"),
    row("row14-cr", b"\rG"),
    row("row14-two-crlf", b"\r\n\r\nG"),
    row("row14-space", b" GET"),
    row("row15-no-token", b"(GET"),
    row("row18-tls", b"\x16\x03\x01\x02\x00\x01\x00"),
    row("row18-socks", b"\x05\x01\x00"),
    row("row18-high", b"\xff"),
    row("row18-json", b'{"a": 1}'),
]


@pytest.mark.parametrize("data", HOPELESS)
def test_hopeless(data: bytes) -> None:
    with pytest.raises(RequestRefused) as refusal:
        _arrives(data)
    assert refusal.value.status == 400
    with pytest.raises(RequestRefused):
        refuse_hopeless(data, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r",
        b"\r\n",
        b"\r\nGET / HTTP/1.1\r\nA: b\r",
        b"G",
        b"M-SEARCH",
        b"get",
        b"!",
        request()[:-1],
    ],
)
def test_there_is_hope(data: bytes) -> None:
    _arrives(data)
    refuse_hopeless(data, 0)


@examples(300)
@given(st.one_of(requests().map(lambda m: m.head), mutated(requests().map(lambda m: m.head))))
def test_no_head_is_given_up_that_would_be_accepted(data: bytes) -> None:
    head, end, _ = data.partition(b"\r\n\r\n")
    if "refused" in outcome(request_parser(), head + end):
        return
    for size in range(len(head) + len(end)):
        refuse_hopeless((head + end)[:size], 0)
    _arrives(head + end[:3])
