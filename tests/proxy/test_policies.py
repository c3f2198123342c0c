"""What a route has of its own: access, answers, paths, fields, CORS, timeouts, limits, retries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.http.templates import RESPONSE_VARIABLES
from hermes_lb.proxy.variables import value_of
from tests.support.http_peer import request
from tests.support.origin import answers
from tests.support.waiting import eventually
from tests.support.websocket import switch

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import Client, Head
    from tests.support.origin import Origin
    from tests.support.stage import Stage

ORIGIN = "Origin: https://app.example"
PREFLIGHT = (ORIGIN, "Access-Control-Request-Method: PUT")
CORS = {"origins": ["https://app.example"], "expose": ["X-A"], "credentials": True}


def a_route(**keys: Any) -> dict[str, Any]:
    """A frontend whose requests below /api/ have a route with these keys."""
    if not keys.keys() & {"return", "backends"}:
        keys = {"backend": "agents", **keys}
    return {"routes": [{"path_prefix": "/api/", **keys}]}


async def seen_by_server(stage: Stage, target: str, *fields: str, **keys: Any) -> Head:
    _, client, origin = await stage.served(frontend=a_route(**keys))
    assert (await client.ask(target, *fields)).status == 200
    return origin.requests[0].head


# The path, and the fields of the request.


@pytest.mark.parametrize(
    ("keys", "target", "seen"),
    [
        ({"strip_prefix": "/api"}, "/api/x?q=/api/", "/x?q=/api/"),
        ({"strip_prefix": "/api"}, "/api/", "/"),
        ({"strip_prefix": "/api/"}, "/api/x", "/x"),
        ({"replace_prefix": "/v2"}, "/api/x", "/v2/x"),
        ({"add_prefix": "/t"}, "/api/x", "/t/api/x"),
        ({"strip_prefix": "/api", "add_prefix": "/t"}, "/api/x", "/t/x"),
        ({"strip_prefix": "/api"}, "/other", "/other"),
    ],
)
async def test_the_server_gets_another_path_and_the_log_shows_the_clients(
    stage: Stage, keys: dict[str, Any], target: str, seen: str
) -> None:
    lb, client, origin = await stage.served(frontend=a_route(**keys))
    await client.ask(target)
    assert origin.requests[0].head.target == seen
    assert (await stage.log_line(lb)).request == f"GET {target} {stage.protocol}"


@pytest.mark.parametrize(
    ("edits", "fields", "seen"),
    [
        ({"set": {"X-A": "1"}}, [], {"X-A": ["1"]}),
        ({"set": {"X-A": "1"}}, ["X-A: 2", "x-a: 3", "X_A: 4"], {"X-A": ["1"], "X_A": []}),
        ({"add": {"X-A": "1"}}, ["X-A: 2"], {"X-A": ["2", "1"]}),
        ({"remove": ["X-A"]}, ["X-A: 2", "X-AB: 3"], {"X-A": [], "X-AB": ["3"]}),
        ({"remove": ["X-A*"]}, ["X-A: 2", "X-AB: 3"], {"X-A": [], "X-AB": []}),
        ({"remove": ["X-A"], "add": {"X-A": "1"}}, ["X-A: 2"], {"X-A": ["1"]}),
        ({"remove": ["Cookie"]}, ["Cookie: a=b"], {"Cookie": []}),
        ({"set": {"X-A": "{tls_version}"}}, ["X-A: 2"], {"X-A": []}),
        ({"set": {"X-A": "{client} {method} {scheme} {host} {frontend}"}}, [],
         {"X-A": ["127.0.0.1 GET http balancer.test public"]}),
        ({"set": {"X-A": "{path}|{query}|{target}|{backend}|{route}"}}, [],
         {"X-A": ["/api/x|q=1|/api/x?q=1|agents|/api/*"]}),
        ({"set": {"X-A": "{request_id}"}}, ["X-Request-ID: r-1"], {"X-A": ["r-1"]}),
        ({"set": {"Authorization": "Bearer ours"}}, ["Authorization: Bearer theirs"],
         {"Authorization": ["Bearer ours"]}),
    ],
)  # fmt: skip
async def test_the_server_gets_other_fields(
    stage: Stage, edits: dict[str, Any], fields: list[str], seen: dict[str, list[str]]
) -> None:
    head = await seen_by_server(stage, "/api/x?q=1", *fields, request_headers=edits)
    assert {name: head.all(name) for name in seen} == seen


async def test_each_variable_stands_for_something(stage: Stage) -> None:
    lb, client, at_origin = await stage.asked("/api/x", frontend=a_route(add_prefix="/t"))
    [exchange] = [one for held in lb._context.live.all_held() for one in held.exchanges()]
    values = {name: value_of(name, exchange) for name in RESPONSE_VARIABLES}
    assert all(isinstance(value, bytes) for value in values.values())
    assert values["server"] == b"agent1"
    with pytest.raises(KeyError):
        value_of("other", exchange)
    await at_origin.serves(client, b"fine")


async def test_a_retry_sends_the_same_rewritten_request(stage: Stage) -> None:
    edits = {"add": {"X-A": "1"}}
    lb, client, first, second = await stage.with_backup(
        frontend=a_route(strip_prefix="/api", request_headers=edits)
    )
    await client.get("/api/api/x")
    at_first, message = await first.accept_request()
    assert (message.head.target, message.head.all("X-A")) == ("/api/x", ["1"])
    at_first.close()
    assert (await client.read_response()).status == 200
    assert (second.requests[0].head.target, second.requests[0].head.all("X-A")) == ("/api/x", ["1"])
    assert (await stage.log_line(lb)).retries == "+1"


async def test_a_tunnel_is_opened_at_the_other_path(stage: Stage) -> None:
    _, client, origin = await stage.line(frontend=a_route(strip_prefix="/api"))
    await client.send(
        b"GET /api/chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    at_origin, message = await origin.accept_request()
    assert message.head.target == "/chat"
    await switch(client, at_origin)


async def test_a_body_follows_a_rewritten_head(stage: Stage) -> None:
    _, client, origin = await stage.served(
        frontend=a_route(strip_prefix="/api", request_headers={"set": {"X-A": "1"}})
    )
    await client.post(b"hello", target="/api/x")
    assert (await client.read_response()).status == 200
    assert (origin.requests[0].head.target, origin.requests[0].body) == ("/x", b"hello")


async def test_another_routes_request_with_the_same_head_is_not_rewritten(stage: Stage) -> None:
    """Heads are cached by their bytes, and the cache has the client's."""
    route = {"request_headers": {"set": {"X-A": "1"}}, "response_headers": {"set": {"X-B": "1"}}}
    _, client, origin = await stage.served(frontend=a_route(add_prefix="/t", **route))
    for target in ("/api/x", "/x") * 4:
        answer = await client.ask(target)
        head = origin.requests[-1].head
        is_routed = target == "/api/x"
        assert head.target == ("/t/api/x" if is_routed else "/x")
        assert head.get("X-A") == ("1" if is_routed else None)
        assert answer.get("X-B") == ("1" if is_routed else None)


