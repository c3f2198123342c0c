"""Request heads as transcripts: bytes in -> what they mean, or which refusal.

The rows are those of the hostile-input table. A parser gets whole heads only, so
nothing is fed byte by byte here; bodies are, in test_body.
"""

from __future__ import annotations

from contextlib import suppress

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.config import Limits
from hermes_lb.errors import RequestRefused
from hermes_lb.http import CHUNKED, RequestParser
from tests.http.messages import first_head, mutated, requests
from tests.support.examples import examples
from tests.support.heads import (
    HANDSHAKE,
    MOST_FIELDS,
    counted_heads,
    forward,
    outcome,
    parse_request,
    request,
    request_parser,
    row,
)
from tests.support.referees import Incomplete, h11_request

CODING = "Transfer-Encoding"
LENGTH = "Content-Length"


def _line(line: bytes) -> bytes:
    return request(line=line)


def _host(*lines: bytes) -> bytes:
    return b"".join(part + b"\r\n" for part in (b"GET / HTTP/1.1", *lines, b""))


REFUSED = [
    # 1: both ways to frame a body.
    *(
        row(name, request(*fields), 400, LENGTH)
        for name, fields in {
            "row1-length-then-coding": (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
            "row1-coding-then-length": (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
            "row1-odd-case": (b"content-length: 5", b"TRANSFER-ENCODING: Chunked"),
            "row1-length-0": (b"Content-Length: 0", b"Transfer-Encoding: chunked"),
            "row1-apart": (b"Content-Length: 5", b"X: y", b"Transfer-Encoding: chunked"),
        }.items()
    ),
    # 2: anything but exactly `chunked`.
    *(
        row(f"row2-unknown-{coding!r}", request(b"Transfer-Encoding: " + coding), 501, "coding")
        for coding in (b"gzip", b"identity", b"xchunked", b"chunked2", b"gzip, chunked")
    ),
    *(
        row(f"row2-{name}", request(*lines), 400, "")
        for name, lines in {
            "then-gzip": (b"Transfer-Encoding: chunked, gzip",),
            "twice": (b"Transfer-Encoding: chunked, chunked",),
            "two-lines": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
            "empty": (b"Transfer-Encoding:",),
            "leading-comma": (b"Transfer-Encoding: ,chunked",),
            "trailing-comma": (b"Transfer-Encoding: chunked,",),
            "quotes": (b'Transfer-Encoding: "chunked"',),
            "parameters": (b"Transfer-Encoding: chunked;a=b",),
            # llhttp's own choice, and a classic of smuggling: some servers see no `chunked` there.
            "tab-behind": (b"Transfer-Encoding: chunked\t",),
            "chunked-first": (b"Transfer-Encoding: chunked, identity",),
            "nbsp": (b"Transfer-Encoding: \xa0chunked",),
            "nbsp-behind": (b"Transfer-Encoding: chunked\xa0",),
        }.items()
    ),
    row("row2-two-lines-gzip", request(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"),
        400,
        CODING),
    row("row2-vt", request(b"Transfer-Encoding: \x0bchunked"), 400, ""),
    row("row2-vt-behind", request(b"Transfer-Encoding: chunked\x0b"), 400, ""),
    row("row2-ff", request(b"Transfer-Encoding: \x0cchunked"), 400, ""),
    row("row2-nul", request(b"Transfer-Encoding: chunked\0"), 400, ""),
    # 3
    row("row3-http10", request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"), 400,
        CODING),
    row("row3-folded", request(b"Transfer-Encoding:", b" chunked"), 400, ""),
    row("row3-folded-tab", request(b"Transfer-Encoding:", b"\tchunked"), 400, ""),
    row("row3-space-before-colon", request(b"Transfer-Encoding : chunked"), 400, ""),
    row("row3-tab-before-colon", request(b"Transfer-Encoding\t: chunked"), 400, ""),
    row("row3-length-space-before-colon", request(b"Content-Length : 5"), 400, ""),
    # 5
    row("row5-differing", request(b"Content-Length: 5", b"Content-Length: 6"), 400, LENGTH),
    row("row5-equal", request(b"Content-Length: 5", b"content-length: 5"), 400, LENGTH),
    *(
        row(f"row5-{value!r}", request(b"Content-Length: " + value), 400, LENGTH)
        for value in (
            b"5, 5", b"5,", b"+5", b"-5", b"-0", b"0x5", b"5_0", b"5e0", b'"5"', b"5.0", b"5 5",
            b"",
            b"\xd9\xa5", b"\xb2", b"5\xa0", b"9223372036854775808", b"18446744073709551616",
            b"18446744073709551621", b"9" * 100,
        )
    ),
    row("row5-vt", request(b"Content-Length: \x0b5"), 400, ""),
    # 7
    row("row7-unknown", request(b"Expect: 200-ok"), 417, "100-continue"),
    row("row7-two", request(b"Expect: 100-continue, x"), 417, "100-continue"),
    row("row7-second-line", request(b"Expect: 100-continue", b"Expect: x"), 417, "100-continue"),
    row("row7-empty", request(b"Expect:"), 417, "100-continue"),
    # 13
    row("row13-all-bare-lf", b"GET / HTTP/1.1\nHost: a\n\n\r\n\r\n", 400, ""),
    row("row13-lf-after-request-line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, ""),
    row("row13-lf-after-value", request(b"A: b\nB: c"), 400, ""),
    row("row13-lf-hides-a-field", request(b"A: b\nContent-Length: 5"), 400, ""),
    row("row13-cr-after-value", request(b"A: b\rB: c"), 400, ""),
    row("row13-cr-cr-lf", request(b"A: b\r"), 400, ""),
    row("row13-lf-ends-the-head", request(b"A: b")[:-2] + b"\nGET / HTTP/1.1\r\n\r\n", 400, ""),
    *(
        row(f"row13-{byte:#04x}-in-a-value", request(b"A: b%cc" % byte), 400, "")
        for byte in (0x00, 0x01, 0x08, 0x0B, 0x0C, 0x0E, 0x1F, 0x7F)
    ),
    *(
        row(f"row13-{byte:#04x}-in-a-name", request(b"A%cB: c" % byte), 400, "")
        for byte in (*b" \t\0\x01\x7f\x80\xa0\xff(),/;<=>?@[\\]{}", ord('"'))
    ),
    row("row13-space-fold", request(b"A: b", b" c"), 400, ""),
    row("row13-tab-fold", request(b"A: b", b"\tc"), 400, ""),
    row("row13-empty-fold", request(b"A: b", b" "), 400, ""),
    row("row13-no-colon", request(b"A"), 400, ""),
    row("row13-empty-name", request(b": b"), 400, ""),
    row("row13-space-before-the-first", _host(b" Host: a"), 400, ""),
    row("row13-tab-before-the-first", _host(b"\tHost: a"), 400, ""),
    row("row13-space-line-before-the-first", _host(b" X: y", b"Host: a"), 400, ""),
    # 14
    row("row14-two-crlf", b"\r\n\r\n" + request(), 400, ""),
    row("row14-two-crlf-as-the-proxy-cuts-them", b"\r\n\r\n", 400, ""),
    row("row14-2000-crlf", b"\r\n" * 2000 + request(), 400, ""),
    row("row14-lf", b"\n" + request(), 400, ""),
    row("row14-cr", b"\r" + request(), 400, ""),
    row("row14-crlf-lf", b"\r\n\n" + request(), 400, ""),
    row("row14-space", b" " + request(), 400, ""),
    # 15
    *(
        row(f"row15-{line!r}", _line(line), status, "")
        for line, status in {
            b"GET  / HTTP/1.1": 400, b"GET\t/ HTTP/1.1": 400, b"GET /\tHTTP/1.1": 400,
            b"GET /  HTTP/1.1": 400, b"GET / HTTP/1.1 ": 400, b"GET / HTTP/1.1\t": 400,
            b"GET\x0b/ HTTP/1.1": 400, b"GET\xa0/ HTTP/1.1": 400, b"GET / x HTTP/1.1": 400,
            b"GET /": 400, b"GET / ": 400, b"GET": 400, b"": 400, b"GET HTTP/1.1": 400,
            b"GET / HTTP/2.0": 505, b"GET / HTTP/3.0": 505, b"GET / HTTP/0.9": 400,
            b"GET / http/1.1": 400, b"get / HTTP/1.1": 501, b"Get / HTTP/1.1": 501,
            b"GET / HTTP/1.10": 400, b"GET / HTTP/01.1": 400, b"GET / HTTP/1,1": 400,
            b"GET / HTTP/1": 400, b"GET / HTTP/1.": 400, b"GET / HTTP/11": 400,
            b"GET / HTTP/1.1HTTP/1.1": 400, b"GET / HTTPS/1.1": 400, b"GET / RTSP/1.0": 400,
            b"DESCRIBE / RTSP/1.0": 400, b"SOURCE / ICE/1.0": 400, b"GET / HTTP /1.1": 400,
        }.items()
    ),
    # 16
    *(
        row(f"row16-{target!r}", _line(b"GET %b HTTP/1.1" % target), 400, "")
        for target in (
            b"/#", b"/a#b", b"/?#b", b"http://b/#c", b"http://b#c", b"/\0", b"/\x01", b"/\x7f",
            b"/\x80",
            b"/\xff", b"/\r",
        )
    ),
    # 17
    row("row17-fields", request(*[b"X: y"] * MOST_FIELDS), 431, "header fields"),
    row("row17-known-fields", request(*[b"Cookie: a=b"] * MOST_FIELDS), 431, "header fields"),
    row("row17-dropped-fields", request(*[b"TE: trailers"] * MOST_FIELDS), 431, "header fields"),
    row("row17-target", _line(b"GET /%b HTTP/1.1" % (b"a" * 16384)), 414, "target"),
    row("row17-target-and-fields",
        request(*[b"X: y"] * MOST_FIELDS, line=b"GET /%b HTTP/1.1" % (b"a" * 16384)), 414,
        "target"),
    row("row17-target-in-absolute-form", _line(b"GET http://a/%b HTTP/1.1" % (b"a" * 16384)), 414,
        "target"),
    row("row17-method", _line(b"A" * 1000 + b" / HTTP/1.1"), 501, "method"),
    # RFC 9110 section 9.1: a method is a token; those that llhttp does not know, are not known.
    *(
        row(f"row20-{method.decode()}", _line(method + b" / HTTP/1.1"), 501, "method")
        for method in (
            b"BREW", b"GETX", b"GE", b"PO", b"X-1", b"!#$%&'*+-.^_`|~0a", b"0", b"post",
            b"DESCRIBE", b"PLAY", b"FLUSH",
        )
    ),
    row("row20-unknown-http10", b"BREW / HTTP/1.0\r\n\r\n", 501, "method"),
    row("row20-unknown-http12", _line(b"BREW / HTTP/1.2"), 501, "method"),
    row("row20-unknown-behind-a-line", b"\r\n" + _line(b"BREW / HTTP/1.1"), 501, "method"),
    row("row20-unknown-with-two-lengths", request(b"Content-Length: 1", b"Content-Length: 2",
        line=b"BREW / HTTP/1.1"), 501, "method"),
    *(
        row(f"row20-{line!r}", _line(line), 400, "")
        for line in (
            b"G(T / HTTP/1.1", b"G\xc9T / HTTP/1.1", b"BR EW / HTTP/1.1", b"BREW\t/ HTTP/1.1",
            b"BREW  / HTTP/1.1", b"BREW / HTTP/1.1 ", b"BREW /", b"BREW", b"BREW / HTTP/1.10",
            b"GET/ HTTP/1.1", b"{} / HTTP/1.1",
        )
    ),
    row("row20-known-with-two-lengths", request(b"Content-Length: 1", b"Content-Length: 2",
        line=b"LOCK / HTTP/1.1"), 400, ""),
    # 18
    *(
        row(f"row18-{name}", data, 400, "")
        for name, data in {
            "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            "zeros": b"\0" * 64 + b"\r\n\r\n",
            "high": b"\xff" * 64 + b"\r\n\r\n",
            "ssh": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            "socks": b"\x05\x01\x00\r\n\r\n",
            "response": b"HTTP/1.1 200 OK\r\n\r\n",
            "nothing": b"",
            "crlf-crlf": b"\r\n\r\n",
            "json": b'{"a": 1}\r\n\r\n',
        }.items()
    ),
    row("row18-http2-preface", b"PRI * HTTP/2.0\r\n\r\n", 505, ""),
    row("row18-two-heads", request() + request(), 400, ""),
    # 19
    row("row19-missing", _host(), 400, "Host"),
    row("row19-repeated", _host(b"Host: a", b"Host: a"), 400, "Host"),
    row("row19-repeated-odd-case", _host(b"Host: a", b"hOST: b"), 400, "Host"),
    row("row19-repeated-empty", _host(b"Host: a", b"Host:"), 400, "Host"),
    row("row19-repeated-http10", request(b"Host: b", line=b"GET / HTTP/1.0"), 400, "Host"),
    row("row19-underscore-is-no-host", _host(b"Ho_st: a"), 400, "Host"),
    *(
        row(f"row19-{host!r}", _host(b"Host: " + host), 400, "Host")
        for host in (
            b"u@a", b"u:p@a", b"a/b", b"a,b", b"a, b", b"a b", b"a\\b", b"a?b", b"a#b", b"[::1",
            b"::1", b"[::1]x", b"[g]", b"a:b", b"a:80:80", b"a:999999", b":80", b"http://a",
            b"a\tb",
            b"a\xe9", b"a\xa0", b'a"', b"a<b", b"a^b", b"a|b",
            # RFC 3986 section 3.2.2: what is in brackets is an IPv6 address.
            b"[::::]", b"[:]", b"[]", b"[.]", b"[1.2.3.4]", b"[1:2:3:4:5:6:7]", b"[::1", b"[::1]]",
            b"[1:2:3:4:5:6:7:8:9]", b"[12345::]", b"[1::2::3]", b"[::1.2.3]", b"[::1.2.3.256]",
            b"[::1]:x", b"[::1]:65536", b"[::1] :80", b"a[::1]", b"[fe80::1%25eth0]", b"[v1.a]",
            b"[fe80::1%eth0]", b"[ ::1]",
            b"a:65536", b"a:99999", b"a:-1", b"a:+1", b"a:1 2", b"a%", b"a%2", b"a%zz", b".",
            b".:80",
        )
    ),
    *(
        row(f"row19-absolute-{host!r}", _line(b"GET http://%b/ HTTP/1.1" % host), 400, "authority")
        for host in (b"[::::]", b"[1.2.3.4]", b"a:65536", b"a%zz", b"[::1]x"
        )
    ),
    row("row19-absolute-without-host", _host()[:4] + b"http://b" + _host()[4:], 400, ""),
    *(
        row(f"row19-{target!r}", _line(b"GET %b HTTP/1.1" % target), 400, "")
        for target in (
            b"http://u@b/", b"http:///a", b"http://:80/", b"http:/a", b"http:a", b"http://b,c/",
            b"http://b\\c/", b"http://", b"ftp://b/", b"ws://b/", b"file:///etc/passwd", b"a",
            b"?a",
        )
    ),
    row("row19-absolute-and-bad-host", request(line=b"GET http://b/ HTTP/1.1", host=b"Host: a/b"),
        400, "Host"),
    # 20
    row("row20-star", _line(b"GET * HTTP/1.1"), 400, "target"),
    row("row20-star-post", _line(b"POST * HTTP/1.1"), 400, "target"),
    row("row20-two-stars", _line(b"OPTIONS ** HTTP/1.1"), 400, "target"),
    row("row20-star-path", _line(b"OPTIONS */a HTTP/1.1"), 400, "target"),
    row("row20-connect", _line(b"CONNECT a:80 HTTP/1.1"), 405, "CONNECT"),
    row("row20-connect-path", _line(b"CONNECT / HTTP/1.1"), 405, "CONNECT"),
    row("row20-connect-length", request(b"Content-Length: 5", line=b"CONNECT a:80 HTTP/1.1"), 405,
        "CONNECT"),
    row("row20-trace-with-a-body", request(b"Content-Length: 5", line=b"TRACE / HTTP/1.1"), 400,
        "TRACE"),
    row("row20-two-numbers-of-hops", request(b"Max-Forwards: 1", b"Max-Forwards: 2",
        line=b"OPTIONS / HTTP/1.1"), 400, "Max-"),
    row("row20-hops-no-number", request(b"Max-Forwards: +1", line=b"OPTIONS / HTTP/1.1"), 400,
        "Max-"),
]  # fmt: skip


def _ok(name: str, data: bytes, **expected: object):
    return row(name, data, expected)


_SOCKET = (b"Connection: Upgrade", b"Upgrade: websocket")

ACCEPTED = [
    _ok("plain", request(), method=b"GET", target=b"/", version=1, length=0, host=b"a",
        host_name="a", keep_alive=True, upgrade=b"", expects_continue=False, cookies=None),
    _ok("chunked", request(b"Transfer-Encoding: chunked"), length=CHUNKED),
    _ok("chunked-odd-case", request(b"TRANSFER-encoding:\tCHUNKed"), length=CHUNKED),
    _ok("length", request(b"Content-Length: 5"), length=5),
    _ok("length-0", request(b"Content-Length: 0"), length=0),
    _ok("length-leading-zeros", request(b"content-length:005"), length=5),
    # RFC 9110 section 5.5: white space around a value is no part of it.
    *(
        _ok(f"row13-white-space-behind-{name}", data, **expected)
        for name, data, expected in (
            ("length", request(b"Content-Length: 5 "), {"length": 5}),
            ("coding", request(b"Transfer-Encoding: chunked "), {"length": CHUNKED}),
            ("length-tab", request(b"Content-Length: \t5 \t"), {"length": 5}),
            ("hops", request(b"Max-Forwards: 0 ", line=b"TRACE / HTTP/1.1"), {"method": b"TRACE"}),
            ("request-id", request(b"X-Request-ID: \tabc \t"), {"request_id": b"abc"}),
            ("cookie", request(b"Cookie: a=b \t"), {"cookies": [b"a=b"]}),
            ("upgrade", request(b"Connection: Upgrade\t", b"Upgrade: websocket\t", *HANDSHAKE),
                {"upgrade": b"websocket"}),
            ("any", request(b"A: \t b c \t "), {"forwarded": b"A: b c\r\n"}),
            ("repeated", request(b"A: b ", b"A: c\t", b"B:  "),
                {"forwarded": b"A: b\r\nA: c\r\nB: \r\n"}),
            ("no-host", request(host=b"Host: \t "), {"host": b"", "host_name": ""}),
            ("host", request(host=b"Host: a "), {"host": b"a"}),
            ("host-tab", request(host=b"Host:\ta\t"), {"host": b"a", "host_name": "a"}),
            ("expect", request(b"Expect: 100-continue "), {"expects_continue": True}),
        )
    ),
    _ok("row4-underscores", request(b"Content_Length: 5", b"Transfer_Encoding: chunked"), length=0),
    _ok("row4-and-the-real-one", request(b"Content_Length: 5", b"Content-Length: 3"), length=3),
    *(
        _ok(f"row6-body-on-{method.decode()}",
            request(b"Content-Length: 5", line=method + b" / HTTP/1.1"), method=method, length=5)
        for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS")
    ),
    _ok("row7-expect", request(b"Expect: 100-Continue", b"Content-Length: 5"), length=5,
        expects_continue=True),
    _ok("row7-expect-http10", request(b"Expect: 100-continue", line=b"POST / HTTP/1.0"), length=0,
        expects_continue=False),
    _ok("row13-obs-text-and-tabs", request(b"A: \x80\xff\tb c"), length=0),
    _ok("row13-empty-value", request(b"A:", b"B: "), length=0),
    _ok("row14-one-crlf", b"\r\n" + request(), target=b"/", version=1),
    _ok("row14-one-crlf-http10", b"\r\nGET / HTTP/1.0\r\n\r\n", version=0),
    *(
        _ok(f"row15-{line!r}", data, version=1, keep_alive=True, target=b"/")
        for line, data in {
            b"GET / HTTP/1.2": _line(b"GET / HTTP/1.2"),
            b"GET / HTTP/1.9": _line(b"GET / HTTP/1.9"),
            b"CRLF": b"\r\n" + _line(b"GET / HTTP/1.2"),
        }.items()
    ),
    *(
        _ok(f"row16-{target!r}", _line(b"GET %b HTTP/1.1" % target), target=target)
        for target in (
            b"/%00", b"/\\", b"/%0d%0a", b"//", b"//a", b"/../", b"/a/./b/../c", b"/%2e%2E/",
            b"/a?b?c",
            b"/;a=b", b"/?", b"/" + b"a" * 16383, b'/"<>^`{|}', b"/http://b/", b"/*", b"/%zz",
        )
    ),
    _ok("row17-most-fields", request(*[b"X: y"] * (MOST_FIELDS - 1)), length=0),
    *(
        _ok(f"row19-{host!r}", _host(b"Host: " + host), host=host, host_name=name)
        for host, name in {
            b"A.B": "a.b", b"a:80": "a", b"a:": "a", b"[::1]": "[::1]", b"[::1]:80": "[::1]",
            b"1.2.3.4:5": "1.2.3.4", b"xn--a_b": "xn--a_b", b"": "", b"a.b.": "a.b",
            b"[2001:DB8::A]:8080": "[2001:db8::a]", b"[::]": "[::]", b"[::1]:": "[::1]",
            b"[::ffff:192.0.2.1]": "[::ffff:192.0.2.1]", b"[1:2:3:4:5:6:7:8]": "[1:2:3:4:5:6:7:8]",
            b"a:65535": "a", b"a:0": "a", b"a%41": "a%41",
            b"a.:80": "a",
        }.items()
    ),
    _ok("row19-none-in-http10", b"GET / HTTP/1.0\r\n\r\n", host=b"", host_name="", version=0),
    *(
        _ok(f"row19-{target!r}", _line(b"GET %b HTTP/1.1" % target), host=host, target=path)
        for target, host, path in (
            (b"http://B:80/x?y", b"B:80", b"/x?y"), (b"http://b", b"b", b"/"),
            (b"HTTPS://b/", b"b", b"/"), (b"http://b?x", b"b", b"/?x"),
            (b"http://[::1]:80/", b"[::1]:80", b"/"), (b"http://b//c", b"b", b"//c"),
        )
    ),
    _ok("row20-options-star", _line(b"OPTIONS * HTTP/1.1"), target=b"*"),
    _ok("row20-options-authority", _line(b"OPTIONS http://b HTTP/1.1"), target=b"*", host=b"b"),
    _ok("row20-options-path", _line(b"OPTIONS http://b/ HTTP/1.1"), target=b"/", host=b"b"),
    _ok("row20-trace", request(b"Max-Forwards: 0", line=b"TRACE / HTTP/1.1"), method=b"TRACE"),
    # 24
    _ok("row24-websocket", request(*_SOCKET, *HANDSHAKE), upgrade=b"websocket", length=0),
    _ok("row24-odd-case", request(b"connection: keep-alive, UPGRADE", b"UPGRADE: WebSocket",
        *HANDSHAKE), upgrade=b"websocket", keep_alive=True),
    _ok("row24-h2c", request(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c",
        b"HTTP2-Settings: x"), upgrade=b""),
    _ok("row24-h2c-too", request(b"Connection: Upgrade", b"Upgrade: h2c, websocket"), upgrade=b""),
    _ok("row24-h2c-line", request(*_SOCKET, b"Upgrade: h2c", *HANDSHAKE), upgrade=b""),
    _ok("row24-not-in-connection", request(b"Upgrade: websocket", *HANDSHAKE), upgrade=b""),
    _ok("row24-no-protocol", request(b"Connection: Upgrade"), upgrade=b""),
    _ok("row24-post", request(*_SOCKET, *HANDSHAKE, line=b"POST / HTTP/1.1"), upgrade=b""),
    _ok("row24-body", request(*_SOCKET, *HANDSHAKE, b"Content-Length: 5"), upgrade=b"", length=5),
    _ok("row24-chunks", request(*_SOCKET, b"Transfer-Encoding: chunked"), upgrade=b"", length=-1),
    _ok("row24-http10", request(*_SOCKET, *HANDSHAKE, line=b"GET / HTTP/1.0"), upgrade=b""),
    *(
        _ok(f"row24-{name}", request(*_SOCKET, *fields), upgrade=b"")
        for name, fields in {
            "no-key": [HANDSHAKE[0]],
            "no-version": [HANDSHAKE[1]],
            "two-keys": [*HANDSHAKE, HANDSHAKE[1]],
            "two-versions": [*HANDSHAKE, HANDSHAKE[0]],
            "key-of-15-bytes": [HANDSHAKE[0], b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA"],
            "key-no-base64": [HANDSHAKE[0], b"Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="],
            "key-empty": [HANDSHAKE[0], b"Sec-WebSocket-Key:"],
            "version-x": [HANDSHAKE[1], b"Sec-WebSocket-Version: x"],
            "version-8": [HANDSHAKE[1], b"Sec-WebSocket-Version: 8"],
            "version-list": [HANDSHAKE[1], b"Sec-WebSocket-Version: 13, 8"],
        }.items()
    ),
    _ok("row24-blanks", request(*_SOCKET, *(field + b" \t" for field in HANDSHAKE)),
        upgrade=b"websocket"),
    # 25, and how long a connection lives (RFC 9112 section 9.3)
    _ok("row25-http10", request(line=b"GET / HTTP/1.0"), keep_alive=False),
    _ok("row25-keep-alive", request(b"Connection: Keep-Alive", line=b"GET / HTTP/1.0"),
        keep_alive=True),
    _ok("row25-both", request(b"Connection: keep-alive, close", line=b"GET / HTTP/1.0"),
        keep_alive=False),
    _ok("close", request(b"Connection: close"), keep_alive=False),
    _ok("close-of-two-lines", request(b"Connection: x", b"connection: , CLOSE\t,"),
        keep_alive=False),
    _ok("close-and-keep-alive", request(b"Connection: close", b"Connection: keep-alive"),
        keep_alive=False),
    _ok("no-close", request(b"Connection: close x", b"X-Connection: close"), keep_alive=True),
    _ok("row22-proxy-connection", request(b"Proxy-Connection: close"), keep_alive=True),
    _ok("cookies", request(b"Cookie: a=b", b"COOKIE: c=d"), cookies=[b"a=b", b"c=d"]),
    _ok("request-id", request(b"X-Request-ID: abc-1"), request_id=b"abc-1"),
    _ok("row23-request-ids", request(b"X-Request-ID: a", b"X-Request-ID: b"), request_id=b"a"),
    _ok("row23-request-id-odd", request(b"X-Request-ID: a b"), request_id=b""),
    _ok("row23-request-id-long", request(b"X-Request-ID: " + b"a" * 129), request_id=b""),
]  # fmt: skip

HEADS = [case.values[0] for case in (*REFUSED, *ACCEPTED)]


@pytest.mark.parametrize(("data", "status", "reason"), REFUSED)
def test_refused(data: bytes, status: int, reason: str) -> None:
    with pytest.raises(RequestRefused) as refusal:
        parse_request(data)
    assert (refusal.value.status, reason in refusal.value.reason) == (status, True), refusal.value
    assert refusal.value.termination == "PR"


@pytest.mark.parametrize(("data", "expected"), ACCEPTED)
def test_accepted(data: bytes, expected: dict[str, object]) -> None:
    head = parse_request(data)
    assert {name: getattr(head, name) for name in expected} == expected


def test_row17_the_number_of_fields_is_configured() -> None:
    parser = RequestParser(Limits(header_count=10))
    assert parser.parse(request(*[b"X: y"] * 9)).length == 0
    with pytest.raises(RequestRefused, match="10 header fields"):
        parser.parse(request(*[b"X: y"] * 10))


@pytest.mark.parametrize(
    ("data", "can_repeat"),
    [
        *((request(line=m + b" / HTTP/1.1"), True) for m in (b"GET", b"HEAD", b"PUT", b"DELETE")),
        *((request(line=m + b" / HTTP/1.1"), False) for m in (b"POST", b"PATCH", b"LOCK")),
        (request(b"idempotency-KEY: 1", line=b"POST / HTTP/1.1"), True),
        (request(b"Idempotency_Key: 1", line=b"POST / HTTP/1.1"), False),
        (request(b"X: Idempotency-Key", line=b"POST / HTTP/1.1"), False),
        (request(b"Idempotency-Key: 1", b"Connection: idempotency-key", line=b"POST / HTTP/1.1"),
            True),
    ],
)  # fmt: skip
def test_can_repeat(data: bytes, can_repeat: bool) -> None:
    assert parse_request(data).can_repeat is can_repeat


# One parser serves all connections: nothing of one head may be seen in the next.

_FOLLOWERS = [request(), request(b"Connection: close"), request(b"Content-Length: 5"), b"x\r\n\r\n"]


@pytest.mark.parametrize("first", [pytest.param(c.values[0], id=c.id) for c in REFUSED + ACCEPTED])
def test_a_parser_forgets_the_head_before(first: bytes) -> None:
    for follower in _FOLLOWERS:
        parser = request_parser()
        with suppress(RequestRefused, RecursionError):  # which, is asked above
            parser.parse(first)
        assert outcome(parser, follower) == outcome(request_parser(), follower)


_any_heads = st.one_of(
    st.sampled_from([case.values[0] for case in ACCEPTED]),
    requests().map(lambda message: message.head),
    mutated(requests().map(lambda message: message.head)).map(first_head),
    st.sampled_from([head for head in HEADS if len(head) < 3000])
    | st.binary(max_size=30).map(first_head),
)


@examples(60)
@given(st.lists(_any_heads, min_size=2, max_size=8))
def test_a_used_parser_is_as_good_as_a_new_one(heads: list[bytes]) -> None:
    parser = request_parser()
    for head in heads:
        assert outcome(parser, head) == outcome(request_parser(), head)


# Any bytes at all.


@examples(200)
@given(st.binary(max_size=200).map(first_head))
def test_any_bytes_are_understood_or_refused(data: bytes) -> None:
    outcome(request_parser(), data)  # raises what `parse` should not


@examples(180)
@given(mutated(st.one_of(requests().map(lambda m: m.head), st.sampled_from(HEADS))).map(first_head))
def test_what_is_accepted_is_what_others_read(data: bytes) -> None:
    """A changed head is refused, or h11 reads from it what it reads from what we forward."""
    try:
        head = parse_request(data)
    except RequestRefused:
        return
    follower = request(line=b"GET /follower HTTP/1.1")
    if head.length == CHUNKED:
        body = b"3\r\nabc\r\n0\r\n\r\n"
    elif head.length > 1000:
        return
    else:
        body = b"x" * head.length
    try:
        original = h11_request(data.removeprefix(b"\r\n") + body + follower)
    except (h11.RemoteProtocolError, Incomplete) as error:
        pytest.fail(f"accepted, but h11 says: {error!r}")
    ours = h11_request(forward(head) + body + follower)
    assert ours[1:] == original[1:]
    assert ours[2] == follower
    assert ours[0].method == original[0].method
    if original[0].target.startswith(b"/"):
        assert ours[0].target == original[0].target


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"DELETE"])
def test_fields_that_come_again_mean_the_same_in_another_request(method: bytes) -> None:
    """What one request does with its head must not be seen by the next one with such fields."""
    fields = [b"Host: a", b"Cookie: x=1; y=2", b"Via: 1.1 p", b"X-Own: b", b"Connection: x-own"]
    again = fields
    if method in (b"POST", b"DELETE"):
        fields, again = [*fields, b"Content-Length: 10"], [*fields, b"Content-Length: 7"]
    parser = request_parser()
    for _ in range(3):
        first = parser.parse(b"\r\n".join([method + b" /first HTTP/1.1", *fields, b"", b""]))
        first.cookies = first.rare = None
        first.forwarded = b""
        first.request_id = b"mine"
    second = b"\r\n".join([method + b" /again?x HTTP/1.1", *again, b"", b""])
    assert outcome(parser, second) == outcome(request_parser(), second)
    assert parser.parse(second) is not parser.parse(second)


@pytest.mark.parametrize(
    "line",
    [
        b"GET  / HTTP/1.1", b"GET / HTTP/1.0", b"GET / HTTP/2.0", b"GET /#a HTTP/1.1",
        b"GET a HTTP/1.1", b"get / HTTP/1.1", b"GET / HTTP/1.1 ", b"\r\nGET / HTTP/1.1",
        b"GET /\x80 HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET * HTTP/1.1", b"POST / HTTP/1.1",
        b"GET http://b/ HTTP/1.1", b"GETX / HTTP/1.1", b"GET /" + b"x" * 20_000 + b" HTTP/1.1",
    ],
)  # fmt: skip
def test_known_fields_excuse_no_line(line: bytes) -> None:
    parser = request_parser()
    for _ in range(3):
        parser.parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    data = line + b"\r\nHost: a\r\n\r\n"
    assert outcome(parser, data) == outcome(request_parser(), data)


# The caches of heads: they make small requests cheap, so they have to be used, and to stay small.


def _post(*fields: bytes, method: bytes = b"POST") -> bytes:
    return request(*fields, line=method + b" / HTTP/1.1")


_MANY = [b"X: " + b"y" * 97] * 21  # more than is kept
_FIVE, _SIX = b"Content-Length: 5", b"Content-Length: 6"
_CODING = b"Transfer-Encoding: chunked"


@pytest.mark.pure_only("the method that reads a head is patched")
@pytest.mark.parametrize(
    ("first", "second", "is_read"),
    [
        row("same-fields", request(), request(line=b"GET /other?x HTTP/1.1"), False),
        row("of-a-head", request(b"Cookie: a=b"),
            request(b"Cookie: a=b", line=b"HEAD / HTTP/1.1"), False),
        row("another-value", request(b"X: a"), request(b"X: b"), True),
        row("another-order", request(b"X: a", b"Y: b"), request(b"Y: b", b"X: a"), True),
        row("another-version", request(), request(line=b"GET / HTTP/1.0"), True),
        row("another-method", request(), request(line=b"OPTIONS / HTTP/1.1"), True),
        row("a-body-of-a-get", request(_FIVE), request(_FIVE), True),
        row("a-handshake", request(b"Connection: Upgrade"), request(b"Connection: Upgrade"), True),
        row("too-long", request(*_MANY), request(*_MANY), True),
        row("same-length", _post(_FIVE), _post(_FIVE), False),
        row("another-length", _post(_FIVE, b"X: y"), _post(_SIX, b"X: y"), False),
        row("no-length-then-none", _post(b"X: y", _FIVE), _post(b"X: y"), True),
        row("in-lower-case", _post(_FIVE.lower()), _post(_SIX.lower()), False),
        row("in-another-case", _post(_FIVE.upper()), _post(_SIX.upper()), True),
        row("put", _post(_FIVE, method=b"PUT"), _post(_SIX, method=b"PATCH"), False),
        row("in-chunks", _post(_CODING), _post(_CODING), True),
        row("with-a-key", _post(b"Idempotency-Key: a", _FIVE), _post(b"Idempotency-Key: a", _FIVE),
            True),
        row("a-get-of-the-same", _post(_FIVE), request(_FIVE), True),
    ],
)  # fmt: skip
def test_fields_that_came_twice_are_not_read_again(
    first: bytes, second: bytes, is_read: bool
) -> None:
    parser = request_parser()
    parser.parse(first)
    parser.parse(first)
    with counted_heads() as read:
        head = parser.parse(second)
    assert read == [second] * is_read
    line = second.split(b" ")
    assert (head.method, head.target, head.host_name) == (line[0], line[1], "a")
    assert head.length == parse_request(second).length


@pytest.mark.parametrize(
    ("known", "data"),
    [
        row("an-empty-length", _post(_FIVE, b"X: y"), _post(b"Content-Length: ", b"X: y")),
        row("an-empty-length-of-a-get", _post(_FIVE), request(b"Content-Length: ")),
        row("two-lengths", _post(b"content-length: 5"), _post(_FIVE, b"content-length: 5")),
        row("two-equal-lengths", _post(_FIVE), _post(_FIVE, _FIVE)),
        row("two-lengths-behind-each-other", _post(_FIVE, b"X: y"), _post(_FIVE, _SIX, b"X: y")),
        row("a-length-and-a-coding", _post(_CODING), _post(_CODING, _FIVE)),
        row("no-number", _post(_FIVE), _post(b"Content-Length: +5")),
        row("too-large-a-number", _post(_FIVE), _post(b"Content-Length: 1" + b"0" * 18)),
        row("digits-and-a-blank", _post(_FIVE), _post(b"Content-Length: 5 ")),
        row("a-length-in-a-value", _post(b"X: Content-Length: 5"), _post(b"X: Content-Length: 6")),
        row("a-nominated-field", _post(_FIVE, b"X: y"), _post(_FIVE, b"Connection: x", b"X: y")),
        row("an-idempotent-method", _post(_FIVE, method=b"PUT"), _post(_FIVE)),
        row("no-idempotent-method", _post(_FIVE), _post(_FIVE, method=b"PUT")),
        row("an-idempotency-key", _post(_FIVE, b"Idempotency-Key: a", method=b"PUT"),
            _post(_FIVE, b"Idempotency-Key: a")),
    ],
)  # fmt: skip
def test_what_is_known_does_not_change_what_is_similar(known: bytes, data: bytes) -> None:
    parser = request_parser()
    for _ in range(3):
        outcome(parser, known)
    assert outcome(parser, data) == outcome(request_parser(), data)


def test_the_table_of_heads_stays_small_and_useful() -> None:
    parser = request_parser()
    known = request(b"X: known")
    for i in range(3000):
        parser.parse(request(b"X: %d" % i))
        parser.parse(request(b"X: %d" % i))
        parser.parse(known)
        assert len(parser._without_body) <= 1024
    with counted_heads() as read:
        parser.parse(known)
        parser.parse(request(b"X: 2999", line=b"GET /again HTTP/1.1"))
    assert read == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 100, 414),
        (b"GET /" + b"a" * 50 + b" HTTP/1.1\r\nA: b\r\n", 414),
        (b"GET /" + b"a" * 50 + b" HTTP/1.1", 414),
        (b"\r\nGET /" + b"a" * 50 + b" HTTP/1.1\r\nA: b\r\n", 414),
        (b"GET /a", 414),  # its end has not come, although the head is as long as heads may be
        (b"\r\nGET /a", 414),
        (b"GET /a HTTP/1.1", 431),
        (b"GET /a HTTP/1.1\r\nA: " + b"b" * 100, 431),
        (b"GET /a b c d e f g h i j k l m n o p q r s t u v w x y z", 431),
        (b"A" * 100, 431),
        (b"A" * 100 + b"\r\n", 431),
    ],
)
def test_row17_a_head_that_is_too_large_for_its_target_is_a_414(data: bytes, status: int) -> None:
    parser = RequestParser(Limits.model_construct(target_size=50, header_count=MOST_FIELDS))
    assert parser.too_large(data).status == parser.too_large(bytearray(data)).status == status
