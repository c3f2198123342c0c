"""Rows 13 to 18: lines, fields and targets that two parsers could read in two ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import (
    BEHIND,
    Way,
    deliver,
    echo,
    in_two_ways,
    is_passed,
    is_refused,
    row,
)
from tests.support.http_peer import request

if TYPE_CHECKING:
    from tests.support.stage import Stage

pytestmark = pytest.mark.http1_only("lines of a head")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"

# A TLS 1.3 client's first bytes. There is no CRLF in them, so it must not wait for one.
TLS_HELLO = bytes.fromhex(
    "16030100cb010000c70303d6a5f0c2b1a44e0e8b3a7a6a1f6e2b8d7c4c9e1f00112233445566778899aabb20e1"
    "1302130313010035010000740000000e000c0000096c6f63616c686f7374000b000403000102000a00160014"
)

# What arrives, the status, a part of the reason in the log.
REFUSED = [
    # 13: line ends. Those without an end of the head are refused all the same.
    row(13, "lf-everywhere", b"GET / HTTP/1.1\nHost: a\n\n", 400, ""),
    row(13, "lf-behind-the-first-line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, ""),
    row(13, "lf-behind-a-value", GET + b"A: b\nB: c\r\n\r\n", 400, ""),
    row(13, "lf-hides-a-length", POST + b"A: b\nContent-Length: 38\r\n\r\n" + BEHIND, 400, ""),
    row(13, "lf-ends-the-head", GET + b"\n" + BEHIND, 400, ""),
    row(13, "lf-and-no-end", GET + b"A: b\n", 400, ""),
    row(13, "cr-behind-a-value", GET + b"A: b\rB: c\r\n\r\n", 400, ""),
    row(13, "cr-hides-a-length", POST + b"A: b\rContent-Length: 38\r\n\r\n" + BEHIND, 400, ""),
    row(13, "cr-cr-lf", GET + b"A: b\r\r\n\r\n", 400, ""),
    row(13, "cr-and-no-end", GET + b"A: b\rc", 400, ""),
    row(13, "cr-in-the-first-line", b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    # 13: bytes that no value has.
    row(13, "nul", GET + b"A: b\0c\r\n\r\n", 400, ""),
    row(13, "nul-and-no-end", GET + b"A: b\0", 400, ""),
    row(13, "soh", GET + b"A: b\x01c\r\n\r\n", 400, ""),
    row(13, "vt", GET + b"A: b\x0bc\r\n\r\n", 400, ""),
    row(13, "esc", GET + b"A: \x1b[2J\r\n\r\n", 400, ""),
    row(13, "del", GET + b"A: b\x7fc\r\n\r\n", 400, ""),
    # 13: names and folds.
    row(13, "fold", GET + b"A: b\r\n c\r\n\r\n", 400, ""),
    row(13, "fold-by-a-tab", GET + b"A: b\r\n\tContent-Length: 38\r\n\r\n" + BEHIND, 400, ""),
    row(13, "fold-of-nothing", GET + b"A: b\r\n \r\n\r\n", 400, ""),
    row(13, "no-colon", GET + b"A\r\n\r\n", 400, ""),
    row(13, "no-name", GET + b": b\r\n\r\n", 400, ""),
    row(13, "space-in-a-name", GET + b"A B: c\r\n\r\n", 400, ""),
    row(13, "space-before-a-colon", GET + b"A : b\r\n\r\n", 400, ""),
    row(13, "nbsp-in-a-name", GET + b"A\xa0: b\r\n\r\n", 400, ""),
    row(13, "slash-in-a-name", GET + b"A/B: c\r\n\r\n", 400, ""),
    row(13, "utf-8-in-a-name", GET + "Ä: b\r\n\r\n".encode(), 400, ""),
    row(13, "space-before-the-first-field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, ""),
    row(13, "space-line-before-the-first-field", b"GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n",
        400, ""),
    # 14
    row(14, "two-empty-lines", b"\r\n\r\n" + GET + b"\r\n", 400, ""),
    row(14, "an-empty-line-of-lf", b"\n" + GET + b"\r\n", 400, ""),
    row(14, "an-empty-line-of-cr", b"\r" + GET + b"\r\n", 400, ""),
    row(14, "crlf-lf", b"\r\n\n" + GET + b"\r\n", 400, ""),
    row(14, "a-space", b" " + GET + b"\r\n", 400, ""),
    # 15: the first line.
    row(15, "two-spaces-first", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    row(15, "two-spaces-second", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    row(15, "space-at-the-end", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, ""),
    row(15, "tab-first", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    row(15, "tab-second", b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    row(15, "space-in-the-target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    row(15, "no-version", b"GET /\r\n\r\n", 400, ""),
    row(15, "no-version-but-fields", b"GET / \r\nHost: a\r\n\r\n", 400, ""),
    row(15, "http-0.9", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 400, ""),
    row(15, "http-2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "HTTP/1.1"),
    row(15, "http-3.0", b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, "HTTP/1.1"),
    row(15, "http-1.10", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400, ""),
    row(15, "http-1", b"GET / HTTP/1\r\nHost: a\r\n\r\n", 400, ""),
    row(15, "version-in-lower-case", b"GET / http/1.1\r\nHost: a\r\n\r\n", 400, ""),
    row(15, "method-in-lower-case", b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method"),
    row(15, "another-protocol", b"DESCRIBE / RTSP/1.0\r\nHost: a\r\n\r\n", 400, ""),
    # 16
    row(16, "fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "fragment"),
    row(16, "fragment-of-nothing", b"GET /# HTTP/1.1\r\nHost: a\r\n\r\n", 400, "fragment"),
    row(16, "fragment-of-a-query", b"GET /?a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "fragment"),
    row(16, "fragment-of-an-authority", b"GET http://b#c HTTP/1.1\r\nHost: b\r\n\r\n", 400, ""),
    row(16, "nul", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    row(16, "del", b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    row(16, "obs-text", b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    # 18: something else than HTTP/1.1.
    row(18, "tls-hello", TLS_HELLO, 400, ""),
    row(18, "zeros", b"\0" * 64, 400, ""),
    row(18, "socks-5", b"\x05\x01\x00", 400, ""),
    row(18, "mysql", b"\x20\x00\x00\x01\x85\xa6\xff\x01", 400, ""),
    row(18, "high-bytes", b"\xff" * 64, 400, ""),
    row(18, "json", b'{"jsonrpc": "2.0"}', 400, ""),
    row(18, "http-2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/1.1"),
    row(18, "ssh", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400, ""),
    row(18, "smtp", b"EHLO a\r\nMAIL FROM:<a@b>\r\n\r\n", 400, ""),
    row(18, "a-response", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 400, ""),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "status", "reason"), REFUSED)
async def test_refused(stage: Stage, way: Way, wire: bytes, status: int, reason: str) -> None:
    await is_refused(stage, way, wire, status, reason)


# What arrives; the first line and the fields that the origin sees.
PASSED = [
    row(13, "no-value", GET + b"A:\r\nB: \r\nC: \t\r\n\r\n", "GET / HTTP/1.1",
        {"A": "", "B": "", "C": ""}),
    row(13, "blanks-in-a-value", GET + b"A:  b \t c\r\n\r\n", "GET / HTTP/1.1", {}),
    row(13, "obs-text-in-a-value", GET + b"A: \x80\xff\r\n\r\n", "GET / HTTP/1.1",
        {"A": "\x80\xff"}),
    row(13, "every-tchar-in-a-name", GET + b"!#$%&'*+-.^`|~09: b\r\n\r\n", "GET / HTTP/1.1",
        {"!#$%&'*+-.^`|~09": "b"}),
    row(13, "blanks-around-the-host", b"GET / HTTP/1.1\r\nHost: \t a \t\r\n\r\n",
        "GET / HTTP/1.1", {"Host": "a"}),
    row(14, "one-empty-line", b"\r\n" + GET + b"\r\n", "GET / HTTP/1.1", {"Host": "a"}),
    row(15, "http-1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "GET / HTTP/1.1", {"Host": "a"}),
    row(15, "http-1.9-and-a-length",
        b"POST / HTTP/1.9\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST / HTTP/1.1",
        {"Content-Length": "0"}),
    *(
        row(16, target, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target.encode(),
            f"GET {target} HTTP/1.1", {})
        for target in (
            "/%00", "/a\\b", "/%0d%0aX:%20y", "//", "//evil/", "/../", "/a/./b/../c", "/%2e%2E/",
            "/;a=b", "/?a?b", '/"<>^`{|}', "/%zz", "/http://b/",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "start", "fields"), PASSED)
async def test_passed(
    stage: Stage, way: Way, wire: bytes, start: str, fields: dict[str, str | None]
) -> None:
    await is_passed(stage, way, wire, start, fields)


@pytest.mark.row(14)
@in_two_ways
async def test_an_empty_line_behind_a_body_is_ignored(stage: Stage, way: Way) -> None:
    """Some clients of old end a body with a CRLF that its length does not count."""
    _, client, origin = await stage.served(echo)
    body = POST + b"Content-Length: 5\r\n\r\nhello"
    await deliver(client, body + b"\r\n" + request("GET", "/next"), way)
    assert (await client.read_response()).body == b"POST /"
    assert (await client.read_response()).body == b"GET /next"
    assert origin.requests[0].body == b"hello"


@pytest.mark.row(13)
async def test_what_is_logged_of_hostile_bytes_is_one_plain_line(stage: Stage) -> None:
    """Quotes, escapes and braces of a client could be taken for the log's own."""
    lb, client, _ = await stage.served(echo)
    assert (await client.answer_to(b'GET /"{x}\\ HTTP/1.1\r\nHost: a\r\n\r\n')).status == 200
    assert (await client.answer_to(b"GET /\x1b[2J\r\nHost: a\r\n\r\n")).status == 400
    first, second = await stage.logged(lb, 2)
    assert first.request == "GET /#22{x}\\ HTTP/1.1"
    assert second.request == "<BADREQ>"
    assert "\x1b" not in second.line