# The fields of the response.


@pytest.mark.parametrize(
    ("edits", "fields", "seen"),
    [
        ({"set": {"X-A": "{server} {status}"}}, ["X-A: 2"], {"X-A": ["agent1 200"]}),
        ({"add": {"X-A": "1"}}, ["X-A: 2"], {"X-A": ["2", "1"]}),
        ({"remove": ["Server"]}, ["Server: x"], {"Server": []}),
        ({"add": {"Set-Cookie": "a=b"}}, ["Set-Cookie: c=d"], {"Set-Cookie": ["c=d", "a=b"]}),
    ],
)
async def test_the_client_gets_other_fields(
    stage: Stage, edits: dict[str, Any], fields: list[str], seen: dict[str, list[str]]
) -> None:
    _, client, _ = await stage.served(
        answers(b"ok", *fields), frontend=a_route(response_headers=edits)
    )
    head = (await client.ask("/api/x")).head
    assert {name: head.all(name) for name in seen} == seen


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({"deny": ["127.0.0.0/8"]}, 403),
        ({"return": 404}, 404),
        ({"return": {"status": 302, "location": "/x"}}, 302),
        ({}, 503),
    ],
)
async def test_the_balancers_own_answers_have_them_too(
    stage: Stage, keys: dict[str, Any], status: int
) -> None:
    edits = {"set": {"X-A": "{status}"}}
    frontend = a_route(response_headers=edits, cors=CORS, **keys)
    lb = await stage.balancer(stage.nobody(), backend={"retries": 0}, frontend=frontend)
    answer = await stage.ask(lb, ORIGIN, target="/api/x")
    assert (answer.status, answer.get("X-A")) == (status, str(status))
    assert answer.get("Access-Control-Allow-Origin") == "https://app.example"


