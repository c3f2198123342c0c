"""Rows 21 to 23: what belongs to one hop, and who may say who the client is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.affinity.keys import KeyOptions
from tests.support.hostile import (
    Way,
    asking,
    h1_row,
    in_two_ways,
    is_passed,
    is_turned_away,
    row,
)
from tests.support.http_peer import Message, request
from tests.support.origin import answers

if TYPE_CHECKING:
    from tests.support.stage import Stage

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
FROM_US = {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "X-Forwarded-Proto": "http",
           "X-Forwarded-Host": "a"}  # fmt: skip

# What arrives; the first line, the fields and the body that the origin sees.
PASSED = [
    # 21: a client may end its own fields, and none that another hop relies on.
    h1_row(21, "its-own", GET + b"Connection: X-A, x-b\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\n\r\n",
        "GET / HTTP/1.1", {"X-A": None, "X-B": None, "X-C": "3", "Connection": None}, b""),
    h1_row(21, "in-two-lines",
        GET + b"Connection: X-A\r\nX-A: 1\r\nconnection:,\tX-B ,\r\nX-B: 2\r\n\r\n",
        "GET / HTTP/1.1", {"X-A": None, "X-B": None, "Connection": None}, b""),
    h1_row(21, "before-and-behind", GET + b"X-A: 1\r\nConnection: X-A\r\nX-A: 2\r\n\r\n",
        "GET / HTTP/1.1", {"X-A": None}, b""),
    row(21, "host", GET + b"Connection: Host\r\n\r\n", "GET / HTTP/1.1", {"Host": "a"}, b""),
    row(21, "length", POST + b"Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1", {"Content-Length": "5"}, b"hello"),
    row(21, "coding",
        POST + b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n", "POST / HTTP/1.1",
        {"Transfer-Encoding": "chunked", "Content-Length": None}, b"hello"),
    row(21, "credentials",
        GET + b"Connection: Authorization, Cookie\r\nAuthorization: Bearer x\r\n"
        b"Cookie: a=b\r\n\r\n",
        "GET / HTTP/1.1", {"Authorization": "Bearer x", "Cookie": "a=b"}, b""),
    row(21, "identity",
        GET + b"Connection: X-Forwarded-For, X-Real-IP, x-forwarded-proto, Via\r\n"
        b"Connection: X-Forwarded-Host, X-Request-ID\r\nX-Request-ID: mine\r\n\r\n",
        "GET / HTTP/1.1", {**FROM_US, "X-Request-ID": "mine"}, b""),
    row(21, "sessions",
        GET + b"Connection: Mcp-Session-Id, Last-Event-ID, Idempotency-Key\r\n"
        b"Mcp-Session-Id: s\r\nLast-Event-ID: 7\r\nIdempotency-Key: k\r\n\r\n", "GET / HTTP/1.1",
        {"Mcp-Session-Id": "s", "Last-Event-ID": "7", "Idempotency-Key": "k"}, b""),
    # 22
    row(22, "keep-alive", GET + b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n",
        "GET / HTTP/1.1", {"Keep-Alive": None, "Connection": None}, b""),
    row(22, "te", GET + b"Connection: TE\r\nTE: gzip;q=0.5\r\n\r\n", "GET / HTTP/1.1",
        {"TE": None}, b""),
    row(22, "te-without-its-option", GET + b"TE: deflate\r\n\r\n", "GET / HTTP/1.1", {"TE": None},
        b""),
    row(22, "proxy",
        GET + b"Proxy: http://evil/\r\nProxy-Connection: close\r\nProxy-Authorization: Basic x\r\n"
        b"Proxy-Authenticate: Basic\r\nProxy-Evil: 1\r\nProxy_Authorization: Basic x\r\n\r\n",
        "GET / HTTP/1.1",
        {"Proxy": None, "Proxy-Connection": None, "Proxy-Authorization": None,
         "Proxy-Authenticate": None, "Proxy-Evil": None, "Proxy_Authorization": None}, b""),
    # 23: the fields of an untrusted client are replaced, in every spelling.
    row(23, "client",
        GET + b"X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\nX-Real-IP: 6.6.6.6\r\n\r\n",
        "GET / HTTP/1.1", FROM_US, b""),
    row(23, "scheme-and-host",
        GET + b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 443\r\n"
        b"X-Forwarded-Prefix: /evil\r\nX-Forwarded-Server: evil\r\n\r\n", "GET / HTTP/1.1",
        {**FROM_US, "X-Forwarded-Port": None, "X-Forwarded-Prefix": None,
         "X-Forwarded-Server": None}, b""),
    row(23, "forwarded", GET + b"Forwarded: for=6.6.6.6;proto=https\r\n\r\n", "GET / HTTP/1.1",
        {**FROM_US, "Forwarded": None}, b""),
    row(23, "twins",
        GET + b"X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_For: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\n"
        b"X_FORWARDED_PROTO: https\r\nX_Forwarded_Port: 443\r\n\r\n", "GET / HTTP/1.1",
        {**FROM_US, "X_Forwarded_For": None, "X-Forwarded_For": None, "X_Real_IP": None,
         "X_Forwarded_Proto": None, "X_Forwarded_Port": None}, b""),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "start", "fields", "body"), PASSED)
@in_two_ways
async def test_passed(
    stage: Stage, way: Way, wire: bytes, start: str, fields: dict[str, str | None], body: bytes
) -> None:
    await is_passed(stage, way, wire, start, fields, body)


# 21: the affinity cookie.


@pytest.mark.row(21)
async def test_no_client_can_nominate_its_affinity_away(stage: Stage) -> None:
    one, two = await stage.serving(answers(b"one")), await stage.serving(answers(b"two"))
    lb = await stage.balancer(one, two, backend={"affinity": {"cookie": "SERVERID"}})
    client = await stage.client(lb)
    for _ in range(3):
        await client.get(
            "/", "Connection: Cookie, SERVERID", "Cookie: a=b; SERVERID=agent2", "SERVERID: x"
        )
        assert (await client.read_response()).body == b"two"
    assert [message.get("Cookie") for message in two.requests] == ["a=b"] * 3
    assert one.requests == []


@pytest.mark.http1_only("Connection names fields")
@pytest.mark.row(21)
@pytest.mark.parametrize(
    "backend",
    [
        {"stick": [{"on": "header:X-Chat-Id"}]},
        {"stick": [{"on": "header:X-Chat-Id", "learn": True, "response_header": "X-Chat"}]},
        {"stick": [{"on": "query:x"}, {"on": "header:x-chat-id"}]},
        {"balance": "consistent_hash", "strategy": {"hash_on": "header:X-Chat-Id"}},
        {"balance": "maglev", "strategy": {"hash_on": "header:X-Chat-Id"}},
    ],
    ids=["stick", "learn", "second-rule", "consistent-hash", "maglev"],
)
async def test_no_client_can_nominate_the_key_away_that_picks_its_server(
    stage: Stage, backend: dict[str, Any]
) -> None:
    """It is for all recipients (RFC 9110 section 7.6.1)."""
    origins = [await stage.serving(answers(b"%d" % number)) for number in range(4)]
    lb = await stage.balancer(*origins, backend=backend)
    client = await stage.client(lb)
    for chat in ("a", "b", "c", "d"):
        first = (await client.ask("/", f"X-Chat-Id: {chat}")).body
        for option in ("X-Chat-Id", "x-chat-id, X-Own", "X-Own, X-Chat-Id"):
            await client.get("/", f"Connection: {option}", f"X-Chat-Id: {chat}", "X-Own: 1")
            assert (await client.read_response()).body == first
    seen = [message for origin in origins for message in origin.requests]
    assert sorted(message.get("X-Chat-Id") or "" for message in seen) == sorted("abcd" * 4)
    own = [message.get("X-Own") for message in seen if message.get("X-Own")]
    assert len(own) == 4  # of those that did not nominate it


@pytest.mark.http1_only("Connection names fields")
@pytest.mark.row(21)
async def test_what_may_be_nominated_follows_the_configuration(stage: Stage) -> None:
    """A head that was cached before a reload has no effect on later ones."""
    lb, client, origin = await stage.served(answers(b"ok"))
    before = lb.config
    backend = before.backends["agents"]
    stick = [KeyOptions(on="header:X-Chat-Id")]
    after = before.model_copy(
        update={"backends": {"agents": backend.model_copy(update={"stick": stick})}}
    )
    for configured in (before, after, before):
        await lb.reconfigure(configured)
        for _ in range(2):
            assert (await client.ask("/", "Connection: X-Chat-Id", "X-Chat-Id: a")).status == 200
    assert [m.get("X-Chat-Id") for m in origin.requests] == [None, None, "a", "a", None, None]


# 21 and 22: on the way back.


async def relayed(stage: Stage, way: Way, *fields: str, body: bytes = b"ok") -> Message:
    """What becomes of a response with these fields."""
    _, _, client, at_origin = await asking(stage)
    wire = "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *fields, "", ""])
    await (at_origin.send_bytewise if way is Way.BYTEWISE else at_origin.send)(wire.encode() + body)
    return await client.read_response()


@in_two_ways
@pytest.mark.parametrize(("sent", "got"), [
    h1_row(21, "its-own", ["Connection: X-A, x-b", "X-A: 1", "X-B: 2", "X-C: 3"],
        {"X-A": None, "X-B": None, "X-C": "3", "Connection": None}),
    row(21, "length", ["Connection: Content-Length"], {"Content-Length": "2"}),
    row(21, "cookies", ["Connection: Set-Cookie, Cache-Control, Content-Type",
                        "Set-Cookie: a=b", "Set-Cookie: c=d", "Cache-Control: no-store",
                        "Content-Type: text/plain"],
        {"Set-Cookie": "a=b, c=d", "Cache-Control": "no-store", "Content-Type": "text/plain"}),
    row(22, "keep-alive", ["Keep-Alive: timeout=5"], {"Keep-Alive": None}),
    row(22, "proxy-connection", ["Proxy-Connection: keep-alive"], {"Proxy-Connection": None}),
    row(22, "upgrade", ["Connection: Upgrade", "Upgrade: h2c"],
        {"Upgrade": None, "Connection": None}),
    row(22, "trailer", ["TE: trailers", "Trailer: X-Sum"], {"TE": None, "Trailer": None}),
])  # fmt: skip
async def test_relayed(stage: Stage, way: Way, sent: list[str], got: dict[str, str | None]) -> None:
    answer = await relayed(stage, way, *sent)
    assert {name: ", ".join(answer.head.all(name)) or None for name in got} == got
    assert answer.body == b"ok"


# 23: those who are trusted.


async def behind_a_proxy(stage: Stage, *fields: str) -> Message:
    """What arrives at the origin by way of a trusted proxy."""
    _, client, origin = await stage.served(
        frontend={"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}
    )
    assert (await client.ask("/", *fields)).status == 200
    return origin.requests[0]


@pytest.mark.row(23)
async def test_a_trusted_proxy_is_believed(stage: Stage) -> None:
    seen = await behind_a_proxy(
        stage,
        "X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.1.2.3",  # the first is what the client says
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: public.test",
    )
    assert seen.get("X-Forwarded-For") == "6.6.6.6, 203.0.113.9, 10.1.2.3, 127.0.0.1"
    assert seen.get("X-Real-IP") == "203.0.113.9"
    assert seen.get("X-Forwarded-Proto") == "https"
    assert seen.get("X-Forwarded-Host") == "public.test"


@pytest.mark.row(23)
async def test_a_trusted_proxy_may_use_the_standards_field(stage: Stage) -> None:
    """RFC 7239: we append ourselves, and leave the rest as it is."""
    seen = await behind_a_proxy(
        stage, "Forwarded: for=203.0.113.9;proto=https", "X-Forwarded-Port: 443"
    )
    assert seen.get("Forwarded") == "for=203.0.113.9;proto=https, for=127.0.0.1"
    assert seen.get("X-Forwarded-Port") == "443"


@pytest.mark.row(23)
async def test_a_trusted_proxy_is_not_believed_in_another_spelling(stage: Stage) -> None:
    """It has cleared the name that it knows; a twin is still the client's."""
    seen = await behind_a_proxy(
        stage,
        "X-Forwarded-For: 203.0.113.9",
        "X_Forwarded_For: 6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "X_Real_IP: 6.6.6.6",
        "X_Forwarded_Proto: https",
    )
    assert seen.get("X-Forwarded-For") == "203.0.113.9, 127.0.0.1"
    assert seen.get("X-Real-IP") == "203.0.113.9"
    assert b"6.6.6.6" not in seen.head.raw
    assert b"https" not in seen.head.raw


