"""Rows 1 to 7: where a request ends. Two readings of that are how requests are smuggled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.hostile import BEHIND, Way, echo, is_passed, is_refused, row

if TYPE_CHECKING:
    from tests.support.stage import Stage

pytestmark = pytest.mark.http1_only("lengths and chunks: tests/differential has streams")

# The heads below go on behind these.
POST = b"POST /upload HTTP/1.1\r\nHost: a\r\n"
POST_1_0 = b"POST /upload HTTP/1.0\r\nHost: a\r\n"
CHUNKS = b"\r\n5\r\nhello\r\n0\r\n\r\n"  # the end of a head, and a chunked body
LENGTH, CODING = "Content-Length", "Transfer-Encoding"

# What arrives, the status, a part of the reason in the log.
REFUSED = [
    # 1: a length together with a coding.
    row(1, "length-first", POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n" + CHUNKS,
        400, LENGTH),
    row(1, "coding-first", POST + b"Transfer-Encoding: chunked\r\nContent-Length: 15\r\n" + CHUNKS,
        400, LENGTH),
    row(1, "odd-case", POST + b"content-LENGTH: 15\r\nTRANSFER-encoding: Chunked\r\n" + CHUNKS,
        400, LENGTH),
    row(1, "cl-te", POST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        % (5 + len(BEHIND)) + BEHIND, 400, LENGTH),
    row(1, "te-cl", POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n"
        % len(BEHIND) + BEHIND + b"\r\n0\r\n\r\n", 400, LENGTH),
    row(1, "length-0", POST + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n" + CHUNKS,
        400, LENGTH),
    # 2: anything but exactly `chunked`.
    row(2, "gzip", POST + b"Transfer-Encoding: gzip\r\n" + CHUNKS, 501, "coding"),
    row(2, "gzip-first", POST + b"Transfer-Encoding: gzip, chunked\r\n" + CHUNKS, 501, "coding"),
    row(2, "misspelt", POST + b"Transfer-Encoding: xchunked\r\n" + CHUNKS, 501, "coding"),
    row(2, "gzip-last", POST + b"Transfer-Encoding: chunked, gzip\r\n" + CHUNKS, 400, CODING),
    row(2, "twice", POST + b"Transfer-Encoding: chunked, chunked\r\n" + CHUNKS, 400, CODING),
    row(2, "two-lines",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" + CHUNKS,
        400, CODING),
    row(2, "two-lines-te-te",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n" + CHUNKS, 400, CODING),
    row(2, "empty", POST + b"Transfer-Encoding:\r\n" + CHUNKS, 400, CODING),
    row(2, "comma-first", POST + b"Transfer-Encoding: ,chunked\r\n" + CHUNKS, 400, CODING),
    row(2, "comma-last", POST + b"Transfer-Encoding: chunked,\r\n" + CHUNKS, 400, CODING),
    row(2, "quotes", POST + b'Transfer-Encoding: "chunked"\r\n' + CHUNKS, 400, CODING),
    row(2, "parameter", POST + b"Transfer-Encoding: chunked;q=1\r\n" + CHUNKS, 400, CODING),
    row(2, "vt", POST + b"Transfer-Encoding: \x0bchunked\r\n" + CHUNKS, 400, ""),
    row(2, "ff", POST + b"Transfer-Encoding: chunked\x0c\r\n" + CHUNKS, 400, ""),
    row(2, "nbsp", POST + b"Transfer-Encoding: \xa0chunked\r\n" + CHUNKS, 400, CODING),
    # 3: where some would not see it.
    row(3, "http-1.0", POST_1_0 + b"Transfer-Encoding: chunked\r\n" + CHUNKS, 400, CODING),
    row(3, "http-1.0-keep-alive",
        POST_1_0 + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n" + CHUNKS,
        400, CODING),
    row(3, "folded", POST + b"Transfer-Encoding:\r\n chunked\r\n" + CHUNKS, 400, ""),
    row(3, "folded-behind-another", POST + b"X: y\r\n Transfer-Encoding: chunked\r\n" + CHUNKS,
        400, ""),
    row(3, "space-before-the-colon", POST + b"Transfer-Encoding : chunked\r\n" + CHUNKS, 400, ""),
    row(3, "tab-before-the-colon", POST + b"Transfer-Encoding\t: chunked\r\n" + CHUNKS, 400, ""),
    # 5: a length that has two readings, or none.
    row(5, "differing", POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400, LENGTH),
    row(5, "equal", POST + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello", 400, LENGTH),
    row(5, "list", POST + b"Content-Length: 5, 5\r\n\r\nhello", 400, LENGTH),
    row(5, "plus", POST + b"Content-Length: +5\r\n\r\nhello", 400, LENGTH),
    row(5, "minus", POST + b"Content-Length: -5\r\n\r\nhello", 400, LENGTH),
    row(5, "hex", POST + b"Content-Length: 0x5\r\n\r\nhello", 400, LENGTH),
    row(5, "underscore", POST + b"Content-Length: 5_0\r\n\r\nhello", 400, LENGTH),
    row(5, "exponent", POST + b"Content-Length: 5e0\r\n\r\nhello", 400, LENGTH),
    row(5, "quotes", POST + b'Content-Length: "5"\r\n\r\nhello', 400, LENGTH),
    row(5, "empty", POST + b"Content-Length:\r\n\r\nhello", 400, LENGTH),
    row(5, "arabic-five", POST + "Content-Length: \u0665\r\n\r\nhello".encode(), 400, LENGTH),
    row(5, "superscript-two", POST + b"Content-Length: \xb2\r\n\r\nhello", 400, LENGTH),
    row(5, "2-to-63", POST + b"Content-Length: 9223372036854775808\r\n\r\nhello", 400, LENGTH),
    row(5, "5-and-2-to-64", POST + b"Content-Length: 18446744073709551621\r\n\r\nhello",
        400, LENGTH),
    # 7: what is expected, and not understood.
    row(7, "unknown", POST + b"Expect: 200-ok\r\nContent-Length: 5\r\n\r\nhello", 417, "xpect"),
    row(7, "list", POST + b"Expect: 100-continue, 200-ok\r\nContent-Length: 5\r\n\r\nhello",
        417, "xpect"),
    row(7, "second-line",
        POST + b"Expect: 100-continue\r\nExpect: 200-ok\r\nContent-Length: 5\r\n\r\nhello",
        417, "xpect"),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "status", "reason"), REFUSED)
async def test_refused(stage: Stage, way: Way, wire: bytes, status: int, reason: str) -> None:
    await is_refused(stage, way, wire, status, reason)


UPLOAD = "POST /upload HTTP/1.1"
NO_BODY = {"Content-Length": "0", "Transfer-Encoding": None}
FIVE = {"Content-Length": "5", "Transfer-Encoding": None}
IN_CHUNKS = {"Content-Length": None, "Transfer-Encoding": "chunked"}
NOTHING = {"Content-Length": None, "Transfer-Encoding": None}

# What arrives; the first line, the fields and the body that the origin sees.
PASSED = [
    row(2, "chunked-in-odd-case", POST + b"transfer-ENCODING: CHUNKed\r\n" + CHUNKS, UPLOAD,
        IN_CHUNKS, b"hello"),
    row(2, "blanks-around-it", POST + b"Transfer-Encoding:   chunked  \r\n" + CHUNKS, UPLOAD,
        IN_CHUNKS, b"hello"),
    # 4: CGI and WSGI servers read these as if they had a hyphen.
    row(4, "length", POST + b"Content_Length: %d\r\n\r\n" % len(BEHIND), UPLOAD,
        {**NO_BODY, "Content_Length": None}, b""),
    row(4, "coding", POST + b"Transfer_Encoding: chunked\r\n\r\n", UPLOAD,
        {**NO_BODY, "Transfer_Encoding": None}, b""),
    row(4, "odd-case-beside-the-real-one",
        POST + b"CONTENT_length: 0\r\nContent-Length: 5\r\n\r\nhello", UPLOAD,
        {**FIVE, "Content_Length": None}, b"hello"),
    row(4, "coding-beside-a-length",
        POST + b"Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello", UPLOAD,
        {**FIVE, "Transfer_Encoding": None}, b"hello"),
    row(5, "blanks-around-it", POST + b"Content-Length: \t 5 \t\r\n\r\nhello", UPLOAD, FIVE,
        b"hello"),
    row(5, "leading-zeros", POST + b"Content-Length: 005\r\n\r\nhello", UPLOAD, FIVE, b"hello"),
    # 6: the end of a body is the beginning of the next request.
    row(6, "length-0", POST + b"Content-Length: 0\r\n\r\n", UPLOAD, NO_BODY, b""),
    row(6, "no-length-at-all", POST + b"\r\n", UPLOAD, NO_BODY, b""),
    row(6, "chunks-of-nothing", POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", UPLOAD,
        IN_CHUNKS, b""),
    row(6, "a-request-as-the-body", POST + b"Content-Length: %d\r\n\r\n" % len(BEHIND) + BEHIND,
        UPLOAD, {"Content-Length": str(len(BEHIND)), "Transfer-Encoding": None}, BEHIND),
    row(6, "GET", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "GET / HTTP/1.1", FIVE, b"hello"),
    row(6, "GET-chunked", b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + CHUNKS,
        "GET / HTTP/1.1", IN_CHUNKS, b"hello"),
    row(6, "GET-length-0", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1", NOTHING, b""),
    row(6, "HEAD", b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "HEAD / HTTP/1.1", FIVE, b"hello"),
    row(6, "DELETE", b"DELETE /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "DELETE /x HTTP/1.1", FIVE, b"hello"),
    row(6, "OPTIONS", b"OPTIONS * HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + CHUNKS,
        "OPTIONS * HTTP/1.1", IN_CHUNKS, b"hello"),
    # 7: whatever is expected, the length is what it says.
    row(7, "length", POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", UPLOAD,
        {**FIVE, "Expect": "100-continue"}, b"hello"),
    row(7, "chunked", POST + b"Expect: 100-Continue \r\nTransfer-Encoding: chunked\r\n" + CHUNKS,
        UPLOAD, {**IN_CHUNKS, "Expect": "100-continue"}, b"hello"),
    row(7, "no-body", POST + b"Expect: 100-continue\r\n\r\n", UPLOAD, NO_BODY, b""),
    row(7, "GET", b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        "GET / HTTP/1.1", NOTHING, b""),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "start", "fields", "body"), PASSED)
async def test_passed(
    stage: Stage, way: Way, wire: bytes, start: str, fields: dict[str, str | None], body: bytes
) -> None:
    await is_passed(stage, way, wire, start, fields, body)


# 7: which side waits for the other.

WAITS = POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.row(7)
async def test_the_origin_says_when_the_body_may_come(stage: Stage) -> None:
    _, client, origin = await stage.line()
    await client.send(WAITS)
    at_origin = await origin.accept()
    head = await at_origin.read_head()
    assert (head.get("Expect"), head.get("Content-Length")) == ("100-continue", "5")
    assert await client.gets_nothing()  # we promise nothing in the origin's name
    await at_origin.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert (await client.read_response()).head.start == "HTTP/1.1 100 Continue"
    await client.send(b"hello" + BEHIND)
    assert await at_origin.read_exactly(5) == b"hello"
    assert await at_origin.gets_nothing()  # nor is anything sent twice, or too early
    await at_origin.respond(b"thanks")
    answer = await client.read_response()
    assert (answer.body, answer.get("Connection")) == (b"thanks", None)
    assert (await at_origin.read_request()).head.target == "/smuggled"  # a request of its own
    await at_origin.serves(client, b"next")


@pytest.mark.row(7)
@pytest.mark.parametrize("status", [200, 417, 500])
async def test_a_final_status_without_a_100_ends_the_exchange(stage: Stage, status: int) -> None:
    """The client may send its body or not, so the start of its next request is unknown."""
    lb, client, origin = await stage.line()
    await client.send(WAITS)
    at_origin = await origin.accept()
    await at_origin.read_head()
    await at_origin.respond(b"no", status=status)
    answer = await client.read_response()
    assert (answer.status, answer.body, answer.get("Connection")) == (status, b"no", "close")
    await client.send(BEHIND)  # is it the body or a request? Neither may reach an origin
    assert await client.read_until_cut() == b""
    assert await at_origin.read_until_cut() == b""
    assert await origin.has_no_new_connection()
    line = await stage.log_line(lb)
    assert (line.status, line.termination) == (status, "--")


@pytest.mark.row(7)
async def test_http_1_0_has_no_expectations(stage: Stage) -> None:
    """RFC 9110 section 10.1.1: a server ignores it there, and sends no 100."""
    _, client, origin = await stage.served(echo)
    await client.send(POST_1_0 + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
    assert (await client.read_response()).body == b"POST /upload"
    assert origin.requests[0].get("Expect") is None
    assert origin.requests[0].body == b"hello"