async def test_an_affinity_cookie_is_kept(stage: Stage) -> None:
    _, client, _ = await stage.served(
        backend={"affinity": {"cookie": "S"}},
        frontend=a_route(response_headers={"add": {"Set-Cookie": "a=b"}}),
    )
    cookies = (await client.ask("/api/x")).head.all("Set-Cookie")
    assert cookies == ["S=agent1; path=/", "a=b"]


# CORS.


async def test_a_preflight_is_answered_without_a_server(stage: Stage) -> None:
    lb, client, origin = await stage.served(frontend=a_route(cors=CORS))
    await client.send(request("OPTIONS", "/api/x", *PREFLIGHT))
    answer = await client.read_response()
    assert (answer.status, answer.get("Access-Control-Allow-Origin")) == (
        204, "https://app.example",
    )  # fmt: skip
    assert not origin.requests
    await client.send(request("OPTIONS", "/api/x", ORIGIN))
    assert (await client.read_response()).status == 200
    assert [message.head.method for message in origin.requests] == ["OPTIONS"]
    lines = await stage.logged(lb, 2)
    assert [line.termination for line in lines] == ["LR", "--"]


@pytest.mark.parametrize("origin", ["https://app.example", "null", "https://evil.example"])
async def test_the_routes_rule_takes_the_place_of_the_servers(stage: Stage, origin: str) -> None:
    _, client, _ = await stage.served(
        answers(b"ok", "Access-Control-Allow-Origin: *", "Vary: Accept"),
        frontend=a_route(cors=CORS),
    )
    answer = await client.ask("/api/x", f"Origin: {origin}")
    is_ours = origin == "https://app.example"
    assert answer.get("Access-Control-Allow-Origin") == (origin if is_ours else None)
    assert answer.get("Access-Control-Allow-Credentials") == ("true" if is_ours else None)
    assert answer.head.all("Vary") == ["Accept", "Origin"]


# Networks; answers without a server; and the order.

NET = ["127.0.0.2/32"]


@pytest.mark.parametrize(
    ("keys", "source", "status"),
    [
        ({"deny": NET}, "127.0.0.1", 200),
        ({"deny": NET}, "127.0.0.2", 403),
        ({"allow": NET}, "127.0.0.1", 403),
        ({"allow": NET}, "127.0.0.2", 200),
        ({"allow": ["127.0.0.0/8"], "deny": NET}, "127.0.0.2", 403),
        ({"allow": ["unix:"]}, "127.0.0.1", 403),
        ({"allow": ["::ffff:127.0.0.0/104"]}, "127.0.0.1", 200),
    ],
)
async def test_a_network_is_allowed_or_denied(
    stage: Stage, keys: dict[str, Any], source: str, status: int
) -> None:
    origin = await stage.serving()
    lb = await stage.balancer(origin, frontend=a_route(**keys))
    client = await stage.client(lb, source=source)
    assert (await client.ask("/api/x", "X-Forwarded-For: 127.0.0.2")).status == status
    assert len(origin.requests) == (status == 200)


@pytest.mark.parametrize(("trusted", "status"), [([], 403), (["127.0.0.1"], 200)])
async def test_only_a_trusted_proxy_speaks_for_its_client(
    stage: Stage, trusted: list[str], status: int
) -> None:
    frontend = {**a_route(allow=["192.0.2.7"]), "trusted_proxies": trusted}
    _, client, _ = await stage.served(frontend=frontend)
    assert (await client.ask("/api/x", "X-Forwarded-For: 192.0.2.7")).status == status


