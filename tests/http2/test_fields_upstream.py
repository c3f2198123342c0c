"""A request's head as fields of HTTP/2, and a response's fields as a head. Pure."""

from __future__ import annotations

import pytest

from hermes_lb.errors import InvalidResponse
from hermes_lb.http.request import CHUNKED
from hermes_lb.proxy.http2.upstream_fields import as_fields, as_head

OK = (b":status", b"200")


@pytest.mark.parametrize(
    ("head", "pseudo", "fields", "length"),
    [
        (b"GET /a?b HTTP/1.1\r\nHost: h:1\r\nX-A: 1", [b"GET", b"/a?b", b"h:1"], {b"x-a": b"1"}, 0),
        (b"OPTIONS * HTTP/1.1\r\nHost: h", [b"OPTIONS", b"*", b"h"], {}, 0),
        (b"GET / HTTP/1.1\r\nHost: ", [b"GET", b"/"], {}, 0),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5",
            [b"POST", b"/", b"h"], {b"content-length": b"5"}, 5,
        ),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked",
            [b"POST", b"/", b"h"], {}, CHUNKED,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: TE\r\nX:  a:b ",
            [b"GET", b"/", b"h"], {b"te": b"trailers", b"x": b"a:b"}, 0,
        ),
    ],
)  # fmt: skip
def test_a_request(
    head: bytes, pseudo: list[bytes], fields: dict[bytes, bytes], length: int
) -> None:
    asked = as_fields(head, b"https")
    names = [b":method", b":path", b":authority"][: len(pseudo)]
    given = dict(asked.fields)
    assert [given.pop(name) for name in names] == pseudo
    assert given.pop(b":scheme") == b"https"
    assert given == fields
    assert (asked.length, asked.is_head) == (length, False)
    assert all(not name.startswith(b":") for name, _ in asked.fields[len(pseudo) + 1 :])


@pytest.mark.parametrize("between", [b"", b"Content-Length: 5\r\n"])
def test_what_was_remembered_changes_nothing(between: bytes) -> None:
    """Requests that differ in their ids only, and the same with another scheme."""
    for number, scheme in ((b"1", b"https"), (b"2", b"https"), (b"3", b"http")):
        head = b"POST /a HTTP/1.1\r\nHost: h\r\n%bX-Request-ID: %b" % (between, number)
        asked = as_fields(head, scheme)
        given = sorted(asked.fields)
        assert given == sorted([
            (b":authority", b"h"), (b":method", b"POST"), (b":path", b"/a"), (b":scheme", scheme),
            *([(b"content-length", b"5")] if between else []), (b"x-request-id", number),
        ])  # fmt: skip
        assert asked.length == (5 if between else 0)


def test_a_line_behind_the_id_counts() -> None:
    fields = b"Host: h\r\nX-Request-ID: 1\r\nContent-Length: 7"
    asked = as_fields(b"POST / HTTP/1.1\r\n" + fields, b"http")
    assert asked.length == 7
    assert (b"x-request-id", b"1") in asked.fields


@pytest.mark.parametrize(
    ("fields", "ended", "is_head", "added"),
    [
        ([OK], False, False, b"Transfer-Encoding: chunked\r\n"),
        ([OK], True, False, b"Content-Length: 0\r\n"),
        ([OK], True, True, b""),
        ([OK], False, True, b""),
        ([(b":status", b"204")], True, False, b""),
        ([(b":status", b"304")], True, False, b""),
        ([(b":status", b"103")], False, False, b""),
        ([OK, (b"content-length", b"5")], False, False, b"content-length: 5\r\n"),
    ],
)
def test_a_response(
    fields: list[tuple[bytes, bytes]], ended: bool, is_head: bool, added: bytes
) -> None:
    head = as_head(tuple(fields), ended=ended, is_head=is_head)
    assert head == b"HTTP/1.1 %b \r\n%b\r\n" % (fields[0][1], added)


@pytest.mark.parametrize(
    "field",
    [
        (b"connection", b"close"), (b"transfer-encoding", b"chunked"), (b"upgrade", b"h2c"),
        (b"keep-alive", b"5"), (b"X-A", b"1"), (b"x a", b"1"), (b"x:", b"1"), (b"", b"1"),
        (b":path", b"/"), (b"x", b"1\r\ny: 2"), (b"x", b"1\n"), (b"x", b"1\0"), (b"x\r\n", b"1"),
    ],
)  # fmt: skip
def test_malformed_fields(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(InvalidResponse):
        as_head((OK, field), ended=True, is_head=False)
