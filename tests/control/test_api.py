"""/api/v1: answers match the described schemas, and commands take effect."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest

from hermes_lb.backends import Pool
from hermes_lb.config import Backend, ConfigError, load_config
from hermes_lb.control import api, views
from hermes_lb.control.commands import CommandsApi
from hermes_lb.control.endpoints import routes_of
from hermes_lb.control.history import History
from hermes_lb.control.openapi import document
from hermes_lb.control.operator import KeptPin, NotPossible
from hermes_lb.control.scaling import ScalingApi
from hermes_lb.control.turns_api import TurnsApi
from tests.support.needs import needs_package
from tests.support.operator import FakeOperator, admin_listener, agents, session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.operator import Client

jsonschema = needs_package("jsonschema")

EVENTS = "/api/v1/events"
AGENT1 = "/api/v1/servers/agents/agent1"


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def check(answer: Any, schema: dict[str, Any]) -> None:
    """The answer matches the schema."""
    jsonschema.validate(answer, {**schema, "components": document()["components"]})


def check_answer(path: str, method: str, status: int | str, answer: Any) -> None:
    responses = document()["paths"][path][method]["responses"]
    ((_, content),) = responses[str(status)]["content"].items()
    check(answer, content["schema"])


async def moments(client: Client, count: int) -> list[dict[str, Any]]:
    """The first events of the live stream."""
    found: list[dict[str, Any]] = []
    async with client.http.get(client.url + EVENTS) as stream:
        assert stream.content_type == "text/event-stream"
        while len(found) < count:
            line = await stream.content.readline()
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
    return found


# The description.


def test_the_description_is_valid_and_complete() -> None:
    assert document()["openapi"] == "3.1.0"
    for schema in document()["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(document())
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= document()["components"]["schemas"].keys()
    operator, history = FakeOperator(), History({})
    scaling = ScalingApi(operator)
    groups = (
        api.Api(operator, history, scaling.scaling), scaling, CommandsApi(operator, history),
        TurnsApi(operator),
    )  # fmt: skip
    routes = {(route.path, route.method.lower()) for group in groups for route in routes_of(group)}
    assert routes == {(path, method) for path, method, _ in operations()}


@pytest.mark.parametrize("what", ["reload", "upgrade"])
async def test_a_body_that_is_none_is_described(what: str) -> None:
    async with admin_listener() as client:
        status, answer = await client.send("POST", f"/api/v1/{what}", {"more": 1})
    assert status == 400
    check_answer(f"/api/v1/{what}", "post", 400, answer)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"headers": {"Origin": "http://elsewhere.example"}}, 403),
        ({"data": "{}", "headers": {"Content-Type": "text/plain"}}, 415),
        ({"data": " " * 5000, "headers": {"Content-Type": "application/json"}}, 413),
    ],
)
async def test_what_any_request_may_be_answered_is_described(
    options: dict[str, Any], status: int
) -> None:
    async with admin_listener() as client:
        response, text = await client.ask("/api/v1/reload", "POST", **options)
    assert response.status == status
    for path, method, operation in operations():
        assert str(status) not in operation["responses"]
        check_answer(path, method, "default", json.loads(text))


async def test_the_page_shows_every_operation() -> None:
    async with admin_listener() as client:
        assert await client.get("/api/v1/openapi.json") == document()
        response, text = await client.ask("/api/v1/")
        assert response.content_type == "text/html"
        for path, method, _ in operations():
            assert f">{method.upper()}</code> <code>{path}</code>" in text


@pytest.mark.parametrize(
    "path",
    [
        path
        for path, method, operation in operations()
        if method == "get"
        and "application/json" in operation["responses"]["200"]["content"]
        and path != "/api/v1/turns"  # with a store: tests/ctl/test_turns.py
    ],
)
async def test_answers_have_the_shapes_of_the_description(path: str) -> None:
    operator = FakeOperator()
    operator.running = [session(), session(server=None, phase="Q", pinned_by="cookie")]
    operator.abort()
    operator.kept_pins = [KeptPin("0123", "agents", "agent1")]
    operator.names = [
        {
            "backend": "agents",
            "server": "pod",
            "host": "pods.test",
            "interval": 10.0,
            "addresses": ["192.0.2.1"],
            "is_failing": False,
            "failures": 2,
        }
    ]
    operator.frontend.refuse(429, "too many requests")
    operator.server("agent2").eject(operator.now() + 30.0, "5 failures in a row")
    async with admin_listener(operator) as client:
        await client.send("PUT", f"{AGENT1}/state", {"state": "drain"})
        real = path.format(backend="agents", server="agent1")
        answer = await client.get(f"{real}?backend=agents" if "history" in path else real)
        assert answer, path
        check_answer(path, "get", 200, answer)


async def test_live_events_come_at_once_and_each_second() -> None:
    async with admin_listener() as client:
        whole, _ = events = await moments(client, 2)
        for moment in events:
            check_answer("/api/v1/events", "get", 200, moment)
        assert [s["name"] for s in whole["servers"]] == ["agent1", "agent2"]


async def test_live_events_tell_that_there_is_news() -> None:
    async with admin_listener() as client:
        (before,) = await moments(client, 1)
        client.operator.abort()
        await client.send("PUT", f"{AGENT1}/state", {"state": "maint"})
        (after,) = await moments(client, 1)
        assert (before["last_abort"], before["last_change"]) == (0, 0)
        assert (after["last_abort"], after["last_change"]) == (1, 1)


async def test_there_are_so_many_live_streams_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_MOST_LISTENERS", 1)
    async with admin_listener() as client, client.http.get(client.url + EVENTS) as stream:
        await stream.content.readline()
        response, _ = await client.ask(EVENTS)
        assert response.status == 503


async def test_who_takes_nothing_of_the_live_stream_makes_room_for_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(api, "_MOST_LISTENERS", 1)
    monkeypatch.setattr(api, "_EVERY", 0.01)
    monkeypatch.setattr(api, "_LONGEST_WRITE", 0.1)
    sampled, numbers = views.sampled_servers, count()

    def others_each_time(*given: Any) -> Iterator[Any]:
        number = next(numbers)
        return ({**server, "fails": number} for server in sampled(*given))

    monkeypatch.setattr(views, "sampled_servers", others_each_time)
    servers = [{"name": f"s{n}", "address": "127.0.0.1:8001"} for n in range(200)]
    operator = FakeOperator(Pool("agents", Backend.model_validate({"servers": servers})))
    async with admin_listener(operator) as client:
        reader, writer = await asyncio.open_connection(*client.admin.address, limit=1)
        writer.write(f"GET {EVENTS} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await reader.read(1)  # then never again: its buffer fills
        status = 503
        async with asyncio.timeout(40.0):
            while status == 503:
                async with client.http.get(client.url + EVENTS) as stream:
                    status = stream.status
        writer.close()
    assert status == 200
    assert caplog.records == []


# Queries.


async def test_a_server_in_full() -> None:
    operator = FakeOperator()
    agent1 = operator.server("agent1")
    operator.pools["agents"].lease(agent1, 0.0)
    agent1.last_check = "200 in 3 ms"
    agent1.queued = 2
    counters = agent1.counters
    counters.responses[:] = [0, 1, 2, 3, 4, 5]
    counters.bytes_in, counters.bytes_out = 6, 7
    counters.retries, counters.connect_errors = 8, 9
    counters.aborted_by_client, counters.aborted_by_server = 10, 11
    async with admin_listener(operator) as client:
        assert await client.get(AGENT1) == {
            "backend": "agents",
            "name": "agent1",
            "address": "127.0.0.1:8001",
            "source": "config",
            "state": "up",
            "admin": "ready",
            "because": "200 in 3 ms",
            "available": True,
            "ejected": None,
            "drain": None,
            "weight": 3,
            "full_weight": 3,
            "configured_weight": 3,
            "backup": False,
            "max_connections": 9,
            "in_flight": 1,
            "queued": 2,
            "fails": 0,
            "checked": True,
            "last_check": "200 in 3 ms",
            "ejections": 0,
            "counters": {
                "responses": {"none": 0, "1xx": 1, "2xx": 2, "3xx": 3, "4xx": 4, "5xx": 5},
                "bytes_in": 6,
                "bytes_out": 7,
                "retries": 8,
                "resumes": 0,
                "connect_errors": 9,
                "aborted_by_client": 10,
                "aborted_by_server": 11,
                "http2_resets": 0,
                "http2_goaways": 0,
            },
            "tally": {
                "since": ANY,
                "changed_at": None,
                "downs": 0,
                "downtime": 0.0,
                "max_in_flight": 1,
                "max_queued": 2,
                "max_rate": 0.0,
            },
        }


async def test_an_ejected_server_says_why_and_for_how_long() -> None:
    operator = FakeOperator()
    operator.time = 100.04
    operator.server("agent1").eject(130.0, "5 failures in a row")
    operator.server("agent2").set_degraded("timeout after 5s")
    async with admin_listener(operator) as client:
        first, second = await client.get("/api/v1/servers")
    assert (first["state"], first["available"], first["ejections"]) == ("ejected", False, 1)
    assert first["ejected"] == {"seconds_left": 30.0, "because": "5 failures in a row"}
    assert first["because"] == "5 failures in a row"
    assert (second["state"], second["available"], second["ejected"]) == ("degraded", True, None)


@pytest.mark.parametrize(("now", "available"), [(101.0, False), (131.0, True)])
async def test_passive_failures_make_it_unavailable_for_a_time(now: float, available: bool) -> None:
    operator = FakeOperator()
    operator.time = now
    operator.server("agent2").failed(100.0, "connection refused")
    async with admin_listener(operator) as client:
        described = (await client.get("/api/v1/servers"))[1]
    assert (described["state"], described["fails"]) == ("failing", 1)
    assert described["checked"] is False
    assert described["because"] == "1 failure: connection refused"
    assert described["available"] is available


async def test_sessions_can_be_asked_for_by_server() -> None:
    operator = FakeOperator()
    operator.running = [session(seconds=9.0), session(server="agent2"), session(server=None)]
    async with admin_listener(operator) as client:
        answer = await client.get("/api/v1/sessions?server=agent2&backend=agents")
        assert [row["server"] for row in answer["sessions"]] == ["agent2"]
        answer = await client.get("/api/v1/sessions?limit=1")
        assert (answer["total"], len(answer["sessions"])) == (3, 1)
        assert (await client.get("/api/v1/sessions?backend=other"))["total"] == 0


async def test_what_is_new_since_a_number() -> None:
    async with admin_listener() as client:
        for n in range(3):
            client.operator.abort(request=f"GET /{n} HTTP/1.1")
        answer = await client.get("/api/v1/recent?since=1")
        assert [abort["number"] for abort in answer] == [2, 3]
        client.operator.abort("CH--", status=0)
        (left,) = await client.get("/api/v1/recent?since=3")
        assert left["status"] == -1
        for state in ("drain", "ready"):
            await client.send("PUT", f"{AGENT1}/state", {"state": state})
        assert [c["state"] for c in await client.get("/api/v1/changes")] == ["drain", "up"]
        assert [c["number"] for c in await client.get("/api/v1/changes?since=1")] == [2]


# Commands.


async def test_states_and_weights_are_set() -> None:
    async with admin_listener() as client:
        server = client.operator.server("agent1")
        for state, then in (("drain", "drain"), ("maint", "maint"), ("ready", "up")):
            status, answer = await client.send("PUT", f"{AGENT1}/state", {"state": state})
            assert (status, answer["state"], server.state) == (200, then, then)
            assert answer["admin"] == server.admin == state
        for weight, then_weight in ((0, 0), (7, 7), (None, 3)):
            status, answer = await client.send("PUT", f"{AGENT1}/weight", {"weight": weight})
            assert (status, answer["full_weight"], server.full_weight) == (
                200, then_weight, then_weight,
            )  # fmt: skip


async def test_a_drain_says_what_it_began_with() -> None:
    operator = FakeOperator()
    agent1 = operator.server("agent1")
    agent1.in_flight, agent1.queued = 4, 1
    async with admin_listener(operator) as client:
        _, answer = await client.send("PUT", f"{AGENT1}/state", {"state": "drain"})
        assert answer["drain"]["at_start"] == 5
        agent1.in_flight = 2
        assert (await client.get(AGENT1))["drain"] == answer["drain"]
        await client.send("PUT", f"{AGENT1}/state", {"state": "ready"})
        assert (await client.get(AGENT1))["drain"] is None


async def test_who_sets_a_state_gets_what_all_processes_had_when_it_held() -> None:
    operator = FakeOperator()
    operator.untold = {"agent1": 2}
    async with admin_listener(operator) as client:
        _, answer = await client.send("PUT", f"{AGENT1}/state", {"state": "drain"})
    assert answer["in_flight"] == answer["drain"]["at_start"] == 2


@pytest.mark.parametrize("settles", [True, False])
async def test_who_sets_a_state_gets_whether_it_holds_in_all_processes(settles: bool) -> None:
    operator = FakeOperator()
    operator.settles = settles
    async with admin_listener(operator) as client:
        status, answer = await client.send("PUT", f"{AGENT1}/state", {"state": "drain"})
    assert (status, answer["state"], answer["settled"]) == (200, "drain", settles)
    check_answer("/api/v1/servers/{backend}/{server}/state", "put", 200, answer)


@pytest.mark.parametrize("is_backend_removed", [True, False])
async def test_a_state_was_set_though_a_reload_removes_the_server_meanwhile(
    is_backend_removed: bool,
) -> None:
    operator = FakeOperator()
    other = Backend.model_validate({"servers": [{"name": "other", "address": "127.0.0.1:8003"}]})
    if is_backend_removed:
        operator.meanwhile = operator.pools.clear
    else:
        operator.meanwhile = partial(operator.pools["agents"].reconfigure, other)
    async with admin_listener(operator) as client:
        status, answer = await client.send("PUT", f"{AGENT1}/state", {"state": "drain"})
    assert (status, answer["name"], answer["settled"]) == (200, "agent1", True)


async def test_what_runs_on_a_server_can_be_ended() -> None:
    operator = FakeOperator()
    operator.server("agent1").in_flight = 3
    async with admin_listener(operator) as client:
        assert await client.send("DELETE", f"{AGENT1}/sessions") == (200, {"ended": 3})
        assert operator.server("agent1").in_flight == 0


async def test_a_reload_tells_its_changes() -> None:
    operator = FakeOperator()
    operator.reload_answer = ["backend agents: server agent3 added"]
    async with admin_listener(operator) as client:
        status, answer = await client.send("POST", "/api/v1/reload")
        assert (status, answer) == (200, {"changes": ["backend agents: server agent3 added"]})


def broken() -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config({"frontends": [], "bogus": 1})
    return caught.value


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (broken(), 422, "the configuration has errors; the old one goes on"),
        (NotPossible("this balancer was built without a file"), 409, "without a file"),
        (OSError(98, "can't listen on 10.0.0.1:80"), 409, "can't listen on 10.0.0.1:80; the old"),
        (ValueError("the access log 'x' can't be opened"), 409, "'x' can't be opened; the old"),
    ],
    ids=["wrong", "not possible", "address in use", "no log"],
)
async def test_a_reload_that_fails_says_why(error: Exception, status: int, said: str) -> None:
    operator = FakeOperator()
    operator.reload_answer = error
    async with admin_listener(operator) as client:
        got, answer = await client.send("POST", "/api/v1/reload")
        assert got == status
        assert said in answer["error"]["message"]
        check_answer("/api/v1/reload", "post", status, answer)
        if status == 422:
            problems = "\n".join(answer["error"]["problems"])
            assert "frontends" in problems
            assert "bogus" in problems


async def test_an_upgrade_is_begun() -> None:
    operator = FakeOperator()
    async with admin_listener(operator) as client:
        assert await client.send("POST", "/api/v1/upgrade") == (202, {"status": "begun"})
        assert operator.upgrades == 1
        operator.upgrade_error = NotPossible("there is only this process")
        status, answer = await client.send("POST", "/api/v1/upgrade")
        assert (status, answer["error"]["message"]) == (409, "there is only this process")


# Errors.


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/v1/servers/agents/agent9/state", "backend agents has no server 'agent9'; it has"),
        ("/api/v1/servers/other/agent1/state", "there is no backend 'other'; there are agents"),
        ("/api/v1/servers/%E2%82%AC/%0D%0Ax/state", "there is no backend '\u20ac'"),
    ],
)
async def test_an_unknown_server_is_a_404(path: str, said: str) -> None:
    async with admin_listener() as client:
        status, answer = await client.send("PUT", path, {"state": "drain"})
        assert status == 404
        assert said in answer["error"]["message"]


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("state", b'{"state": "asleep"}'),
        ("state", b'{"state": ["drain"]}'),
        ("state", b'{"state": "drain", "more": 1}'),
        ("state", b"{}"),
        ("state", b""),
        ("state", b"drain"),
        ("state", b"[" * 4000),
        ("state", b"\xff"),
        ("weight", b'{"weight": -1}'),
        ("weight", b'{"weight": 65536}'),
        ("weight", b'{"weight": 1.5}'),
        ("weight", b'{"weight": true}'),
        ("weight", b'{"weight": "3"}'),
    ],
)
async def test_a_wrong_body_changes_nothing_and_is_reported(what: str, body: bytes) -> None:
    async with admin_listener() as client:
        headers = {"Content-Type": "application/json"}
        response, _ = await client.ask(f"{AGENT1}/{what}", "PUT", data=body, headers=headers)
        assert response.status == 400
        check((await response.json()), {"$ref": "#/components/schemas/Error"})
        server = client.operator.server("agent1")
        assert (server.admin, server.full_weight) == ("ready", 3)


async def test_a_huge_body_is_refused() -> None:
    async with admin_listener() as client:
        status, _ = await client.send("PUT", f"{AGENT1}/state", {"state": "x" * 10_000})
        assert status == 413


@pytest.mark.parametrize(
    "query",
    [
        "sessions?limit=many", "sessions?limit=1001", "sessions?limit=-1", "recent?since=x",
        "recent?since=\u0663", "changes?since=" + "9" * 5000, "history?span=2y",
        "history?fields=requests,bogus", "history?fields=",
    ],
)  # fmt: skip
async def test_a_wrong_query_is_reported(query: str) -> None:
    async with admin_listener() as client:
        response, _ = await client.ask(f"/api/v1/{query}")
        assert response.status == 400
        assert (await response.json())["error"]["message"]


async def test_two_backends_may_have_servers_of_one_name() -> None:
    async with admin_listener(FakeOperator(agents("a"), agents("b"))) as client:
        await client.send("PUT", "/api/v1/servers/b/agent1/state", {"state": "drain"})
        states = [(s["backend"], s["state"]) for s in await client.get("/api/v1/servers")]
        assert states == [("a", "up"), ("a", "up"), ("b", "drain"), ("b", "up")]