RETURNS = [
    (404, 404, {}, b"404 Not Found\n"),
    ({"status": 200, "body": "hi", "content_type": "text/html"}, 200,
     {"Content-Type": "text/html"}, b"hi"),
    ({"status": 204}, 204, {"Content-Type": None}, b""),
    ({"status": 301, "location": "https://new.example{target}"}, 301,
     {"Location": "https://new.example/api/x?y"}, b""),
    ({"status": 308, "location": "https://{host}/v2{path}"}, 308,
     {"Location": "https://balancer.test/v2/api/x"}, b""),
]  # fmt: skip


@pytest.mark.parametrize(("returned", "status", "fields", "body"), RETURNS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_route_answers_by_itself(
    stage: Stage, method: str, returned: Any, status: int, fields: dict[str, str], body: bytes
) -> None:
    lb, client, origin = await stage.served(frontend=a_route(**{"return": returned}))
    await client.send(request(method, "/api/x?y"))
    answer = await client.read_response(method=method)
    assert (answer.status, answer.body) == (status, body if method == "GET" else b"")
    assert {name: answer.get(name) for name in fields} == fields
    assert (await client.ask("/other")).body == b"ok"  # the connection goes on
    assert len(origin.requests) == 1
    first, _ = await stage.logged(lb, 2)
    assert (first.termination, first.server) == ("LR", "<NOSRV>")


@pytest.mark.http1_only("HTTP/2 has :authority")
async def test_a_redirect_to_the_host_needs_one(stage: Stage) -> None:
    returned = {"status": 308, "location": "https://{host}{target}"}
    _, client, _ = await stage.served(frontend=a_route(**{"return": returned}))
    await client.send(b"GET /api/x HTTP/1.0\r\n\r\n")
    assert (await client.read_response()).status == 400


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({"deny": ["127.0.0.0/8"], "cors": CORS, "return": 404}, 403),
        ({"cors": CORS, "return": 404}, 204),
        ({"return": 404}, 404),
        ({"limits": {"body_size": 1}}, 413),
    ],
)
async def test_who_may_ask_comes_first_then_preflights_then_returns(
    stage: Stage, keys: dict[str, Any], status: int
) -> None:
    _, client, origin = await stage.served(frontend=a_route(**keys))
    await client.send(request("OPTIONS", "/api/x", *PREFLIGHT, body=b"too long"))
    assert (await client.read_response()).status == status
    assert not origin.requests


# Timeouts, limits, retries and the log: the route's, else the backend's, else all.

LONG = {"server": "300s"}
SHORT = {"server": "50ms"}


def of_three(key: str, everywhere: Any, backend: Any, route: Any) -> dict[str, Any]:
    """Options of a stage: `key` of the whole, of the backend, and of the route."""
    return {
        key: everywhere,
        "backend": {} if backend is None else {key: backend},
        "frontend": a_route(**({} if route is None else {key: route})),
    }


WINS = [(None, "short", True), ("short", None, True), ("short", "long", False), (None, None, False)]


@pytest.mark.parametrize(("backend", "route", "is_short"), WINS)
async def test_the_shortest_way_to_a_timeout(
    stage: Stage, backend: str | None, route: str | None, is_short: bool
) -> None:
    named: dict[str | None, Any] = {None: None, "short": SHORT, "long": LONG}
    _, client, at_origin = await stage.asked(
        "/api/x", **of_three("timeouts", LONG, named[backend], named[route])
    )
    if is_short:
        assert (await client.read_response()).status == 504
    else:
        assert await client.gets_nothing()
        await at_origin.serves(client, b"late")


@pytest.mark.parametrize(("backend", "route", "is_small"), WINS)
async def test_the_size_of_a_body(
    stage: Stage, backend: str | None, route: str | None, is_small: bool
) -> None:
    named: dict[str | None, Any] = {
        None: None, "short": {"body_size": 4}, "long": {"body_size": 100},
    }  # fmt: skip
    options = of_three("limits", {"body_size": 100}, named[backend], named[route])
    _, client, _ = await stage.served(**options)
    await client.post(b"hello", target="/api/x")
    assert (await client.read_response()).status == (413 if is_small else 200)


