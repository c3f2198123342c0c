"""A session whose id a server creates in its JSON: learned from a response, found in requests."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.affinity import keys as affinity_keys
from hermes_lb.affinity.table import SessionTable
from hermes_lb.http import json_keys
from tests.affinity.test_shared_sessions import TellsLater
from tests.proxy.fake_line import Line
from tests.support.http_peer import request
from tests.support.loops import on_both_loops
from tests.support.needs import needs_package
from tests.support.stage import Stage, in_flight, server_of
from tests.support.turns import Gateway
from tests.support.turns import get as turn_get
from tests.support.turns import post as turn_post
from tests.support.waiting import eventually, turns

if TYPE_CHECKING:
    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin, Client, Message

RESPONSES = {
    "on": ["json:/previous_response_id", "path:/v1/responses/{id}"],
    "learn": True,
    "response": ["json:/id", "event:/response/id"],
}
JSON = "Content-Type: application/json"
KIB = 1024


def sse(*events: Any) -> bytes:
    return b"".join(b"event: e\ndata: %b\n\n" % json.dumps(event).encode() for event in events)


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class Responses:
    """A server of OpenAI's Responses API, which knows the responses that it has made.

    `pieces`: its JSON leaves in such, byte by byte; `framing`: "length", "chunks" or "close".
    """

    def __init__(self, name: str, *, framing: str = "length", pieces: bool = False) -> None:
        self.name = name
        self.framing = framing
        self.pieces = pieces
        self.known: set[str] = set()

    async def handle(self, connection: AtOrigin, message: Message) -> None:
        head = message.head
        if head.method == "GET":
            asked = head.target.partition("?")[0].rpartition("/")[2]
            await self._answer(connection, {"id": asked}, is_known=asked in self.known)
            return
        body = json.loads(message.body)
        before = body.get("previous_response_id")
        made = f"resp_{self.name}_{len(self.known)}"
        is_known = before is None or before in self.known
        self.known.add(made)
        if body.get("stream"):
            events = sse({"type": "response.created", "response": {"id": made}}, {"delta": "hi"})
            field = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            await connection.send(
                field + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(events[:20], events[20:])
            )
        else:
            await self._answer(connection, {"id": made, "output": "hi"}, is_known=is_known)

    async def _answer(self, connection: AtOrigin, value: Any, *, is_known: bool) -> None:
        body = json.dumps(value).encode()
        head = b"HTTP/1.1 %d Whatever\r\nContent-Type: application/json\r\n" % (
            200 if is_known else 404
        )
        if self.framing == "length":
            data = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        elif self.framing == "chunks":
            data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body[:9], body[9:])
        else:
            data = head + b"Connection: close\r\n\r\n" + body
        if self.pieces:
            await connection.send_bytewise(data)
        else:
            await connection.send(data)
        if self.framing == "close":
            connection.half_close()


async def three(stage: Stage, **options: Any) -> list[Responses]:
    return [Responses(f"s{n}", **options) for n in range(3)]


async def before(
    stage: Stage, servers: list[Responses], *, stick: Any = (RESPONSES,), **options: Any
) -> LoadBalancer:
    origins = [await stage.serving(server.handle) for server in servers]
    return await stage.balancer(*origins, backend={"stick": list(stick)}, **options)


async def create(client: Client, body: Any, *fields: str) -> Message:
    await client.post(json.dumps(body).encode(), JSON, *fields, target="/v1/responses")
    return await client.read_response()


def id_of(answer: Message) -> str:
    assert answer.status == 200
    made: str = json.loads(answer.body)["id"]
    return made


def turn(key: object, body: Any) -> bytes:
    return turn_post(json.dumps(body).encode(), key=f"key-{key}", target="/v1/responses")


async def chain(stage: Stage, lb: LoadBalancer, *, length: int = 4) -> set[str]:
    """Turns of one conversation, and each is fetched by its id -> the servers that answered."""
    client = await stage.client(lb)
    made = id_of(await create(client, {"input": "a"}))
    seen = {made}
    for _ in range(length - 1):
        made = id_of(await create(client, {"input": "b", "previous_response_id": made}))
        assert id_of(await client.ask(f"/v1/responses/{made}?include=all")) == made
        seen.add(made)
    assert len(seen) == length
    return {each.split("_")[1] for each in seen}


@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
@pytest.mark.parametrize("pieces", [False, True])
async def test_an_id_is_learned_from_json_and_found_in_bodies_and_paths(
    stage: Stage, framing: str, pieces: bool
) -> None:
    lb = await before(stage, await three(stage, framing=framing, pieces=pieces))
    for _ in range(3):
        assert len(await chain(stage, lb)) == 1


async def test_without_a_rule_chains_break(stage: Stage) -> None:
    lb = await before(stage, await three(stage), stick=[])
    with pytest.raises(AssertionError):
        await chain(stage, lb)


async def test_an_id_is_learned_from_the_first_event_of_a_stream(stage: Stage) -> None:
    lb = await before(stage, await three(stage))
    client = await stage.client(lb)
    for _ in range(3):
        answer = await create(client, {"input": "a", "stream": True})
        assert answer.body.count(b"data:") == 2
        made = json.loads(answer.body.partition(b"data: ")[2].partition(b"\n")[0])["response"]["id"]
        for _ in range(4):
            assert id_of(await client.ask(f"/v1/responses/{made}")) == made


async def test_a_key_is_the_servers_that_has_named_it_and_no_others(stage: Stage) -> None:
    """JSON-RPC says with the status 200 that there is no such task."""

    async def handle(connection: AtOrigin, message: Message) -> None:
        name = connection.sock.getsockname()[1]
        asked = json.loads(message.body)
        result = {"result": {"taskId": f"{name}"}} if asked["method"] == "tools/call" else {}
        await connection.respond(json.dumps({"from": name, **result}).encode(), JSON)

    origins = [await stage.serving(handle) for _ in range(3)]
    rule = {"on": "json:/params/taskId", "learn": True, "response": "json:/result/taskId"}
    lb = await stage.balancer(*origins, backend={"stick": [rule]})
    client = await stage.client(lb)

    async def ask(method: str, **params: str) -> int:
        answer = await create(client, {"method": method, "params": params})
        port: int = json.loads(answer.body)["from"]
        return port

    owner = await ask("tools/call")
    server = next(one for one in lb.pools["agents"].servers if one.counters.responses[2])
    server.set_up(False, "for a test")
    assert await ask("tasks/get", taskId=str(owner)) != owner
    server.set_up(True, "for a test")
    assert [await ask("tasks/get", taskId=str(owner)) for _ in range(3)] == [owner] * 3
    # An id of no response is balanced each time.
    assert len({await ask("tasks/get", taskId="other") for _ in range(6)}) > 1


@pytest.mark.parametrize(
    ("field", "location"),
    [
        ("Location", "/v1/runs/run_1"),
        ("content-location", "/v1/runs/run_1?x=/v1/runs/no#part"),
        ("Location", "https://public.test/v1/runs/run_1/events"),
        ("Location", "//public.test/v1/runs/run_1"),
    ],
)
async def test_an_id_is_learned_from_a_location(stage: Stage, field: str, location: str) -> None:
    async def handle(connection: AtOrigin, message: Message) -> None:
        is_new = message.head.method == "POST"
        fields = [f"{field}: {location}"] if is_new else []
        await connection.respond(b"", *fields, status=202 if is_new else 200)

    origins = [await stage.serving(handle) for _ in range(3)]
    rule = {"on": "path:/v1/runs/{id}", "learn": True, "response": "location:/v1/runs/{id}"}
    lb = await stage.balancer(*origins, backend={"stick": [rule]})
    client = await stage.client(lb)
    await client.post(b"", target="/v1/runs")
    assert (await client.read_response()).status == 202
    for _ in range(4):
        await client.ask("/v1/runs/run_1/events")
    assert sorted(len(origin.requests) for origin in origins) == [0, 0, 5]


@pytest.mark.parametrize("location", ["run_1", "/v2/runs/run_1", "/v1/runs/", "x:y/v1/runs/run_1"])
async def test_a_location_of_something_else_names_nothing(location: str) -> None:
    rule = affinity_keys.KeyOptions(on="client", learn=True, response="location:/v1/runs/{id}")
    head = b"HTTP/1.1 201 Created\r\nLocation: %b\r\n\r\n" % location.encode()
    from hermes_lb.http import ResponseParser

    assert affinity_keys.KeyRules([rule]).learnt(None, ResponseParser(9).parse(head)) == []


@pytest.mark.parametrize("session", [None, "json:/input"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_ids_are_learned_and_found_on_a_route_with_turns(
    stage: Stage, framing: str, session: str | None
) -> None:
    """The journal numbers the events, and keeps the JSON; their ids are read on the way."""
    origins = [await stage.serving(server.handle) for server in await three(stage, framing=framing)]
    options = {} if session is None else {"session": session}
    gateway = await Gateway.before(stage, *origins, backend={"stick": [RESPONSES]}, turns=options)
    for number in range(3):
        answer = await gateway.ask(turn(number, {"input": "a"}))
        made = id_of(answer)
        stream = await gateway.ask(turn(number + 10, {"input": "b", "stream": True}))
        assert b"id: h1." in stream.body
        streamed = stream.body.partition(b'"id": "')[2].partition(b'"')[0].decode()
        for one in (made, streamed):
            follow = {"input": "c", "previous_response_id": one}
            for _ in range(2):  # executed, and replayed
                id_of(await gateway.ask(turn(f"{number}-{one}", follow)))
            assert id_of(await gateway.ask(turn_get(f"/v1/responses/{one}"))) == one


@pytest.mark.http1_only("by HTTP/2 anyway")
@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
@pytest.mark.parametrize("has_length", [False, True])
async def test_ids_are_learned_and_found_by_http2(
    stage: Stage, framing: str, has_length: bool
) -> None:
    needs_package("ngh2")
    from tests.support.http2_peer import Http2Client

    servers = await three(stage, framing=framing)
    lb = await before(stage, servers, frontend={"http2": True})
    client = Http2Client(await stage.client(lb))

    async def create_by_http2(body: Any) -> str:
        data = json.dumps(body).encode()
        fields = [("content-type", "application/json")]
        fields += [("content-length", str(len(data)))] * has_length
        number = await client.open("/v1/responses", *fields, method="POST", ends=False)
        window = client.http2.local_flow_control_window
        for at in range(0, len(data), 9000):
            await client.read_until(lambda: window(number) >= 9000)
            await client.send_body(number, data[at : at + 9000], ends=at + 9000 >= len(data))
        answer = await client.answer(number)
        assert answer.status == 200
        made: str = json.loads(answer.body)["id"]
        return made

    made = await create_by_http2({"input": "a"})
    for size in (1, 10_000, 60_000):
        again = {"input": "x" * size, "previous_response_id": made}
        made = await create_by_http2(again)
        assert (await client.ask(f"/v1/responses/{made}")).status == 200
    # More than is read, and more than a window of HTTP/2.
    await create_by_http2({"input": "x" * 100_000})


# How a request's body comes.

BODY = json.dumps({"input": "x" * 300, "previous_response_id": "resp_s0_0"}).encode()


async def known(stage: Stage, **options: Any) -> tuple[LoadBalancer, Client, list[Responses]]:
    """Three servers, and a response of the first one that the balancer knows of."""
    servers = await three(stage)
    origins = [await stage.serving(server.handle) for server in servers]
    lb = await stage.balancer(*origins, backend={"stick": [RESPONSES]}, **options)
    client = await stage.client(lb)
    assert id_of(await create(client, {"input": "a"})) == "resp_s0_0"
    return lb, client, servers


def post(body: bytes, *fields: str) -> bytes:
    head = request("POST", "/v1/responses", *fields)
    return head + body


@on_both_loops
@pytest.mark.parametrize("retry_buffer", ["64KiB", 0])
async def test_a_body_may_come_in_single_bytes(stage: Stage, retry_buffer: Any) -> None:
    lb, client, _ = await known(stage, limits={"retry_buffer": retry_buffer})
    for _ in range(3):
        await client.send_bytewise(post(BODY, JSON, f"Content-Length: {len(BODY)}"))
        assert id_of(await client.read_response()).startswith("resp_s0_")
    assert server_of(lb).counters.responses[2] == 4


@pytest.mark.parametrize("retry_buffer", ["64KiB", 0])
@pytest.mark.parametrize("size", [1, 100, 1000])
async def test_a_body_may_come_in_chunks(stage: Stage, size: int, retry_buffer: Any) -> None:
    _, client, _ = await known(stage, limits={"retry_buffer": retry_buffer})
    wire = chunked(*(BODY[at : at + size] for at in range(0, len(BODY), size)))
    head = post(b"", JSON, "Transfer-Encoding: chunked")
    for data in (lambda d: client.send(d), client.send_bytewise):
        for _ in range(3):
            await client.send(head)
            await data(wire)
            assert id_of(await client.read_response()).startswith("resp_s0_")


async def test_a_body_in_many_pieces_is_parsed_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lb, client, _ = await known(stage)
    parsed: list[int] = []
    parse = json_keys.parse

    def counted(text: bytes) -> Any:
        parsed.append(len(text))
        return parse(text)

    monkeypatch.setattr(json_keys, "parse", counted)
    two = {"on": ["json:/none", "json:/params/none", *RESPONSES["on"]], "learn": True}
    lb._plane.backends["agents"].key_rules = affinity_keys.KeyRules(
        [affinity_keys.KeyOptions(**two)]
    )
    await client.send_bytewise(post(BODY, JSON, f"Content-Length: {len(BODY)}"))
    assert id_of(await client.read_response()).startswith("resp_s0_")
    assert parsed == [len(BODY)]


async def test_the_balancer_asks_for_a_body_that_the_client_holds_back(stage: Stage) -> None:
    servers = await three(stage)
    origins = [await stage.serving(server.handle) for server in servers]
    lb = await stage.balancer(*origins, backend={"stick": [RESPONSES]})
    client = await stage.client(lb)
    assert id_of(await create(client, {"input": "a"})) == "resp_s0_0"
    for _ in range(3):
        fields = [
            "X-Expect: 100-continue", JSON, f"Content-Length: {len(BODY)}", "Expect: 100-continue"
        ]  # fmt: skip
        await client.send(post(b"", *fields))
        assert (await client.read_head()).status == 100
        await client.send(BODY)
        assert id_of(await client.read_response()).startswith("resp_s0_")
    # The server is not asked again, and its connection is kept.
    assert all(one.get("Expect") is None for one in origins[0].requests)
    assert [one.get("X-Expect") for one in origins[0].requests[1:]] == ["100-continue"] * 3
    assert len(origins[0].connections) == 1
    assert all(line.status == 200 for line in await stage.logged(lb, 4))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b'{"previous_response_id": "resp_s0_0"',
        b'{"previous_response_id": "resp_s0_0", "previous_response_id": "resp_s0_0"}',
        b'{"previous_response_id": "\xff"}',
        b'{"previous_response_id": %b}' % (b"[" * 20_000 + b"]" * 20_000),
        b'{"previous_response_id": %b}' % (b"1" * 20_000),
        b'{"previous_response_id": "%b"}' % (b"x" * 257),
        b'{"input": "%b", "previous_response_id": "resp_s0_0"}' % (b"x" * (64 * KIB)),
    ],
    ids=["empty", "no JSON", "cut", "twice", "no UTF-8", "deep", "huge", "long key", "long"],
)
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_request_without_a_key_is_balanced(
    stage: Stage, body: bytes, is_chunked: bool
) -> None:
    """Not refused: three of them reach three servers, byte for byte."""
    origins = await stage.agents(3)
    lb = await stage.balancer(*origins, backend={"stick": [RESPONSES]})
    client = await stage.client(lb)
    answered = []
    for _ in range(3):
        if is_chunked:
            pieces = [body[at : at + 9000] for at in range(0, len(body), 9000)]
            head = request("POST", "/", JSON, "Transfer-Encoding: chunked")
            await client.send(head)
            await client.send(chunked(*pieces))
        else:
            await client.send(request("POST", "/", JSON, body=body))
        answered.append((await client.read_response()).body)
    assert sorted(answered) == [b"agent1", b"agent2", b"agent3"]
    assert [origin.requests[0].body for origin in origins] == [body] * 3


# Which bodies are not waited for.


@pytest.mark.parametrize(
    ("fields", "target", "stick"),
    [
        (["Content-Type: text/plain", "Content-Length: 9"], "/", [RESPONSES]),
        (["Content-Type: application/octet-stream", "Content-Length: 9"], "/", [RESPONSES]),
        (["Content-Length: 9"], "/", [RESPONSES]),
        ([JSON, "Content-Encoding: gzip", "Content-Length: 9"], "/", [RESPONSES]),
        ([JSON, f"Content-Length: {64 * KIB + 1}"], "/", [RESPONSES]),
        ([JSON, "Content-Length: 9"], "/", []),
        ([JSON, "Content-Length: 9"], "/", [{"on": "header:A", "learn": True}]),
        # A source that comes before has the key.
        ([JSON, "Content-Length: 9", "A: b"], "/", [{"on": ["header:A", "json:/a"]}]),
    ],
)
async def test_the_head_of_another_request_leaves_at_once(
    stage: Stage, fields: list[str], target: str, stick: list[Any]
) -> None:
    _, client, at_origin = await stage.begun(
        request("POST", target, *fields), backend={"stick": stick}
    )
    await client.send(b"4 bytes"[:4])
    assert await at_origin.read_exactly(4) == b"4 by"


async def test_the_head_of_a_request_with_a_key_in_its_body_waits(stage: Stage) -> None:
    lb, client, origin = await stage.line(backend={"stick": [RESPONSES]})
    head = request("POST", "/", JSON, f"Content-Length: {len(BODY)}")
    await client.send(head + BODY[:-1])
    assert await origin.has_no_new_connection()
    assert in_flight(lb) == [0]
    await client.send(BODY[-1:])
    at_origin, message = await origin.accept_request()
    assert message.body == BODY
    await at_origin.serves(client, b"ok")


async def test_a_long_chunked_body_is_passed_on_after_the_bound(stage: Stage) -> None:
    lb, client, origin = await stage.line(backend={"stick": [RESPONSES]})
    await client.send(request("POST", "/", JSON, "Transfer-Encoding: chunked"))
    await client.send(b"10000\r\n" + b"x" * (64 * KIB) + b"\r\n")
    assert await origin.has_no_new_connection()
    await client.send(b"1\r\nx\r\n")
    at_origin = await origin.accept()
    await at_origin.read_head()
    # What follows is not held.
    await client.send(b"2\r\nyz\r\n")
    await at_origin.read_until(b"2\r\nyz\r\n")
    await client.send(b"0\r\n\r\n")
    await at_origin.read_until(b"0\r\n\r\n")
    await at_origin.serves(client, b"ok")
    assert (await stage.log_line(lb)).termination == "--"


async def test_a_client_is_held_back_when_no_server_takes_its_body(stage: Stage) -> None:
    """Beyond the bound, memory is bounded as without a rule."""
    origin = await stage.serving()
    lb = await stage.balancer(origin, backend={"stick": [RESPONSES]}, server={"max_connections": 1})
    lease = lb.pools["agents"].lease(server_of(lb), 0.0)
    client = await stage.client(lb)
    await client.send(request("POST", "/", JSON, "Transfer-Encoding: chunked"))
    most = 64_000_000
    assert await client.send_until_stuck(b"1000\r\n" + b"x" * 4096 + b"\r\n", most) < most
    client.abort()
    await eventually(lambda: not lb._plane.context.live.clients)
    lease.release()


# The ends of the wait.


async def test_a_client_that_leaves_before_its_body_is_whole(stage: Stage) -> None:
    lb, client, origin = await stage.line(backend={"stick": [RESPONSES]})
    await client.send(request("POST", "/", JSON, "Content-Length: 9") + b"1234")
    await turns(10)
    client.close()
    line = await stage.log_line(lb)
    assert (line.status, line.termination) == (-1, "CR")
    assert await origin.has_no_new_connection()


async def test_a_body_that_does_not_come_is_a_408(stage: Stage) -> None:
    lb, client, _ = await stage.line(backend={"stick": [RESPONSES]}, timeouts={"client": "1s"})
    context = lb._context
    assert context is not None
    clock, later = context.clock, 0.0
    context.clock = lambda: clock() + later
    await client.send(request("POST", "/", JSON, "Content-Length: 9") + b"1234")
    await turns(10)
    later = 2.0
    assert (await client.read_response()).status == 408
    assert (await stage.log_line(lb)).termination == "cR"


@pytest.mark.http1_only("chunks")
async def test_a_body_that_breaks_its_framing_is_a_400(stage: Stage) -> None:
    lb, client, origin = await stage.line(backend={"stick": [RESPONSES]})
    await client.send(request("POST", "/", JSON, "Transfer-Encoding: chunked") + b"2\r\nab\r\n")
    await turns(10)
    await client.send(b"nonsense\r\n")
    assert (await client.read_response()).status == 400
    assert (await stage.log_line(lb)).termination == "PR"
    assert await origin.has_no_new_connection()


async def test_a_body_that_is_larger_than_it_may_be_is_a_413(stage: Stage) -> None:
    lb, client, _ = await stage.line(backend={"stick": [RESPONSES]}, limits={"body_size": "4KiB"})
    head = request("POST", "/", JSON, "Transfer-Encoding: chunked")
    await client.send(head + b"1001\r\n" + b"x" * 4097 + b"\r\n")
    assert (await client.read_response()).status == 413
    assert (await stage.log_line(lb)).termination == "PR"


async def test_a_drain_waits_for_a_body_that_is_read(stage: Stage) -> None:
    lb, client, origin = await stage.line(backend={"stick": [RESPONSES]})
    await client.send(request("POST", "/", JSON, "Content-Length: 4") + b"12")
    await turns(10)
    draining = asyncio.get_running_loop().create_task(lb.drain(5.0))
    await turns(10)
    await client.send(b"34")
    at_origin, message = await origin.accept_request()
    assert message.body == b"1234"
    await at_origin.serves(client, b"ok")
    await draining


# Other balancers know an id before the client can use it.

CREATED = json.dumps({"id": "resp_1"}).encode()
WHOLE = [
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n" + CREATED,
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunked(CREATED[:5], CREATED[5:]),
]


async def untold(stage: Stage, **options: Any) -> tuple[LoadBalancer, Client, AtOrigin, TellsLater]:
    """A request is at a server, and the shared table takes its time."""
    lb, client, origin = await stage.line(backend={"stick": [RESPONSES]}, **options)
    lb._plane.backends["agents"].session_table._shared = others = TellsLater()
    await client.post(b"{}", JSON, target="/v1/responses")
    at_origin, _ = await origin.accept_request()
    return lb, client, at_origin, others


@pytest.mark.parametrize("pieces", [False, True])
async def test_balancers_over_one_redis_know_an_id_at_once(
    stage: Stage, redis_url: str, pieces: bool
) -> None:
    servers = await three(stage, pieces=pieces)
    origins = [await stage.serving(server.handle) for server in servers]
    backend = {"stick": [RESPONSES], "pins": {"redis": redis_url}}
    one, two = [await stage.client(await stage.balancer(*origins, backend=backend)) for _ in "12"]
    for _ in range(9):
        made = id_of(await create(one, {"input": "a"}))
        made = id_of(await create(two, {"input": "b", "previous_response_id": made}))
        assert id_of(await one.ask(f"/v1/responses/{made}")) == made


@on_both_loops
@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("pieces", [1, 2, 10])
async def test_the_end_of_a_json_text_waits_until_others_know_its_id(
    stage: Stage, whole: bytes, pieces: int
) -> None:
    lb, client, at_origin, others = await untold(stage)
    head_size = whole.index(b"\r\n\r\n") + 4
    step = (len(whole) - head_size) // (pieces - 1) if pieces > 1 else 0
    cuts = [0, *(head_size + step * n for n in range(pieces - 1)), len(whole)]
    for start, end in pairwise(cuts):
        assert not others.told
        await at_origin.send(whole[start:end])
        await turns(10)
    await eventually(lambda: others.told)
    head = await client.read_head()
    assert head.status == 200
    assert CREATED not in client.unread
    await turns(10)
    assert CREATED not in client.unread
    others.told[0][1].set_result(True)
    assert await client.read_body(head) == CREATED
    # Its connections go on.
    await client.get("/v1/responses/resp_1")
    await at_origin.read_request()
    await at_origin.serves(client, b"again")
    assert server_of(lb).counters.responses[2] == 2


async def test_a_server_may_close_while_the_end_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(SessionTable, "store", lambda _, keys, *__: told if keys else None)
    for end in (lambda line: line.server.leaves(), lambda line: line.server.ends()):
        async with Line(backend={"stick": [RESPONSES]}) as line:
            await line.client.sends(request("POST", "/", JSON, body=b"{}"))
            await line.server.sends(WHOLE[0])
            assert not line.client.got.endswith(CREATED)
            await end(line)
            told.set_result(None)
            await eventually(lambda: line.client.got.endswith(CREATED))
            assert line.ends == []  # but for a normal one
        told = asyncio.get_running_loop().create_future()


async def test_bytes_behind_the_end_are_nobodys(stage: Stage) -> None:
    lb, client, at_origin, others = await untold(stage)
    await at_origin.send(WHOLE[0] + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    await eventually(lambda: others.told)
    others.told[0][1].set_result(True)
    assert (await client.read_response()).body == CREATED
    await client.get("/")
    again = await stage_accepts(stage)
    await again.read_request()
    await again.serves(client, b"good")
    assert in_flight(lb) == [0]


async def stage_accepts(stage: Stage) -> AtOrigin:
    return await stage._origins[0].accept()


async def test_a_client_may_leave_while_the_end_waits(stage: Stage) -> None:
    lb, client, at_origin, others = await untold(stage)
    await at_origin.send(WHOLE[0])
    await eventually(lambda: others.told)
    client.abort()
    assert (await stage.log_line(lb)).termination == "CD"
    assert in_flight(lb) == [0]
    others.told[0][1].set_result(True)
    assert await at_origin.read_until_cut() == b""


async def test_a_stream_is_not_delayed(stage: Stage) -> None:
    _, client, at_origin, others = await untold(stage)
    event = sse({"response": {"id": "resp_1"}})
    await at_origin.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunked(event)[:-5]
    )
    head = await client.read_head()
    assert await client.read_chunk() == event
    assert len(others.told) == 1
    others.told[0][1].set_result(True)
    await at_origin.send(chunked(b": more\n\n"))
    assert await client.read_body(head) == b": more\n\n"


async def test_a_stream_is_read_no_longer_than_it_has_to_be(stage: Stage) -> None:
    """Behind the first event its chunks pass by the body that all streams have."""
    lb, client, at_origin, others = await untold(stage)
    await at_origin.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    await client.read_head()
    context = lb._context
    assert context is not None
    upstream = next(iter(context.live.upstreams))
    assert type(upstream.body).__name__ == "LearningBody"
    await at_origin.send(chunked(sse({"response": {"id": "resp_1"}}))[:-5])
    await client.read_chunk()
    assert type(upstream.body).__name__ == "ChunkedBody"
    others.told[0][1].set_result(True)
    await at_origin.send(chunked())
    assert await client.read_chunk() == b""
