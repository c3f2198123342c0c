"""Heads that are known but for the values of a few lines; `differential.recurring` has the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.http.varying_lines import VaryingLines, template
from tests.support.heads import (
    counted_heads,
    outcome,
    request,
    request_parser,
    response,
    response_parser,
    row,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.http import RequestParser, ResponseParser

    MakeParser = Callable[[], RequestParser | ResponseParser]
    MakeHead = Callable[[int], bytes]

_LEARNED = 5  # heads: two to compare, one more, and that its rest recurs


def _traced(i: int) -> bytes:
    return b"traceparent: 00-%032x-%016x-01" % (i + 1, i + 1)


@pytest.mark.pure_only("compiled callers do not see the replaced method")
@pytest.mark.parametrize(
    ("make_parser", "make_head"),
    [
        row("get", request_parser, lambda i: request(b"X-Serial: %d" % i, b"X: y")),
        row("another-target", request_parser,
            lambda i: request(b"X: %d" % i, line=b"GET /%d HTTP/1.1" % i)),
        row("post", request_parser,
            lambda i: request(b"X: %d" % i, b"Content-Length: %d" % i, line=b"POST / HTTP/1.1")),
        row("token", request_parser, lambda i: request(b"Authorization: Bearer %0249d" % i)),
        row("request-id", request_parser, lambda i: request(b"X-Request-ID: r-%d" % i)),
        row("trace", request_parser, lambda i: request(_traced(i), b"tracestate: a=b")),
        row("several", request_parser,
            lambda i: request(_traced(i), b"X-%%s: %d%%" % i, b"x-request-id: %d" % i)),
        row("nominated", request_parser,
            lambda i: request(b"Connection: y", b"X: %d" % i, b"Y: a")),
        row("response", response_parser, lambda i: response(b"X: %d" % i, b"Content-Length: 5")),
        row("response-type", response_parser, lambda i: response(b"Content-Type: text/%d" % i)),
    ],
)  # fmt: skip
def test_heads_that_differ_in_an_id_are_not_read_again(
    make_parser: MakeParser, make_head: MakeHead
) -> None:
    parser = make_parser()
    for i in range(_LEARNED):
        parser.parse(make_head(i))
    for i in range(_LEARNED, 100):
        with counted_heads() as read:
            said = outcome(parser, make_head(i))
        assert read == []
        assert said == outcome(make_parser(), make_head(i))


@pytest.mark.pure_only("compiled callers do not see the replaced method")
@pytest.mark.parametrize(
    ("parser", "make_head"),
    [
        (request_parser(), lambda i: request(b"X: %d" % i)),
        (response_parser(), lambda i: response(b"Date: %d" % i)),
    ],
    ids=["request", "response"],
)
def test_one_that_comes_again_is_known_as_a_whole(
    parser: Any, make_head: MakeHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heads of one second, or of one client: their lines are not looked up each time."""
    for i in range(_LEARNED):
        parser.parse(make_head(i))
    for _ in range(2):
        parser.parse(make_head(99))

    def find(*_: object) -> None:
        raise AssertionError("its lines are looked up")

    monkeypatch.setattr(VaryingLines, "find", find)
    parser.parse(make_head(99))


_SEVEN = (1, 2, 3, 9, 7, 7)
_TRACE = b"traceparent: 00-%b-%b-01"


