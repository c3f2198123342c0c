"""A request's fields as a head of HTTP/1.1, alone: the codec refuses most of this before."""

from __future__ import annotations

import pytest

from hermes_lb.errors import RequestRefused
from hermes_lb.proxy.http2.fields import Malformed, accepts, as_http1, response_fields

Fields = list[tuple[bytes, bytes]]

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
HEAD = b"GET / HTTP/1.1\r\nhost: a\r\n"


def changed(name: bytes, value: bytes | None, fields: Fields = GET) -> Fields:
    """Another value of a field, or the fields without it."""
    return [
        (each, old if each != name or value is None else value)
        for each, old in fields
        if each != name or value is not None
    ]


@pytest.mark.parametrize(
    ("fields", "has_body", "head"),
    [
        (GET, False, HEAD + b"\r\n"),
        ([*GET, (b"x-own", b"y")], False, HEAD + b"x-own: y\r\n\r\n"),
        (GET, True, HEAD + b"transfer-encoding: chunked\r\n\r\n"),
        ([*GET, (b"content-length", b"5")], True, HEAD + b"content-length: 5\r\n\r\n"),
        (
            [*GET, (b"cookie", b"a=b"), (b"x", b"y"), (b"cookie", b"c=d")],
            False,
            HEAD + b"x: y\r\ncookie: a=b; c=d\r\n\r\n",
        ),
        ([*GET, (b"host", b"a")], False, HEAD + b"\r\n"),
        ([*GET[:3], (b"host", b"b")], False, b"GET / HTTP/1.1\r\nhost: b\r\n\r\n"),
        ([*GET, (b"te", b"Trailers")], False, HEAD + b"te: Trailers\r\n\r\n"),
        (
            changed(b":method", b"OPTIONS", changed(b":path", b"*")),
            False,
            b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
        ),
        (
            [(b":method", b"CONNECT"), (b":authority", b"a:443")],
            False,
            b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n",
        ),
    ],
)
def test_the_head_of_a_request(fields: Fields, has_body: bool, head: bytes) -> None:
    request = as_http1(tuple(fields), has_body=has_body)
    assert (request.head, request.websocket_key) == (head, b"")


MALFORMED: dict[str, Fields] = {
    **{
        f"{name.decode()} of one hop": [*GET, (name, b"x")]
        for name in (
            b"connection",
            b"keep-alive",
            b"proxy-connection",
            b"transfer-encoding",
            b"upgrade",
        )
    },
    "te that is not trailers": [*GET, (b"te", b"trailers, gzip")],
    "CR in a value": [*GET, (b"x", b"a\rb")],
    "LF in a value": [*GET, (b"x", b"a\nb")],
    "NUL in a value": [*GET, (b"x", b"a\0b")],
    "LF in a cookie": [*GET, (b"cookie", b"a\nb")],
    "LF in Host": [*GET[:3], (b"host", b"a\nb")],
    "a colon in a name": [*GET, (b"x:", b"y")],
    "a blank in a name": [*GET, (b"x y", b"y")],
    "a line end in a name": [*GET, (b"x\r\ny", b"y")],
    "upper case in a name": [*GET, (b"X", b"y")],
    "a name above ASCII": [*GET, (b"\xe9", b"y")],
    "an empty name": [*GET, (b"", b"y")],
    "a pseudo-header field behind another": [*GET[:3], (b"x", b"y"), GET[3]],
    "a pseudo-header field behind a cookie": [*GET[:3], (b"cookie", b"a=b"), GET[3]],
    "a pseudo-header field twice": [*GET, (b":path", b"/b")],
    "an unknown pseudo-header field": [*GET, (b":status", b"200")],
    "no method": changed(b":method", None),
    "no scheme": changed(b":scheme", None),
    "no path": changed(b":path", None),
    "a blank in the method": changed(b":method", b"GET /b"),
    "an odd method": changed(b":method", b"G@T"),
    "a blank in the path": changed(b":path", b"/a b"),
    "a fragment": changed(b":path", b"/a#b"),
    "a path above ASCII": changed(b":path", b"/\xe9"),
    "DEL in the path": changed(b":path", b"/\x7f"),
    "an absolute path": changed(b":path", b"http://b/a"),
    "a path without a slash": changed(b":path", b"a"),
    "a path of all, but for OPTIONS": changed(b":path", b"*"),
    "a line end in the authority": changed(b":authority", b"a\r\nx: y"),
    ":protocol without CONNECT": [*GET, (b":protocol", b"websocket")],
    "CONNECT to nothing": [(b":method", b"CONNECT"), (b":scheme", b"http")],
    "a WebSocket at an absolute path": [
        *changed(b":method", b"CONNECT", changed(b":path", b"http://b/")),
        (b":protocol", b"websocket"),
    ],
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request(case: str) -> None:
    with pytest.raises(Malformed):
        as_http1(tuple(MALFORMED[case]), has_body=False)


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (400, [*GET, (b"host", b"b")]),
        (400, [*GET, (b"host", b"a"), (b"host", b"a")]),
        (501, [*changed(b":method", b"CONNECT"), (b":protocol", b"connect-udp")]),
    ],
)
def test_a_request_that_is_refused(status: int, fields: Fields) -> None:
    with pytest.raises(RequestRefused) as refused:
        as_http1(tuple(fields), has_body=False)
    assert refused.value.status == status


def test_two_hosts_reach_the_parser_which_refuses_them() -> None:
    head = as_http1((*GET[:3], (b"host", b"a"), (b"host", b"b")), has_body=False).head
    assert head.count(b"host: ") == 2


def test_a_websocket_is_an_upgrade_with_a_key_of_ours() -> None:
    fields = [
        *changed(b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b"sec-websocket-key", b"theirs"),
    ]
    request = as_http1(tuple(fields), has_body=True)
    key = request.websocket_key
    assert len(key) == 24
    assert request.head == HEAD + (
        b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: %b\r\n\r\n" % key
    )
    assert as_http1(tuple(fields), has_body=True).websocket_key != key


def test_the_fields_of_a_response() -> None:
    lines = b"X-Own: y \r\nConnection: X-Own\r\nTransfer-Encoding: chunked\r\nX-Empty:\r\n\r\n"
    assert response_fields(404, lines) == [
        (b":status", b"404"), (b"x-own", b"y"), (b"x-empty", b"")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "is_accepted"),
    [
        (b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", True),  # RFC 6455 section 1.3
        (b"Sec-WebSocket-Accept: bm90IG91cnM=\r\n", False),
        (b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" * 2, False),
        (b"X: y\r\n", False),
    ],
)
def test_whether_a_server_accepts_our_key(lines: bytes, is_accepted: bool) -> None:
    assert accepts(b"dGhlIHNhbXBsZSBub25jZQ==", lines) is is_accepted


def test_what_is_remembered_is_the_same_again() -> None:
    """A body makes another request of it; the key of a WebSocket is another one each time."""
    get = tuple(GET)
    once = as_http1(get, has_body=False)
    assert as_http1(get, has_body=False).head == once.head
    assert as_http1(get, has_body=True).head != once.head
    lines = b"X-A: 1\r\n"
    assert response_fields(200, lines)[1:] == response_fields(404, lines)[1:] == [(b"x-a", b"1")]
    response_fields(200, lines).append((b"content-length", b"1"))
    assert (b"content-length", b"1") not in response_fields(200, lines)
