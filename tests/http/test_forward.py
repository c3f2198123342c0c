"""What leaves for what arrived: heads rebuilt for the other side."""

from __future__ import annotations

import pytest
from hypothesis import given

from hermes_lb.http import (
    CHUNKED,
    UNTIL_CLOSE,
    build_request,
    identity_fields,
    make_body,
    trusted_identity_fields,
)
from tests.http.messages import Message, requests, responses
from tests.support.bodies import feed
from tests.support.examples import examples
from tests.support.heads import (
    ADDED,
    HANDSHAKE,
    NEXT,
    answer,
    forward,
    parse_request,
    parse_response,
    request,
    response,
    row,
)
from tests.support.referees import LlhttpReader, h11_request, h11_response

# Requests.


def _sent(*lines: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a") -> bytes:
    """A head as the server gets it."""
    return request(*lines, line=line, host=host)[:-2] + ADDED


_SOCKET = (b"Connection: Upgrade", b"Upgrade: websocket")
_POST = b"POST / HTTP/1.1"

REQUESTS = [
    row("plain", request(), _sent()),
    row("fields-as-they-came", request(b"aCCept: x", b"X-B:  c  d", b"X-B:", b"Accept: \xff"),
        _sent(b"aCCept: x", b"X-B: c  d", b"X-B: ", b"Accept: \xff")),
    row("http10", request(line=b"GET / HTTP/1.0"), _sent()),
    row("length", request(b"content-length: 005", line=_POST), _sent(b"Content-Length: 5",
        line=_POST)),
    row("chunked", request(b"TRANSFER-ENCODING: Chunked"), _sent(b"Transfer-Encoding: chunked")),
    row("post-without-body", request(line=_POST), _sent(b"Content-Length: 0", line=_POST)),
    row("row4-underscores", request(b"Content_Length: 5", b"TRANSFER_encoding: chunked"), _sent()),
    row("row4-mixed", request(b"X-Forwarded_For: x", b"X_Forwarded-For: x"), _sent()),
    *(
        row(f"row6-{method.decode()}", request(b"Content-Length: 5", line=method + b" / HTTP/1.1"),
            _sent(b"Content-Length: 5", line=method + b" / HTTP/1.1"))
        for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS")
    ),
    row("row7-expect", request(b"eXpect: 100-CONTINUE", b"Content-Length: 5", line=_POST),
        _sent(b"Content-Length: 5", b"Expect: 100-continue", line=_POST)),
    row("row7-expect-http10", request(b"Expect: 100-continue", line=b"GET / HTTP/1.0"), _sent()),
    *(
        row(f"row16-{target!r}", request(line=b"GET %b HTTP/1.1" % target),
            _sent(line=b"GET %b HTTP/1.1" % target))
        for target in (b"/%00", b"/\\", b"/%0d%0a", b"//", b"/../", b"/%2e%2E/?#"[:-1],
            b"/a//b/./c")
    ),
    row("row19-absolute", request(line=b"GET http://B:80/x?y HTTP/1.1"),
        _sent(line=b"GET /x?y HTTP/1.1", host=b"Host: B:80").replace(b"Host: a\r",
        b"Host: B:80\r")),
    row("row20-options-star", request(line=b"OPTIONS * HTTP/1.1"),
        _sent(line=b"OPTIONS * HTTP/1.1")),
    row("row20-hops", request(b"Max-Forwards: 5", line=b"OPTIONS / HTTP/1.1"),
        _sent(b"Max-Forwards: 4", line=b"OPTIONS / HTTP/1.1")),
    row("row20-hops-of-a-get", request(b"Max-Forwards: 5"), _sent(b"Max-Forwards: 5")),
    row("row20-hops-of-a-trace", request(b"Max-Forwards: 1", line=b"TRACE /a HTTP/1.1"),
        _sent(b"Max-Forwards: 0", line=b"TRACE /a HTTP/1.1")),
    row("row20-trace-without-credentials", request(b"Authorization: Bearer x", b"A: b",
        b"Cookie: c=d", b"Proxy-Authorization: Basic eA==", b"cookie: e=f",
        line=b"TRACE / HTTP/1.1"),
        _sent(b"A: b", line=b"TRACE / HTTP/1.1")),
    row("row20-options-authority", request(line=b"OPTIONS http://a HTTP/1.1"),
        _sent(line=b"OPTIONS * HTTP/1.1")),
    # 21
    row("row21-nominated", request(b"X-Own: 1", b"Connection: x-OWN", b"x-own: 2", b"X-Else: 3"),
        _sent(b"X-Else: 3")),
    row("row21-in-two-lines", request(b"Connection: a", b"A: 1", b"B: 2", b"connection: ,b ,"),
        _sent()),
    *(
        row(f"row21-never-{name.decode()}", request(b"%b: x" % name, b"Connection: close, " + name),
            _sent(b"%b: x" % name))
        for name in (b"Authorization", b"Idempotency-Key", b"Mcp-Session-Id", b"Last-Event-ID",
                     b"Content-Type", b"Cache-Control", b"Cookie")
    ),
    row("row21-never-host", request(b"Connection: host, via, x-forwarded-for, x-request-id"),
        _sent()),
    row("row21-never-length", request(b"Content-Length: 5", b"Connection: content-length"),
        _sent(b"Content-Length: 5")),
    row("row21-never-coding", request(b"Transfer-Encoding: chunked",
        b"Connection: Transfer-Encoding"),
        _sent(b"Transfer-Encoding: chunked")),
    # 22
    *(
        row(f"row22-{field.decode()}", request(field), _sent())
        for field in (
            b"Keep-Alive: timeout=5", b"TE: gzip", b"TE: trailers;q=0.5", b"Trailer: X",
            b"Connection: close",
            b"Connection: TE, keep-alive", b"Proxy-Connection: close",
            b"Proxy-Authorization: Basic x",
            b"PROXY-AUTHORIZATION: x", b"Proxy_Authorization: x", b"Upgrade: websocket",
        )
    ),
    *(
        row(f"row22-{field.decode()}", request(field), _sent(b"TE: trailers", b"Connection: TE"))
        for field in (b"te: trailers", b"TE: gzip;q=0.5 ,\tTrailers")
    ),
    row("row22-te-of-http10", request(b"TE: trailers", line=b"GET / HTTP/1.0"), _sent()),
    row("row22-te-and-upgrade", request(*_SOCKET, *HANDSHAKE, b"TE: trailers"),
        _sent(*HANDSHAKE, *_SOCKET)),
    *(
        row(f"row22-{field.decode()}", request(field), _sent())
        for field in (b"Proxy-Authenticate: x", b"Proxy-Own: x", b"Proxy: http://evil")
    ),
    # 23
    *(
        row(f"row23-{name.decode()}", request(b"%b: evil" % name), _sent())
        for name in (
            b"X-Forwarded-For", b"X-Forwarded-Host", b"X-Forwarded-Proto", b"X-Real-IP",
            b"Forwarded",
            b"X_Forwarded_For", b"X_FORWARDED-HOST", b"x_real_ip", b"X_Request_ID",
        )
    ),
    *(
        row(f"row23-{name.decode()}", request(b"%b: evil" % name), _sent())
        for name in (b"X-Forwarded-Port", b"X-Forwarded-Prefix", b"X-Forwarded-Server",
                     b"X-Forwarded-Ssl", b"X_Forwarded_Port", b"X-Forwarded-Own")
    ),
    row("row23-via", request(b"Via: 1.0 x", b"via: 1.1 y"),
        _sent().replace(b"Via: ", b"Via: 1.0 x, 1.1 y, ")),
    row("row23-request-id", request(b"X-REQUEST-id: mine"), _sent().replace(b"new-id", b"mine")),
    row("row23-request-id-odd", request(b"X-Request-ID: a\tb"), _sent()),
    row("cookies", request(b"Cookie: a=b", b"X: y", b"cookie: c=d"),
        _sent(b"X: y", b"Cookie: a=b", b"Cookie: c=d")),
    # 24
    row("row24-websocket", request(*_SOCKET, *HANDSHAKE), _sent(*HANDSHAKE, *_SOCKET)),
    row("row24-h2c", request(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABk"), _sent()),
    row("row24-h2c-settings-not-nominated", request(b"http2-SETTINGS: AAMAAABk"), _sent()),
    row("row24-websocket-and-h2c", request(b"Connection: Upgrade", b"Upgrade: websocket, h2c"),
        _sent()),
    row("row24-post", request(*_SOCKET, *HANDSHAKE, line=_POST), _sent(*HANDSHAKE,
        b"Content-Length: 0", line=_POST)),
    row("row24-http10", request(*_SOCKET, line=b"GET / HTTP/1.0"), _sent()),
]  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), REQUESTS)
def test_requests(data: bytes, expected: bytes) -> None:
    assert forward(parse_request(data)) == expected


def test_a_request_without_host_gets_the_backends() -> None:
    head = parse_request(b"GET / HTTP/1.0\r\n\r\n")
    assert b"\r\nHost: backend\r\n" in forward(head)


def test_row23_a_trusted_proxy_is_believed() -> None:
    head = parse_request(
        request(
            b"X-Forwarded-For: 203.0.113.9, 10.0.0.1",
            b"x-forwarded-for: 10.0.0.2",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Host: shop.example",
        )
    )
    head.request_id = b"id"
    identity, host = trusted_identity_fields(head, "10.0.0.3", "203.0.113.9", b"http")
    sent = build_request(
        head, host=b"a", identity=identity, forwarded_host=host, via=b"1.1 lb"
    ).splitlines()
    assert sent[2:6] == [
        b"X-Forwarded-For: 203.0.113.9, 10.0.0.1, 10.0.0.2, 10.0.0.3",
        b"X-Real-IP: 203.0.113.9",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: shop.example",
    ]


@pytest.mark.parametrize(
    ("peer", "node"), [("10.0.0.3", b"10.0.0.3"), ("2001:db8::3", b'"[2001:db8::3]"')]
)
def test_row23_what_else_a_trusted_proxy_says_is_passed_on(peer: str, node: bytes) -> None:
    said = (b"X-Forwarded-Port: 8443", b"x-forwarded-SSL: on", b"Forwarded: for=203.0.113.9")
    head = parse_request(request(*said, b"X_Forwarded_Port: 1", b"X-Real-IP: 6.6.6.6"))
    identity, _ = trusted_identity_fields(head, peer, "203.0.113.9", b"http")
    assert identity.startswith(
        b"X-Forwarded-Port: 8443\r\nx-forwarded-SSL: on\r\n"
        b"Forwarded: for=203.0.113.9, for=%b\r\nX-Forwarded-For: " % node
    )
    assert b"X_Forwarded" not in identity
    assert b"6.6.6.6" not in identity


def test_row23_a_trusted_proxy_that_says_nothing() -> None:
    head = parse_request(request())
    assert trusted_identity_fields(head, "10.0.0.3", "10.0.0.3", b"http") == (
        identity_fields("10.0.0.3", b"http"),
        b"a",
    )


# Names that we write ourselves, from what was understood.
_OURS = {
    b"host", b"content-length", b"transfer-encoding", b"x-forwarded-for", b"x-real-ip",
    b"connection",
    b"x-forwarded-proto", b"x-forwarded-host", b"via", b"x-request-id", b"upgrade", b"cookie",
    b"expect", b"te",
}  # fmt: skip


def _check_request(message: Message, fields: list[tuple[bytes, bytes]]) -> None:
    """The fields that a server reads, held against what the client meant."""
    assert [field for field in fields if field[0] not in _OURS] == message.end_to_end
    ours: dict[bytes, list[bytes]] = {name: [] for name in _OURS}
    for name, value in fields:
        if name in _OURS:
            ours[name].append(value)
    host = next(field.value for field in message.fields if field.name == b"Host")
    assert ours[b"host"] == [host]
    assert ours[b"cookie"] == message.cookies
    is_relayed = message.expects_continue and message.version == 1
    assert ours[b"expect"] == ([b"100-continue"] if is_relayed else [])
    takes_trailers = message.version == 1 and any(one.name == b"TE" for one in message.fields)
    assert ours[b"te"] == ([b"trailers"] if takes_trailers else [])
    assert ours[b"connection"] == ([b"TE"] if takes_trailers else [])
    assert ours[b"upgrade"] == []
    assert ours[b"x-forwarded-for"] == ours[b"x-real-ip"] == [b"192.0.2.1"]
    assert ours[b"x-forwarded-proto"] == [b"http"]
    assert ours[b"x-forwarded-host"] == [host]
    assert ours[b"via"] == [b"1.1 lb"]
    assert ours[b"x-request-id"] == [b"new-id"]
    assert len(ours[b"content-length"] + ours[b"transfer-encoding"]) <= 1


@examples(150)
@given(requests())
def test_servers_read_what_the_client_meant(message: Message) -> None:
    head = parse_request(message.head)
    sent = forward(head)
    if head.length:
        body = make_body(head.length, to_http11=True)
        passed, rest = feed(body, [message.body + NEXT])
    else:
        passed, rest = b"", message.body + NEXT
    assert rest == NEXT

    theirs, payload, behind = h11_request(sent + passed + NEXT)
    assert (theirs.method, theirs.target) == (message.method, message.target)
    assert theirs.http_version == b"1.1"
    assert (payload, behind) == (message.payload, NEXT)
    _check_request(message, list(theirs.headers))

    llhttp = LlhttpReader(sent + passed)
    assert llhttp.is_complete
    assert (llhttp.method, llhttp.target) == (message.method, message.target)
    assert llhttp.payload == message.payload
    _check_request(message, llhttp.fields)


# Responses.


RESPONSES = [
    row("length", response(b"content-length: 005"), {}, response(b"Content-Length: 5")),
    row("length-0", response(b"Content-Length: 0"), {}, response(b"Content-Length: 0")),
    row("chunked", response(b"TRANSFER-ENCODING: Chunked"), {},
        response(b"Transfer-Encoding: chunked")),
    row("until-close", response(), {}, response(b"Transfer-Encoding: chunked")),
    row("close", response(b"Content-Length: 5"), {"keep_alive": False},
        response(b"Content-Length: 5", b"Connection: close")),
    row("fields-as-they-came", response(b"x-A: b", b"X-a:", b"SET-cookie: \xff",
        b"Content-Length: 0"),
        {}, response(b"x-A: b", b"X-a: ", b"SET-cookie: \xff", b"Content-Length: 0")),
    row("reason", response(b"Content-Length: 0", line=b"HTTP/1.0 404 Not  \xff"), {},
        response(b"Content-Length: 0", line=b"HTTP/1.1 404 Not  \xff")),
    row("no-reason", response(b"Content-Length: 0", line=b"HTTP/1.1 599"), {},
        response(b"Content-Length: 0", line=b"HTTP/1.1 599 ")),
    row("row4-underscores", response(b"Content_Length: 5", b"Content-Length: 0"), {},
        response(b"Content-Length: 0")),
    row("row21-nominated", response(b"Connection: x-own", b"X-OWN: a", b"Content-Length: 0"), {},
        response(b"Content-Length: 0")),
    *(
        row(f"row21-never-{name.decode()}",
            response(b"%b: x" % name, b"Connection: " + name, b"Content-Length: 0"), {},
            response(b"%b: x" % name, b"Content-Length: 0"))
        for name in (b"Set-Cookie", b"Cache-Control", b"Content-Type", b"Via", b"Mcp-Session-Id")
    ),
    row("row21-never-length", response(b"Content-Length: 5", b"Connection: content-length"), {},
        response(b"Content-Length: 5")),
    row("row21-never-coding", response(b"Transfer-Encoding: chunked",
        b"Connection: transfer-encoding"),
        {}, response(b"Transfer-Encoding: chunked")),
    *(
        row(f"row22-{field.decode()}", response(field, b"Content-Length: 0"), {},
            response(b"Content-Length: 0"))
        for field in (b"Keep-Alive: timeout=5", b"Trailer: X", b"TE: x", b"Proxy-Connection: close",
                      b"Connection: close", b"Upgrade: h2c")
    ),
    *(
        row(f"row22-{field.decode()}", response(field, b"Content-Length: 0"), {},
            response(b"Content-Length: 0"))
        for field in (b"Proxy-Authenticate: Basic", b"Proxy-Authentication-Info: x")
    ),
    row("row24-101", response(b"Upgrade: WebSocket", b"connection: upgrade",
        b"Sec-WebSocket-Accept: x",
        line=b"HTTP/1.1 101 Switching Protocols"), {},
        response(b"Sec-WebSocket-Accept: x", b"Connection: Upgrade", b"Upgrade: websocket",
                 line=b"HTTP/1.1 101 Switching Protocols")),
    row("row24-101-when-the-client-is-not-kept", response(b"Upgrade: websocket",
        b"connection: upgrade", line=b"HTTP/1.1 101 Switching Protocols"), {"keep_alive": False},
        response(b"Connection: Upgrade", b"Upgrade: websocket",
                 line=b"HTTP/1.1 101 Switching Protocols")),
    row("row25-length", response(b"Content-Length: 5"), {"to_http11": False},
        response(b"Content-Length: 5", b"Connection: keep-alive")),
    row("row25-chunked", response(b"Transfer-Encoding: chunked"), {"to_http11": False,
        "keep_alive": False},
        response(b"Connection: close")),
    row("row25-until-close", response(), {"to_http11": False, "keep_alive": False},
        response(b"Connection: close")),
    row("row28-head-length", response(b"Content-Length: 5"), {"method": b"HEAD"},
        response(b"Content-Length: 5")),
    row("row28-head-chunked", response(b"Transfer-Encoding: chunked"), {"method": b"HEAD"},
        response()),
    row("row28-head-until-close", response(), {"method": b"HEAD"}, response()),
    row("row28-304", response(b"Content-Length: 5", line=b"HTTP/1.1 304 x"), {},
        response(b"Content-Length: 5", line=b"HTTP/1.1 304 x")),
    *(
        row(f"row28-{status}-{field.decode()}", response(field, line=b"HTTP/1.1 %d x" % status), {},
            response(line=b"HTTP/1.1 %d x" % status))
        for status in (100, 103, 204)
        for field in (b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Keep-Alive: x")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("data", "to", "expected"), RESPONSES)
def test_responses(data: bytes, to: dict, expected: bytes) -> None:
    assert answer(parse_response(data), **to) == expected


def test_the_beginning_of_the_body_is_in_the_same_piece() -> None:
    head = parse_response(response(b"Content-Length: 2", b"X: y"))
    assert answer(head, first=b"hi") == response(b"X: y", b"Content-Length: 2") + b"hi"


def test_row21_what_is_omitted_and_what_is_nominated_are_both_gone() -> None:
    """A cookie taken out for the affinity doesn't bring back what Connection took out."""
    data = response(
        b"Connection: x-own", b"X-Own: a", b"Set-Cookie: b", b"X: y", b"Content-Length: 0"
    )
    head = parse_response(data)
    assert answer(head, without=(2,)) == response(b"X: y", b"Content-Length: 0")


@examples(150)
@given(responses())
def test_clients_read_what_the_server_meant(message: Message) -> None:
    head = parse_response(message.head)
    length = head.body_length(message.method)
    assert (head.status, head.reason) == (message.status, message.reason)
    for minor in (1, 0):
        is_delimited = length >= 0 or (minor == 1 and length in (CHUNKED, UNTIL_CLOSE))
        sent = answer(head, message.method, to_http11=minor == 1, keep_alive=is_delimited)
        behind = b"" if length == UNTIL_CLOSE else NEXT
        body = make_body(length, to_http11=minor == 1)
        wire = message.body + behind
        passed, rest = feed(body, [wire] if wire else []) if length else (b"", behind)
        assert rest == behind
        more = response(b"Content-Length: 0") if is_delimited else b""
        theirs, payload, rest = h11_response(message.method, sent + passed + more, closed=True)
        assert (theirs.status_code, payload, rest) == (message.status, message.payload, more)
        ours = {b"content-length", b"transfer-encoding", b"connection"}
        fields = list(theirs.headers)
        assert [field for field in fields if field[0] not in ours] == message.end_to_end
        framing = [name for name, _ in fields if name in ours - {b"connection"}]
        assert len(framing) <= 1
        assert not (minor == 0 and b"transfer-encoding" in framing)