async def test_a_body_in_chunks_has_the_same_limit(stage: Stage) -> None:
    _, client, origin = await stage.line(frontend=a_route(limits={"body_size": 4}))
    await client.send(
        b"POST /api/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    )
    assert (await client.read_response()).status == 413
    assert await origin.has_no_new_connection() or stage.http == "1.1"


@pytest.mark.parametrize(("backend", "route", "most"), [(0, 2, 2), (2, None, 2), (2, 0, 0)])
async def test_retries(stage: Stage, backend: int, route: int | None, most: int) -> None:
    servers = [stage.nobody() for _ in range(4)]
    lb = await stage.balancer(
        *servers,
        backend={"retries": backend},
        frontend=a_route(**({} if route is None else {"retries": route})),
    )
    assert (await stage.ask(lb, target="/api/x")).status == 503
    assert (await stage.log_line(lb)).retries.removeprefix("+") == str(most)


@pytest.mark.parametrize(
    ("backend", "route", "is_logged"),
    [(True, None, True), (False, None, False), (False, True, True), (True, False, False)],
)
async def test_whether_a_route_is_logged(
    stage: Stage, backend: bool, route: bool | None, is_logged: bool
) -> None:
    keys = {} if route is None else {"access_log": route}
    lb, client, _ = await stage.served(
        backend={"access_log": backend},
        frontend=a_route(**keys),
    )
    stage.unlogged = 0 if is_logged else 1
    await client.ask("/api/x")
    await eventually(lambda: requests_of(lb) == 1)
    if is_logged:
        assert (await stage.log_line(lb)).status == 200


def requests_of(lb: LoadBalancer) -> int:
    return sum(
        sum(server.counters.responses) for pool in lb.pools.values() for server in pool.servers
    )


async def test_a_sample_of_a_route(stage: Stage) -> None:
    lb, client, _ = await stage.served(frontend=a_route(log={"sample": 0.0}))
    stage.unlogged = 2
    for target in ("/api/x", "/api/x", "/x"):
        await client.ask(target)
    assert (await stage.log_line(lb)).request == f"GET /x {stage.protocol}"


async def test_the_rate_of_a_route_is_its_own(stage: Stage) -> None:
    limits = {"request_rate": 0.001, "request_burst": 2}
    lb, _, _ = await stage.served(frontend=a_route(limits=limits))
    statuses = [(await stage.ask(lb, target="/api/x")).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert (await stage.ask(lb, target="/x")).status == 200


async def test_a_reload_keeps_what_a_client_has_used_of_a_rate(stage: Stage) -> None:
    limits = {"request_rate": 0.001, "request_burst": 2}
    lb, _, _ = await stage.served(frontend=a_route(limits=limits))
    assert (await stage.ask(lb, target="/api/x")).status == 200
    tables = lb.config.model_dump()
    tables["frontends"][0]["routes"][0]["add_prefix"] = "/t"
    await lb.reconfigure(tables)
    statuses = [(await stage.ask(lb, target="/api/x")).status for _ in range(2)]
    assert statuses == [200, 429]


async def test_a_client_and_its_server(stage: Stage) -> None:
    """A route with everything still passes a stream event by event."""
    _, client, origin = await stage.line(
        frontend=a_route(
            strip_prefix="/api", cors=CORS, response_headers={"set": {"X-A": "1"}}, timeouts=LONG
        )
    )
    await passes_a_stream(client, origin)


async def passes_a_stream(client: Client, origin: Origin) -> None:
    await client.get("/api/x", ORIGIN)
    at_origin, _ = await origin.accept_request()
    await at_origin.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"9\r\ndata: 1\n\n\r\n"
    )
    head = await client.read_head()
    assert (head.get("X-A"), head.get("Access-Control-Expose-Headers")) == ("1", "X-A")
    assert await client.read_chunk() == b"data: 1\n\n"
    await at_origin.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
    assert await client.read_chunk() == b"data: 2\n\n"
    assert await client.read_chunk() == b""
