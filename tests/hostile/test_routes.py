"""No request reaches the servers of another route than its own meaning to them.

The servers of `calls` are to get the tool calls, and no others: by `Mcp-Method`, by the parameter
`call`, or by the content type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.hostile import Way, deliver, echo, in_two_ways, is_turned_away, row

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import Client
    from tests.support.origin import Origin
    from tests.support.stage import Stage

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
MATCHES: list[dict[str, Any]] = [
    {"header": {"Mcp-Method": "tools/call"}},
    {"header": {"session_id": "s"}},
    {"query": {"call": "1"}},
    {"content_type": "text/call"},
]


async def two_backends(stage: Stage) -> tuple[LoadBalancer, Client, Origin, Origin]:
    """`calls`, by one of the routes; all else is for `agents`."""
    others, calls = await stage.serving(echo), await stage.serving(echo)
    server = {"name": "calls1", "address": calls.address}
    lb = await stage.balancer(
        others,
        frontend={"routes": [{"match": match, "backend": "calls"} for match in MATCHES]},
        backends={"calls": {"servers": [server]}},
    )
    return lb, await stage.client(lb), others, calls


# What arrives; whether it is a call; the fields that the server sees.
ROUTED = [
    row(21, "nominated", GET + b"Connection: mcp-METHOD\r\nMcp-Method: tools/call\r\n\r\n", True,
        {"Mcp-Method": "tools/call"}),
    row(21, "nominated-type", GET + b"Connection: Content-Type\r\nContent-Type: text/call\r\n\r\n",
        True, {"Content-Type": "text/call"}),
    row(21, "nominated-before-and-behind",
        GET + b"Mcp-Method: tools/call\r\nConnection: close, Mcp-Method\r\n\r\n", True,
        {"Mcp-Method": "tools/call"}),
    row(23, "twin", GET + b"Mcp_Method: tools/call\r\n\r\n", False, {"Mcp_Method": None}),
    row(23, "twin-beside-it",
        GET + b"Mcp_Method: tools/call\r\nMcp-Method: tools/list\r\nMCP_METHOD: x\r\n\r\n", False,
        {"Mcp_Method": None, "Mcp-Method": "tools/list"}),
    row(23, "twin-behind-a-call",
        GET + b"Mcp-Method: tools/call\r\nmcp_method: tools/list\r\n\r\n", True,
        {"Mcp_Method": None, "Mcp-Method": "tools/call"}),
    row(23, "twin-of-an-underscore", GET + b"session-id: s\r\n\r\n", False, {"session-id": None}),
    row(23, "underscore", GET + b"Session-Id: t\r\nSession_Id: s\r\n\r\n", True,
        {"Session-Id": None, "Session_Id": "s"}),
    row(23, "twin-of-the-type", GET + b"Content_Type: text/call\r\n\r\n", False,
        {"Content_Type": None}),
    row(14, "in-a-value", GET + b"X: a\tMcp-Method: tools/call\r\n\r\n", False,
        {"X": "a\tMcp-Method: tools/call"}),
    row(14, "in-a-cookie", GET + b"Cookie: a=b; Mcp-Method: tools/call\r\n\r\n", False,
        {"Cookie": "a=b; Mcp-Method: tools/call"}),
    row(16, "absolute-target", b"GET http://a?c%61ll=%31 HTTP/1.1\r\nHost: b\r\n\r\n", True,
        {"Host": "a"}),
    row(16, "path-of-a-query", b"GET /%3fcall=1 HTTP/1.1\r\nHost: a\r\n\r\n", False, {}),
]  # fmt: skip


@pytest.mark.parametrize(("wire", "is_call", "fields"), ROUTED)
@in_two_ways
async def test_what_is_matched_is_what_is_forwarded(
    stage: Stage, way: Way, wire: bytes, is_call: bool, fields: dict[str, str | None]
) -> None:
    _, client, others, calls = await two_backends(stage)
    await deliver(client, wire, way)
    assert (await client.read_response()).status == 200
    chosen, other = (calls, others) if is_call else (others, calls)
    assert other.requests == []
    [seen] = chosen.requests
    assert {name: seen.get(name) for name in fields} == fields


REFUSED = [
    row(14, "two-fields", GET + b"Mcp-Method: tools/list\r\nMcp-Method: tools/call\r\n\r\n"),
    row(14, "two-cases", GET + b"Mcp-Method: tools/list\r\nX: y\r\nMCP-METHOD: tools/call\r\n\r\n"),
    row(14, "the-same-twice", GET + b"Mcp-Method: tools/call\r\nMcp-Method: tools/call\r\n\r\n"),
    row(14, "two-types", GET + b"Content-Type: text/plain\r\nContent-Type: text/call\r\n\r\n"),
    row(16, "two-parameters", b"GET /?call=0&call=1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    row(16, "two-spellings", b"GET /?call=0&%63all=1 HTTP/1.1\r\nHost: a\r\n\r\n"),
]


@pytest.mark.parametrize("wire", REFUSED)
@pytest.mark.parametrize("way", Way, ids=lambda way: way.value)
async def test_what_servers_may_read_in_two_ways_is_refused(
    stage: Stage, way: Way, wire: bytes
) -> None:
    _, client, others, calls = await two_backends(stage)
    await deliver(client, wire, way)
    answer = await is_turned_away(client, 400)
    assert b"several values where a route compares one" in answer.body
    assert others.requests == calls.requests == []


async def test_heads_that_recur_are_routed_one_by_one(stage: Stage) -> None:
    """The same fields with another target, and the same target with other fields."""
    _, client, others, calls = await two_backends(stage)
    for _ in range(40):  # more than it takes to remember a block of fields
        for target in ("/?call=1", "/?call=2"):
            await client.get(target, "X: y")
            assert (await client.read_response()).body == f"GET {target}".encode()
        for method in ("tools/call", "tools/list"):
            await client.get("/", f"Mcp-Method: {method}")
            await client.read_response()
    assert {(one.head.target, one.get("Mcp-Method")) for one in calls.requests} == {
        ("/?call=1", None), ("/", "tools/call")}  # fmt: skip
    assert len(calls.requests) == len(others.requests) == 80


@pytest.mark.http1_only("Connection names fields")
@pytest.mark.row(21)
async def test_what_a_reload_compares_can_not_be_nominated_either(stage: Stage) -> None:
    lb, client, others, calls = await two_backends(stage)
    with_routes = lb.config
    [frontend] = with_routes.frontends
    without = frontend.model_copy(update={"routes": []})
    await lb.reconfigure(with_routes.model_copy(update={"frontends": [without]}))
    nominated = ("Mcp-Method: tools/call", "Connection: Mcp-Method")
    await client.ask("/", *nominated)
    assert [seen.get("Mcp-Method") for seen in others.requests] == [None]
    await lb.reconfigure(with_routes)
    await client.ask("/", *nominated)
    assert [seen.get("Mcp-Method") for seen in calls.requests] == ["tools/call"]
