"""Which fields may follow a body (RFC 9110 section 6.5.1), and their two forms."""

from __future__ import annotations

import pytest

from hermes_lb.errors import InvalidBody
from hermes_lb.http import ChunkedBody
from hermes_lb.http.trailers import as_fields, safe_lines
from tests.support.bodies import feed
from tests.support.cuts import byte_by_byte

PASS = (
    "grpc-status", "grpc-message", "grpc-status-details-bin", "server-timing", "digest",
    "content-digest", "x-checksum", "etag", "a%b",
)  # fmt: skip
DROPPED = (
    "content-length", "transfer-encoding", "host", "connection", "te", "trailer", "upgrade",
    "keep-alive", "proxy-authorization", "proxy-authenticate", "authorization", "cookie",
    "set-cookie", "www-authenticate", "cache-control", "expect", "max-forwards", "pragma", "range",
    "if-match", "if-none-match", "content-encoding", "content-type", "content-range", "age",
    "date", "expires", "location", "retry-after", "vary", "via", "forwarded", "x-forwarded-for",
    "x-forwarded-port", "x-real-ip", "x-request-id", "x-ssl-client-verify", "idempotency-key",
    "traceparent", "mcp-session-id", "x-hermes-resume", "access-control-allow-origin",
    "content_length", "set_cookie", "x_forwarded_for", "cache_control",
)  # fmt: skip


@pytest.mark.parametrize("name", PASS + DROPPED)
def test_what_passes(name: str) -> None:
    given, passes = name.encode(), name in PASS
    lines = safe_lines([(given, b"a b")])
    assert lines == (b"%b: a b\r\n" % given if passes else b"")
    for spelling in (given, given.title()):
        line = b"%b:a b" % spelling
        body = ChunkedBody(keep_chunks=True, takes_trailers=True)
        sent = b"1\r\na\r\n0\r\n%b\r\nLast: x\r\n\r\n" % line
        left = line + b"\r\n" if passes else b""
        wanted = b"1\r\na\r\n0\r\n%bLast: x\r\n\r\n" % left
        assert feed(body, byte_by_byte(sent + b"behind")) == (wanted, b"behind")


def test_without_chunks_they_are_beside_the_body() -> None:
    body = ChunkedBody(keep_chunks=False, takes_trailers=True)
    assert feed(body, [b"1\r\na\r\n0\r\nX-A: \t1 \r\nDate: x\r\nX-B:\r\n\r\n"]) == (b"a", b"")
    assert as_fields(body.trailers) == [(b"x-a", b"1"), (b"x-b", b"")]


def test_a_receiver_without_them_gets_none() -> None:
    for keep_chunks in (True, False):
        body = ChunkedBody(keep_chunks=keep_chunks)
        feed(body, [b"0\r\nX-A: 1\r\n\r\n"])
        assert body.trailers == b""


@pytest.mark.parametrize(
    "fields",
    [
        [(b":status", b"200")],
        [(b"a b", b"1")],
        [(b"", b"1")],
        [(b"x\r\n", b"1")],
        [(b"x", b"1\r\ny: 2")],
        [(b"x", b"1\0")],
        [(b"x", b"v" * 9000)],
        [(b"date", b"v" * 9000)],
        [(b"x%d" % n, b"v" * 100) for n in range(100)],
    ],
)
def test_what_is_no_trailer(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(InvalidBody):
        safe_lines(fields)
