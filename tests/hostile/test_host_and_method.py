"""Rows 19 and 20: the host of a request, and methods that are for proxies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.hostile import (
    BEHIND,
    Way,
    echo,
    h1_row,
    in_two_ways,
    is_passed,
    is_refused,
    row,
)
from tests.support.origin import answers

if TYPE_CHECKING:
    from tests.support.stage import Stage


def get(*hosts: str, target: str = "/", version: str = "1.1") -> bytes:
    lines = [f"GET {target} HTTP/{version}", *(f"Host:{host}" for host in hosts)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


# What arrives, the status, a part of the reason in the log.
REFUSED = [
    h1_row(19, "none", get(), 400, "Host"),
    h1_row(19, "two", get(" a", " b"), 400, "Host"),
    h1_row(19, "two-of-the-same", get(" a", " a"), 400, "Host"),
    h1_row(19, "two-one-empty", get(" a", ""), 400, "Host"),
    h1_row(19, "two-in-http-1.0", get(" a", " b", version="1.0"), 400, "Host"),
    h1_row(19, "two-in-odd-case", b"GET / HTTP/1.1\r\nHOST: a\r\nhost: b\r\n\r\n", 400, "Host"),
    h1_row(19, "only-a-twin", b"GET / HTTP/1.1\r\nHo_st: a\r\n\r\n", 400, "Host"),
    row(19, "userinfo", get(" evil@a"), 400, "Host"),
    row(19, "path", get(" a/evil"), 400, "Host"),
    row(19, "query", get(" a?evil"), 400, "Host"),
    row(19, "list", get(" a, b"), 400, "Host"),
    row(19, "space", get(" a b"), 400, "Host"),
    row(19, "backslash", get(" a\\b"), 400, "Host"),
    row(19, "obs-text", get(" a\xa0"), 400, "Host"),
    row(19, "no-port-number", get(" a:b"), 400, "Host"),
    row(19, "open-bracket", get(" [::1"), 400, "Host"),
    row(19, "no-ipv6-address", get(" [::::]"), 400, "Host"),
    row(19, "ipv4-in-brackets", get(" [127.0.0.1]"), 400, "Host"),
    row(19, "zone", get(" [fe80::1%25eth0]"), 400, "Host"),
    row(19, "behind-the-bracket", get(" [::1]x"), 400, "Host"),
    row(19, "port-number-too-large", get(" a:65536"), 400, "Host"),
    row(19, "only-a-port", get(" :80"), 400, "Host"),
    row(19, "half-an-escape", get(" a%2"), 400, "Host"),
    h1_row(19, "absolute-with-no-ipv6-address", get(" a", target="http://[::::]/"), 400, "target"),
    row(19, "scheme", get(" http://a"), 400, "Host"),
    # The target wins over Host, but a request with no good Host is refused all the same.
    h1_row(19, "absolute-and-none", get(target="http://a/"), 400, "Host"),
    h1_row(19, "absolute-and-two", get(" a", " b", target="http://a/"), 400, "Host"),
    h1_row(19, "absolute-and-malformed", get(" a/b", target="http://a/"), 400, "Host"),
    row(19, "absolute-with-userinfo", get(" a", target="http://evil@a/"), 400, "target"),
    row(19, "absolute-without-authority", get(" a", target="http:///a"), 400, "target"),
    h1_row(19, "absolute-with-a-list", get(" a", target="http://a,b/"), 400, "target"),
    row(19, "another-scheme", get(" a", target="ftp://a/"), 400, "target"),
    row(19, "no-path", get(" a", target="evil"), 400, ""),
    row(20, "star-of-a-get", get(" a", target="*"), 400, "target"),
    row(20, "star-and-more", b"OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
    row(20, "unknown", b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "method"),
    row(20, "unknown-with-a-body",
        b"brew / HTTP/1.1\r\nHost: a\r\nContent-Length: 38\r\n\r\n" + BEHIND, 501, "method"),
    row(20, "no-token", b"BR(W / HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    h1_row(20, "connect", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "CONNECT"),
    h1_row(20, "connect-with-a-length",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 38\r\n\r\n" + BEHIND, 405,
        "CONNECT"),
    row(20, "trace-with-a-body", b"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n!", 400,
        "TRACE"),
    row(20, "hops-no-number", b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: +1\r\n\r\n", 400,
        "Max-Forwards"),
    row(20, "hops-twice",
        b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\nMax-Forwards: 2\r\n\r\n", 400,
        "Max-Forwards"),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "status", "reason"), REFUSED)
@in_two_ways
async def test_refused(stage: Stage, way: Way, wire: bytes, status: int, reason: str) -> None:
    await is_refused(stage, way, wire, status, reason)


def host(value: str) -> dict[str, str | None]:
    """Both say the same, so no origin goes by another one than we did."""
    return {"Host": value, "X-Forwarded-Host": value}


NO_HOST: dict[str, str | None] = {"Host": "agents", "X-Forwarded-Host": ""}

# What arrives; the first line and the fields that the origin sees.
PASSED = [
    row(19, "port", get(" a:8080"), "GET / HTTP/1.1", host("a:8080")),
    row(19, "ipv6", get(" [::1]:80"), "GET / HTTP/1.1", host("[::1]:80")),
    row(19, "no-blank", get("a"), "GET / HTTP/1.1", host("a")),
    row(19, "blanks-around", get("\t a \t"), "GET / HTTP/1.1", host("a")),
    row(19, "no-port-number", get(" a:"), "GET / HTTP/1.1", host("a:")),
    # As a request of HTTP/1.0 without Host: to servers, the backend's name (RFC 9112 section 3.3).
    h1_row(19, "empty", get(""), "GET / HTTP/1.1", NO_HOST),
    h1_row(19, "only-blanks", get(" \t "), "GET / HTTP/1.1", NO_HOST),
    # RFC 9112 section 3.2.2
    row(19, "absolute", get(" evil", target="http://right:8/p?q"), "GET /p?q HTTP/1.1",
        host("right:8")),
    row(19, "absolute-in-odd-case", get(" evil", target="HTTP://right"), "GET / HTTP/1.1",
        host("right")),
    row(19, "absolute-with-a-query", get(" evil", target="http://right?q"), "GET /?q HTTP/1.1",
        host("right")),
    row(19, "absolute-with-two-slashes", get(" evil", target="http://right//p"),
        "GET //p HTTP/1.1", host("right")),
    row(20, "options-star", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1",
        host("a")),
    # RFC 9112 section 3.2.4: the whole server, by way of a proxy.
    h1_row(20, "options-of-an-authority", b"OPTIONS http://right:8 HTTP/1.1\r\nHost: evil\r\n\r\n",
        "OPTIONS * HTTP/1.1", host("right:8")),
    row(20, "options-of-a-path", b"OPTIONS http://right/ HTTP/1.1\r\nHost: evil\r\n\r\n",
        "OPTIONS / HTTP/1.1", host("right")),
    row(20, "hops-of-options", b"OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 7\r\n\r\n",
        "OPTIONS * HTTP/1.1", {"Max-Forwards": "6"}),
    row(20, "the-last-hop", b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\n\r\n",
        "OPTIONS / HTTP/1.1", {"Max-Forwards": "0"}),
    row(20, "hops-of-a-get", b"GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
        "GET / HTTP/1.1", {}),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "start", "fields"), PASSED)
async def test_passed(
    stage: Stage, way: Way, wire: bytes, start: str, fields: dict[str, str | None]
) -> None:
    await is_passed(stage, way, wire, start, fields, b"")


@pytest.mark.http1_only("one of the requests has an empty Host")
@pytest.mark.row(19)
async def test_routes_go_by_the_host_that_is_forwarded(stage: Stage) -> None:
    """If one were read and the other forwarded, a client could reach a forbidden backend."""
    inner = await stage.serving(answers(b"inner"))
    default = await stage.serving(answers(b"default"))
    backend = {"servers": [{"name": "i", "address": f"127.0.0.1:{inner.port}"}]}
    lb = await stage.balancer(
        default,
        frontend={"routes": [{"host": "inner.test", "backend": "inner"}]},
        backends={"inner": backend},
    )
    client = await stage.client(lb)
    for wire, body in [
        (get(" inner.test"), b"inner"),
        (get(" INNER.test:80"), b"inner"),
        (get(" public.test", target="http://inner.test/"), b"inner"),
        (get(" inner.test", target="http://public.test/"), b"default"),
        (get(" inner.test.evil"), b"default"),
        (get(""), b"default"),
        (get("", target="http://inner.test/"), b"inner"),
    ]:
        assert (await client.answer_to(wire)).body == body
    assert [seen.get("Host") for seen in inner.requests] == [
        "inner.test", "INNER.test:80", "inner.test", "inner.test",
    ]  # fmt: skip
    assert [seen.get("Host") for seen in default.requests] == [
        "public.test", "inner.test.evil", "agents",
    ]  # fmt: skip


# TRACE, which would show a script what it must not see.

SECRETS = (
    b"Authorization: Bearer secret\r\nCookie: a=secret\r\nProxy-Authorization: Basic secret\r\n"
)


@pytest.mark.row(20)
@pytest.mark.parametrize("fields", [b"", b"Max-Forwards: 0\r\n"], ids=["plain", "no-hops-left"])
async def test_trace_is_405(stage: Stage, way: Way, fields: bytes) -> None:
    lb, client, origin = await stage.line()
    wire = b"TRACE / HTTP/1.1\r\nHost: a\r\n" + SECRETS + fields + b"\r\n"
    await (client.send_bytewise(wire) if way is Way.BYTEWISE else client.send(wire))
    answer = await client.read_response()
    assert answer.status == 405
    assert "TRACE" not in (answer.get("Allow") or "")
    assert "GET" in (answer.get("Allow") or "")
    assert b"secret" not in bytes(client.received)
    assert await origin.has_no_new_connection()
    line = await stage.log_line(lb)
    assert (line.status, line.termination, line.server) == (405, "PR", "<NOSRV>")


TRACE: dict[str, Any] = {"frontend": {"trace": True}}


@pytest.mark.row(20)
async def test_trace_is_forwarded_without_credentials_where_it_is_wanted(
    stage: Stage, way: Way
) -> None:
    wire = b"TRACE /p HTTP/1.1\r\nHost: a\r\nX: y\r\nMax-Forwards: 3\r\n" + SECRETS + b"\r\n"
    fields = {
        "Authorization": None, "Cookie": None, "Proxy-Authorization": None, "X": "y",
        "Max-Forwards": "2",
    }  # fmt: skip
    origin = await is_passed(stage, way, wire, "TRACE /p HTTP/1.1", fields, b"", **TRACE)
    assert b"secret" not in origin.requests[0].head.raw


@pytest.mark.http1_only("names in lower case")
@pytest.mark.row(20)
async def test_trace_whose_hops_are_used_up_ends_here(stage: Stage) -> None:
    """RFC 9110 section 9.3.8: the final recipient tells what it got, without credentials."""
    lb, client, origin = await stage.served(echo, **TRACE)
    await client.send(
        b"TRACE /p HTTP/1.1\r\nHost: a\r\nX: y\r\nMax-Forwards: 0\r\n" + SECRETS + b"\r\n" + BEHIND
    )
    answer = await client.read_response()
    assert (answer.status, answer.get("Content-Type")) == (200, "message/http")
    assert answer.body.startswith(b"TRACE /p HTTP/1.1\r\n")
    assert b"\r\nX: y\r\n" in answer.body
    assert b"secret" not in answer.body
    assert (await client.read_response()).body == b"GET /smuggled"  # a request of its own
    assert [message.head.target for message in origin.requests] == ["/smuggled"]
    first = (await stage.logged(lb, 2))[0]
    assert (first.status, first.server, first.termination) == (200, "<NOSRV>", "LR")


@pytest.mark.row(20)
@pytest.mark.parametrize("target", [b"*", b"/"])
async def test_options_whose_hops_are_used_up_ends_here(stage: Stage, target: bytes) -> None:
    _, client, origin = await stage.served(echo)
    await client.send(
        b"OPTIONS %b HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n" % target + BEHIND
    )
    answer = await client.read_response()
    assert (answer.status, answer.body) == (200, b"")
    assert "GET" in (answer.get("Allow") or "")
    assert (await client.read_response()).body == b"GET /smuggled"
    assert [message.head.target for message in origin.requests] == ["/smuggled"]