@pytest.mark.parametrize(
    ("make_head", "data"),
    [
        row("another-trace", lambda i: request(_traced(i)),
            request(_TRACE % (b"c" * 32, b"d" * 16))),
        row("no-trace", lambda i: request(_traced(i)), request(b"traceparent: x")),
        row("a-trace-of-zeros", lambda i: request(_traced(i)),
            request(_TRACE % (b"0" * 32, b"d" * 16))),
        row("no-trace-and-its-state", lambda i: request(_traced(i), b"tracestate: a=b"),
            request(b"traceparent: x", b"tracestate: a=b")),
        row("an-id-of-128-bytes", lambda i: request(b"X-Request-ID: %d" % i),
            request(b"X-Request-ID: " + b"a" * 128)),
        row("an-id-of-129-bytes", lambda i: request(b"X-Request-ID: %d" % i),
            request(b"X-Request-ID: " + b"a" * 129)),
        row("an-id-with-a-blank", lambda i: request(b"X-Request-ID: %d" % i),
            request(b"X-Request-ID: a b")),
        row("a-value-with-a-blank-behind", lambda i: request(b"X: %d" % i), request(b"X: a ")),
        row("no-value", lambda i: request(b"X: %d" % i), request(b"X: ")),
        row("a-folded-value", lambda i: request(b"X: %d" % i), request(b"X: a\r\n b")),
        row("a-bare-lf", lambda i: request(b"X: %d" % i), request(b"X: a\nContent-Length: 5")),
        # Both have one value once, so that it can't be seen then which of them counts.
        row("the-second-of-two-ids",
            lambda i: request(*[b"x-request-id: 7"] * (i > 2), b"X-Request-ID: %d" % _SEVEN[i]),
            request(b"x-request-id: 7", b"X-Request-ID: 8")),
        row("the-second-of-two-values",
            lambda i: request(*[b"X:7"] * (i > 2), b"X: %d" % _SEVEN[i]),
            request(b"X:7", b"X: 8")),
        row("another-field", lambda i: request(b"X: %d" % i, b"Y: a"), request(b"X: 7", b"Y: b")),
        row("a-length-behind-it", lambda i: request(b"X: %d" % i),
            request(b"X: 7", b"Content-Length: 5")),
        row("a-word-that-matters", lambda i: request(b"X: %d" % i), request(b"X: upgrade")),
    ],
)  # fmt: skip
def test_what_is_known_does_not_change_what_is_similar(make_head: MakeHead, data: bytes) -> None:
    parser = request_parser()
    for i in range(_LEARNED + 1):
        parser.parse(make_head(i))
    assert outcome(parser, data) == outcome(request_parser(), data)


@pytest.mark.pure_only("compiled callers do not see the replaced method")
@pytest.mark.parametrize(
    "make_head",
    [
        row("four-lines", lambda i: request(*[b"X%d: %d" % (name, i) for name in range(4)])),
        row("a-cookie", lambda i: request(b"Cookie: a=%d" % i)),
        row("long", lambda i: request(b"X: %0257d" % i)),
        row("twice", lambda i: request(b"x: a", b"X: %d" % i)),
        row("dropped", lambda i: request(b"Connection: x", b"X: %d" % i)),
        row("first", lambda i: request(b"X: y", host=b"Host: a%d" % i)),
    ],
)
def test_other_heads_are_read(make_head: MakeHead) -> None:
    parser = request_parser()
    with counted_heads() as read:
        for i in range(20):
            parser.parse(make_head(i))
    assert len(read) == 20


def test_names_that_are_made_up_displace_none_that_is_in_use() -> None:
    lines: VaryingLines[bytes] = VaryingLines(lambda name: True)

    def make_up(name: int) -> None:
        for value in range(4):
            lines.offer(b"a: b\r\nX-%d: %d\r\n" % (name, value), lambda *_: b"made up")

    for name in range(4):
        make_up(name)
    for value in range(4):
        lines.offer(b"a: b\r\nIn-Use: %d\r\n" % value, lambda *_: b"in use")
    for name in range(4, 20):
        assert lines.find(b"a: b\r\nIn-Use: y\r\n") == (b"in use", (b"y",))
        make_up(name)
        assert len(lines._sets) <= 4


def test_what_cannot_be_made_is_not_stored() -> None:
    lines: VaryingLines[bytes] = VaryingLines(lambda name: True)
    for value in range(5):
        lines.offer(b"a: b\r\nX: %d\r\n" % value, lambda *_: None)
    assert lines.find(b"a: b\r\nX: 5\r\n") is None


@pytest.mark.parametrize(
    ("lines", "names", "filled"),
    [
        row("first", b"X: v\r\nY: v\r\n", (b"X",), b"X: 1\r\nY: v\r\n"),
        row("last", b"X: v\r\nY: v\r\n", (b"Y",), b"X: v\r\nY: 1\r\n"),
        row("both", b"X: v\r\nY: v\r\n", (b"X", b"Y"), b"X: 1\r\nY: 2\r\n"),
        row("percent", b"%b: v\r\nY%%: %s%%\r\n", (b"%b",), b"%b: 1\r\nY%%: %s%%\r\n"),
        row("dropped-first", b"X: v\r\n", (b"Gone", b"X"), b"X: 2\r\n"),
        row("dropped-last", b"X: v\r\n", (b"X", b"Gone"), b"X: 1\r\n"),
        row("absent", b"X: v\r\n", (b"Y",), None),
        row("another-value", b"X: w\r\n", (b"X",), None),
        row("the-end-of-a-name", b"A-X: v\r\n", (b"X",), None),
    ],
)
def test_a_template_has_a_place_for_each_value(
    lines: bytes, names: tuple[bytes, ...], filled: bytes | None
) -> None:
    made = template(lines, names, (b"v",) * len(names), dropped=b"gone")
    values = (b"1", b"2")[: len(names)]
    assert (made if made is None else made % values) == filled