@pytest.mark.row(23)
async def test_nonsense_from_a_trusted_proxy_names_nobody(stage: Stage) -> None:
    seen = await behind_a_proxy(stage, "X-Forwarded-For: 6.6.6.6, unknown, 10.1.2.3")
    assert seen.get("X-Real-IP") == "10.1.2.3"  # the one before that is unknown


# 23: Via, and requests that come back.

VIA = r"hermes-lb-[0-9a-f]{16}"


@pytest.mark.row(23)
@in_two_ways
async def test_via_is_appended(stage: Stage, way: Way) -> None:
    wire = GET + b"Via: 1.0 first, 1.1 second\r\nX: y\r\nVia: 2 third\r\n\r\n"
    origin = await is_passed(stage, way, wire, "GET / HTTP/1.1", {"X": "y"})
    via = origin.requests[0].get("Via") or ""
    assert re.fullmatch(rf"1\.0 first, 1\.1 second, 2 third, {stage.version} {VIA}", via)


@pytest.mark.row(23)
async def test_a_loop_is_508(stage: Stage) -> None:
    """A server that is, by way of another proxy, this balancer."""
    lb, client, origin = await stage.line()
    await client.send(request("GET", "/", "Via: 1.1 outside"))
    at_origin, seen = await origin.accept_request()
    loop = await stage.client(lb)
    await loop.send(seen.head.raw.replace(b"\r\nVia: ", b"\r\nVia: 1.1 between, "))
    answer = await is_turned_away(loop, 508)
    assert await at_origin.gets_nothing()
    assert await origin.has_no_new_connection()
    await at_origin.respond(answer.body, status=508)
    assert (await client.read_response()).status == 508
    first, second = await stage.logged(lb, 2)
    assert (first.status, first.termination, first.server) == (508, "PR", "<NOSRV>")
    assert (second.status, second.termination, second.server) == (508, "--", "agent1")


@pytest.mark.row(23)
async def test_another_balancer_of_the_same_kind_is_no_loop(stage: Stage) -> None:
    seen = "Via: 1.1 hermes-lb-0123456789abcdef"
    origin = await is_passed(
        stage, Way.WHOLE, GET + seen.encode() + b"\r\n\r\n", "GET / HTTP/1.1", {}
    )
    assert re.fullmatch(
        rf"1\.1 hermes-lb-0123456789abcdef, {stage.version} {VIA}",
        origin.requests[0].get("Via") or "",
    )
