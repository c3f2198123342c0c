"""Connection can not take away `X-Hermes-*`, which balancer and servers tell each other."""

from __future__ import annotations

import pytest

from hermes_lb.config import Limits
from hermes_lb.http import RequestParser, ResponseParser

NAMES = [b"X-Hermes-Session-Id", b"x-hermes-resume", b"X-HERMES-ANYTHING"]


@pytest.mark.parametrize("name", NAMES)
def test_a_request_keeps_its_own_fields(name: bytes) -> None:
    field = name + b": 1\r\n"
    head = RequestParser(Limits()).parse(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Other, " + name + b"\r\nX-Other: 1\r\n"
        b"%b\r\n" % field
    )
    assert head.forwarded == field


@pytest.mark.parametrize("name", NAMES)
def test_a_response_keeps_its_own_fields(name: bytes) -> None:
    field = name + b": 1\r\n"
    head = ResponseParser(10).parse(
        b"HTTP/1.1 200 OK\r\nConnection: X-Other, " + name + b"\r\nX-Other: 1\r\n%b\r\n" % field
    )
    assert head.forwarded == field
