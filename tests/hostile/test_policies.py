"""No request gets around a route that protects or rewrites, and none injects through one.

`/private/` is denied to all, `/app/` loses its prefix, and all else goes to the same server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.hostile import echo, h1_row, row

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import Client
    from tests.support.origin import Origin
    from tests.support.stage import Stage

ROUTES: list[dict[str, Any]] = [
    {"path_prefix": "/private/", "backend": "agents", "deny": ["0.0.0.0/0", "::/0"]},
    {"path_prefix": "/app/", "backend": "agents", "strip_prefix": "/app"},
    {"path_prefix": "/old/", "return": {"status": 308, "location": "{target}"}},
    {
        "path_prefix": "/says/",
        "backend": "agents",
        "request_headers": {"set": {"X-Path": "{target}", "X-Host": "{host}"}},
        "response_headers": {"set": {"X-Path": "{target}"}},
    },
]


async def guarded(stage: Stage, **frontend: Any) -> tuple[LoadBalancer, Client, Origin]:
    return await stage.served(echo, frontend={"routes": ROUTES, **frontend})


def get(target: bytes, *fields: bytes) -> bytes:
    lines = [b"GET %b HTTP/1.1" % target, b"Host: a.example", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


AROUND = [
    row(16, "dots", b"/app/../private/x"),
    row(16, "dots-from-elsewhere", b"/x/../private/x"),
    row(16, "dots-out-of-the-prefix", b"/app/../x"),
    row(16, "encoded-dots", b"/app/%2e%2e/private/x"),
    row(16, "half-encoded-dots", b"/x/.%2E/private/x"),
    row(16, "encoded-twice", b"/x/%252e%252e/private/x"),
    row(16, "encoded-slash", b"/x/..%2fprivate/x"),
    row(16, "encoded-letter", b"/%70rivate/x"),
    row(16, "slashes", b"//private/x"),
    row(16, "dot", b"/./private/x"),
    row(16, "backslash", b"/x\\..\\private\\x"),
    row(16, "segment-parameter", b"/x/..;a=b/private/x"),
    row(16, "segment-parameter-in-front", b"/;/private/x"),
    row(16, "segment-parameter-behind", b"/private;a/x"),
    h1_row(16, "absolute", b"http://a.example//private/x"),
    h1_row(16, "absolute-dots", b"http://a.example/x/../private/x"),
]


@pytest.mark.parametrize("target", AROUND)
async def test_a_path_that_a_server_reads_as_another_routes_is_refused(
    stage: Stage, target: bytes
) -> None:
    lb, client, origin = await guarded(stage)
    await client.send(get(target))
    assert (await client.read_response()).status == 400
    assert not origin.requests
    assert (await stage.log_line(lb)).termination == "PR"
    assert (await stage.ask(lb, target="/fine")).body == b"GET /fine"  # the state afterwards


DENIED = [
    row(16, "plain", b"/private/x", []),
    row(23, "forwarded", b"/private/x", [b"X-Forwarded-For: 192.0.2.1"]),
    row(23, "real-ip", b"/private/x", [b"X-Real-IP: 192.0.2.1", b"Forwarded: for=192.0.2.1"]),
    h1_row(16, "absolute-form", b"http://other.example/private/x", []),
]


@pytest.mark.parametrize(("target", "fields"), DENIED)
async def test_who_is_denied_stays_denied(stage: Stage, target: bytes, fields: list[bytes]) -> None:
    _, client, origin = await guarded(stage)
    await client.send(get(target, *fields))
    assert (await client.read_response()).status == 403
    assert not origin.requests


SAME_ROUTE = [
    row(16, "dots-within", b"/app/x/../y", b"/x/../y"),
    row(16, "encoded-slash-within", b"/app/a%2Fb", b"/a%2Fb"),
    row(16, "slashes-within", b"/app//evil.example/x", b"/evil.example/x"),
    row(16, "backslash-within", b"/app/\\evil.example/x", b"/evil.example/x"),
    row(16, "only-the-prefix", b"/app/", b"/"),
    row(16, "well-known", b"/.well-known/x", b"/.well-known/x"),
    row(16, "elsewhere", b"/x/%41//y", b"/x/%41//y"),
]


@pytest.mark.parametrize(("target", "seen"), SAME_ROUTE)
async def test_what_stays_within_its_route_passes(stage: Stage, target: bytes, seen: bytes) -> None:
    _, client, origin = await guarded(stage)
    await client.send(get(target))
    assert (await client.read_response()).status == 200
    assert origin.requests[0].head.target == seen.decode()


REDIRECTED = [
    row(16, "host", b"/old//evil.example", "/old//evil.example"),
    row(16, "backslash", b"/old/\\evil.example", "/old/%5Cevil.example"),
    row(16, "query", b"/old/?next=//evil.example\\", "/old/?next=//evil.example%5C"),
    row(16, "encoded-line-end", b"/old/%0d%0aX:%20y", "/old/%0d%0aX:%20y"),
]


@pytest.mark.parametrize(("target", "location"), REDIRECTED)
async def test_a_redirect_stays_on_its_host(stage: Stage, target: bytes, location: str) -> None:
    _, client, _ = await guarded(stage)
    await client.send(get(target))
    assert (await client.read_response()).get("Location") == location


async def test_a_redirect_of_any_path_stays_on_its_host(stage: Stage) -> None:
    """`{target}` at the start: a second slash would make a host of what follows."""
    routes = [{"return": {"status": 308, "location": "{target}"}}]
    _, client, _ = await stage.served(frontend={"routes": routes})
    for target in (b"//evil.example/x", b"/\\evil.example", b"///evil.example"):
        await client.send(get(target))
        location = (await client.read_response()).get("Location")
        assert location is not None
        assert location.startswith("/evil.example")


@pytest.mark.parametrize(
    "target", [b"/says/%0d%0aX-Evil:%201", b"/says/?a=%0a", b"/says/\\", b"/says/{client}"]
)
async def test_a_variable_is_never_more_than_a_value(stage: Stage, target: bytes) -> None:
    _, client, origin = await guarded(stage)
    await client.send(get(target))
    answer = await client.read_response()
    expected = target.replace(b"\\", b"%5C").decode()
    assert (answer.get("X-Path"), answer.get("X-Evil")) == (expected, None)
    assert origin.requests[0].get("X-Path") == expected
    assert origin.requests[0].get("X-Host") == "a.example"


@pytest.mark.http1_only("Connection names fields")
@pytest.mark.row(21)
async def test_connection_takes_no_field_of_the_route_away(stage: Stage) -> None:
    _, client, origin = await guarded(stage)
    await client.send(get(b"/says/x", b"Connection: X-Path, X-Host", b"X-Path: evil"))
    assert (await client.read_response()).status == 200
    assert origin.requests[0].head.all("X-Path") == ["/says/x"]


async def test_a_frontend_without_such_routes_passes_paths_as_they_come(stage: Stage) -> None:
    routes = [{"path_prefix": "/app/", "backend": "agents"}]
    _, client, origin = await stage.served(frontend={"routes": routes})
    for target in ("/app/../x", "//x", "/%2e%2e/"):
        assert (await client.ask(target)).status == 200
    assert [one.head.target for one in origin.requests] == ["/app/../x", "//x", "/%2e%2e/"]
