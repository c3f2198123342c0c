"""Response heads as transcripts: bytes in -> what they mean, or InvalidResponse (a 502)."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.errors import InvalidResponse
from hermes_lb.http import CHUNKED, UNTIL_CLOSE, ResponseParser
from hermes_lb.http.version import HTTP10, HTTP11
from tests.http.messages import first_head, mutated, responses
from tests.support.examples import examples
from tests.support.heads import (
    MOST_FIELDS,
    counted_heads,
    outcome,
    parse_response,
    response,
    response_parser,
    row,
)
from tests.support.referees import Incomplete, h11_response


def _line(line: bytes) -> bytes:
    return response(line=line)


INVALID = [
    # 1, 26: both ways to frame a body.
    row("row26-length-then-coding", response(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        "Transfer-Encoding"),
    row("row26-coding-then-length", response(b"Transfer-Encoding: chunked", b"content-length: 5"),
        "Content-Length"),
    row("row26-length-0", response(b"Content-Length: 0", b"TRANSFER-ENCODING: chunked"), ""),
    # 2, 3, 26: codings.
    *(
        row(f"row26-coding-{coding!r}", response(b"Transfer-Encoding: " + coding), "")
        for coding in (
            b"gzip", b"identity", b"xchunked", b"gzip, chunked", b"chunked, gzip",
            b"chunked, chunked",
            b"", b",chunked", b"chunked,", b'"chunked"', b"chunked;a=b", b"\xa0chunked",
            b"chunked\xa0",
            b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"chunked\0",
        )
    ),
    row("row26-two-codings", response(b"Transfer-Encoding: chunked", b"transfer-encoding: chunked"),
        "Transfer-Encoding"),
    row("row26-gzip-then-chunked", response(b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: chunked"),
        "Transfer-Encoding"),
    row("row26-coding-http10", response(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"),
        "Transfer-Encoding"),
    row("row26-coding-folded", response(b"Transfer-Encoding:", b" chunked"), ""),
    row("row26-coding-space-before-colon", response(b"Transfer-Encoding : chunked"), ""),
    row("row26-coding-on-204", response(b"Transfer-Encoding: gzip", line=b"HTTP/1.1 204 x"), ""),
    # 5, 26: lengths.
    row("row26-equal-lengths", response(b"Content-Length: 5", b"content-length: 5"), ""),
    row("row26-differing-lengths", response(b"Content-Length: 5", b"Content-Length: 6"), ""),
    *(
        row(f"row26-length-{value!r}", response(b"Content-Length: " + value), "Content-Length")
        for value in (
            b"5, 5", b"5,", b"+5", b"-5", b"-0", b"0x5", b"5_0", b"5e0", b'"5"', b"5.0", b"5 5",
            b"",
            b"\xd9\xa5", b"\xb2", b"5\xa0", b"9223372036854775808", b"18446744073709551616",
            b"18446744073709551621", b"9" * 100,
        )
    ),
    row("row26-length-vt", response(b"Content-Length: \x0b5"), ""),
    row("row26-length-space-before-colon", response(b"Content-Length : 5"), ""),
    # 13, 26: lines.
    row("row26-all-bare-lf", b"HTTP/1.1 200 OK\nA: b\n\n\r\n\r\n", ""),
    row("row26-lf-after-status-line", b"HTTP/1.1 200 OK\nA: b\r\n\r\n", ""),
    row("row26-lf-after-value", response(b"A: b\nB: c"), ""),
    row("row26-lf-hides-a-field", response(b"A: b\nContent-Length: 5"), ""),
    row("row26-cr-after-value", response(b"A: b\rB: c"), ""),
    row("row26-cr-cr-lf", response(b"A: b\r"), ""),
    row("row26-lf-ends-the-head", response()[:-2] + b"\nHTTP/1.1 200 OK\r\n\r\n", ""),
    *(
        row(f"row26-{byte:#04x}-in-a-value", response(b"A: b%cc" % byte), "")
        for byte in (0x00, 0x01, 0x08, 0x0B, 0x0C, 0x0E, 0x1F, 0x7F)
    ),
    *(
        row(f"row26-{byte:#04x}-in-a-name", response(b"A%cB: c" % byte), "")
        for byte in (*b" \t\0\x01\x7f\x80\xa0\xff(),/;<=>?@[\\]{}", ord('"'))
    ),
    row("row26-space-fold", response(b"A: b", b" c"), ""),
    row("row26-tab-fold", response(b"A: b", b"\tc"), ""),
    row("row26-no-colon", response(b"A"), ""),
    row("row26-empty-name", response(b": b"), ""),
    row("row26-space-before-the-first", response(b" A: b"), ""),
    # 26: status lines.
    *(
        row(f"row26-{line!r}", _line(line), "")
        for line in (
            b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b"HTTP/1.1 200\tOK", b"HTTP/1.1 200OK",
            b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 0200 OK", b"HTTP/1.1 2x0 OK",
            b"HTTP/1.1 +20 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 000 OK",
            b"HTTP/1.1 600 OK", b"HTTP/1.1 999 OK", b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 OK", b"",
            b"HTTP/2.0 200 OK", b"HTTP/2 200 OK", b"HTTP/0.9 200 OK", b"HTTP/1.10 200 OK",
            b"http/1.1 200 OK", b"ICY 200 OK", b"RTSP/1.0 200 OK", b"HTTPS/1.1 200 OK", b"garbage",
            b"GET / HTTP/1.1", b" HTTP/1.1 200 OK", b"\r\n\r\nHTTP/1.1 200 OK",
            b"\nHTTP/1.1 200 OK",
            b"\rHTTP/1.1 200 OK", b"\r\n\nHTTP/1.1 200 OK", b"\r\n HTTP/1.1 200 OK",
            b"\r\nICY 200 OK",
            b"xHTTP/1.1 200 OK", b"HTTP/1.1 200 O\rK", b"HTTP/1.1 200 O\nK", b"HTTP/1.1 200\rA: b",
            b"HTTP/1.1 200\nA: b", b"HTTP/1.1 200 O\0K", b"HTTP/1.1 200 O\x01K",
            b"HTTP/1.1 200 O\x7fK",
        )
    ),
    row("row26-nothing", b"", ""),
    row("row26-crlf-crlf", b"\r\n\r\n", ""),
    row("row26-zeros", b"\0" * 40 + b"\r\n\r\n", ""),
    row("row26-tls-alert", b"\x15\x03\x03\x00\x02\x02\x28\r\n\r\n", ""),
    row("row17-fields", response(*[b"X: y"] * (MOST_FIELDS + 1)), "header fields"),
    row("row17-noted-fields", response(*[b"Set-Cookie: y"] * (MOST_FIELDS + 1)), "header fields"),
    row("row17-dropped-fields", response(*[b"TE: y"] * (MOST_FIELDS + 1)), "header fields"),
    # 24: a 101 that does not say to what.
    row("row24-101-without-upgrade", _line(b"HTTP/1.1 101 x"), "101 without"),
]  # fmt: skip


def _ok(name: str, data: bytes, **expected: object):
    return row(name, data, expected)


_SOCKET = (b"Connection: Upgrade", b"Upgrade: WebSocket")

VALID = [
    _ok("plain", response(), status=200, reason=b"OK", version=HTTP11, length=UNTIL_CLOSE,
        keep_alive=True, upgrade=b"", has_set_cookie=False),
    _ok("length", response(b"Content-Length: 5"), length=5),
    _ok("length-0", response(b"CONTENT-length:\t0"), length=0),
    _ok("chunked", response(b"Transfer-Encoding: chunked"), length=CHUNKED),
    _ok("chunked-odd-case", response(b"transfer-ENCODING:CHUNKED"), length=CHUNKED),
    _ok("row13-white-space-behind-length", response(b"Content-Length: 5 "), length=5),
    _ok("row13-white-space-around", response(b"A: \t b c \t ", b"A: d\t", b"B: \t"),
        forwarded=b"A: b c\r\nA: d\r\nB: \r\n"),
    _ok("row13-white-space-behind-upgrade", response(b"Connection: Upgrade ",
        b"Upgrade: websocket\t", line=b"HTTP/1.1 101 x"), upgrade=b"websocket"),
    _ok("row13-white-space-behind-coding", response(b"Transfer-Encoding: chunked "),
        length=CHUNKED),
    _ok("row4-underscores", response(b"Content_Length: 5", b"Transfer_Encoding: chunked"),
        length=UNTIL_CLOSE),
    _ok("no-reason", _line(b"HTTP/1.1 200 "), status=200, reason=b""),
    _ok("no-reason-no-space", _line(b"HTTP/1.1 200"), status=200, reason=b""),
    _ok("odd-reason", _line(b"HTTP/1.1 404 Not  found\t\xff"), reason=b"Not  found\t\xff"),
    _ok("http10", _line(b"HTTP/1.0 200 OK"), version=HTTP10, keep_alive=False),
    _ok("http10-keep-alive", response(b"Connection: Keep-Alive", line=b"HTTP/1.0 200 OK"),
        keep_alive=True),
    _ok("row15-http12", _line(b"HTTP/1.2 200 OK"), version=HTTP11, keep_alive=True),
    *(
        _ok(f"row26-one-empty-line-before-{line!r}", b"\r\n" + response(b"A: b", line=line),
            status=200, version=minor, forwarded=b"A: b\r\n")
        for line, minor in (
            (b"HTTP/1.1 200 OK", 1), (b"HTTP/1.0 200 OK", 0), (b"HTTP/1.2 200 OK", 1),
        )
    ),
    _ok("close", response(b"Connection: Close"), keep_alive=False),
    _ok("close-and-keep-alive", response(b"Connection: close", b"Connection: keep-alive"),
        keep_alive=False),
    _ok("row22-proxy-connection", response(b"Proxy-Connection: close"), keep_alive=True),
    _ok("continue", _line(b"HTTP/1.1 100 Continue"), status=100),
    _ok("early-hints", response(b"Link: </a>", line=b"HTTP/1.1 103 Early Hints"), status=103),
    _ok("no-content", _line(b"HTTP/1.1 204 No Content"), status=204),
    _ok("not-modified", response(b"Content-Length: 5", line=b"HTTP/1.1 304 x"), length=5),
    _ok("row24-101", response(*_SOCKET, line=b"HTTP/1.1 101 x"), status=101, upgrade=b"WebSocket"),
    _ok("row24-upgrade-offered", response(*_SOCKET, b"Content-Length: 5"), status=200, length=5),
    _ok("row17-most-fields", response(*[b"X: y"] * MOST_FIELDS), status=200),
    _ok("row17-most-noted-fields", response(*[b"Set-Cookie: y"] * MOST_FIELDS),
        has_set_cookie=True),
    _ok("noted", response(b"SET-COOKIE: a=b", b"content-TYPE: Text/Event-Stream; charset=utf-8"),
        has_set_cookie=True, is_event_stream=True),
    _ok("no-event-stream", response(b"Content-Type: text/html"), is_event_stream=False),
]  # fmt: skip

HEADS = [case.values[0] for case in (*INVALID, *VALID)]


@pytest.mark.parametrize(("data", "problem"), INVALID)
def test_invalid(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidResponse) as error:
        parse_response(data)
    assert problem in str(error.value)


@pytest.mark.parametrize(("data", "expected"), VALID)
def test_valid(data: bytes, expected: dict[str, object]) -> None:
    head = parse_response(data)
    assert {name: getattr(head, name) for name in expected} == expected


def test_row17_the_number_of_fields_is_configured() -> None:
    parser = ResponseParser(10)
    assert parser.parse(response(*[b"X: y"] * 10)).status == 200
    with pytest.raises(InvalidResponse, match="10 header fields"):
        parser.parse(response(*[b"X: y"] * 11))


@pytest.mark.parametrize(
    ("method", "status", "length"),
    [
        (b"GET", 200, 5), (b"POST", 404, 5), (b"DELETE", 500, 5), (b"OPTIONS", 205, 5),
        (b"HEAD", 200, 0), (b"HEAD", 404, 0), (b"GET", 100, 0), (b"GET", 103, 0), (b"GET", 204, 0),
        (b"GET", 304, 0), (b"POST", 204, 0), (b"POST", 304, 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"X: y"])
def test_row28_whether_there_is_a_body(
    method: bytes, status: int, length: int, framing: bytes
) -> None:
    head = parse_response(response(framing, line=b"HTTP/1.1 %d x" % status))
    announced = {b"C": 5, b"T": CHUNKED, b"X": UNTIL_CLOSE}[framing[:1]]
    assert head.body_length(method) == (announced if length else 0)


# One parser serves all connections: nothing of one head may be seen in the next.

_FOLLOWERS = [response(), response(b"Content-Length: 5"), response(line=b"HTTP/1.0 204 x"), b"\0"]


@pytest.mark.parametrize("first", [pytest.param(c.values[0], id=c.id) for c in INVALID + VALID])
def test_a_parser_forgets_the_head_before(first: bytes) -> None:
    for follower in _FOLLOWERS:
        parser = response_parser()
        outcome(parser, first)
        assert outcome(parser, follower) == outcome(response_parser(), follower)


_any_heads = st.one_of(
    st.sampled_from([case.values[0] for case in VALID]),
    responses().map(lambda message: message.head),
    mutated(responses().map(lambda message: message.head)).map(first_head),
    st.sampled_from(HEADS) | st.binary(max_size=30).map(first_head),
)


@examples(60)
@given(st.lists(_any_heads, min_size=2, max_size=8))
def test_a_used_parser_is_as_good_as_a_new_one(heads: list[bytes]) -> None:
    parser = response_parser()
    for head in heads:
        assert outcome(parser, head) == outcome(response_parser(), head)


# Any bytes at all.


@examples(200)
@given(
    st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda b: b"HTTP/1.1 200 " + b))
)
def test_any_bytes_are_understood_or_invalid(data: bytes) -> None:
    outcome(response_parser(), first_head(data))  # raises what `parse` should not


@examples(200)
@given(
    mutated(st.one_of(responses().map(lambda m: m.head), st.sampled_from(HEADS))).map(first_head)
)
def test_what_is_accepted_is_what_others_read(data: bytes) -> None:
    """A changed head is invalid, or h11 finds the same end of the same body."""
    try:
        head = parse_response(data)
    except InvalidResponse:
        return
    length = head.body_length(b"GET")
    if head.status == 101 or length > 1000:
        return
    body = {CHUNKED: b"3\r\nabc\r\n0\r\n\r\n", UNTIL_CLOSE: b"abc"}.get(length, b"x" * length)
    follower = b"" if length == UNTIL_CLOSE else response(line=b"HTTP/1.1 299 follower")
    try:
        sent = data.removeprefix(b"\r\n") + body + follower
        theirs, payload, rest = h11_response(b"GET", sent, closed=True)
    except (h11.RemoteProtocolError, Incomplete) as error:
        pytest.fail(f"accepted, but h11 says: {error!r}")
    assert theirs.status_code == head.status
    if head.status >= 200:
        assert payload == (b"abc" if length < 0 else body)
        assert rest == follower


def test_a_head_that_comes_again_means_the_same() -> None:
    parser = response_parser()
    for data in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Own: a\r\nConnection: x-own\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Own: a\r\nConnection: x-own\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
    ):
        first = outcome(parser, data)
        assert outcome(parser, data) == first == outcome(response_parser(), data)


@pytest.mark.pure_only("the method that reads a head is patched")
@pytest.mark.parametrize(
    ("second", "is_read"),
    [
        row("the-same", response(b"X: a"), False),
        row("another-value", response(b"X: b"), True),
        row("another-line", response(b"X: a", line=b"HTTP/1.1 201 OK"), True),
    ],
)
def test_a_head_that_came_twice_is_not_read_again(second: bytes, is_read: bool) -> None:
    parser = response_parser()
    parser.parse(response(b"X: a"))
    first = parser.parse(response(b"X: a"))
    with counted_heads() as read:
        assert (parser.parse(second) is first) != is_read
    assert len(read) == is_read


def test_the_table_of_heads_stays_small_and_useful() -> None:
    parser = response_parser()
    known = response(b"X: known")
    for i in range(1000):
        parser.parse(response(b"X: %d" % i))
        parser.parse(response(b"X: %d" % i))
        parser.parse(known)
        assert len(parser._remembered) <= 256
    with counted_heads() as read:
        assert parser.parse(known) is parser.parse(known)
    assert read == []
    long = response(b"X: " + b"y" * 1024)
    heads = [parser.parse(long) for _ in range(3)]
    assert heads[1] is not heads[2]
