"""Commands of the API that change a running balancer: answers, refusals, and the state after."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.backends.options import DiscoveredServer
from hermes_lb.control.operator import KeptPin
from tests.control.test_api import check_answer
from tests.control.test_with_a_balancer import AGENT1, Site, site
from tests.support.operator import FakeOperator, admin_listener, session

if TYPE_CHECKING:
    from tests.support.operator import Client

__all__ = ["site"]

AGENT2 = "servers/agents/agent2"
SERVER = "servers/{backend}/{server}"
NEW = {"name": "new", "address": "127.0.0.1:9"}
COUNTED = r'hermes_lb_requests_total\{backend="agents",server="agent1",code="2xx"\}'
HOSTILE = "<img src=x>\x1b[2J\r\n"


def states(operator: FakeOperator) -> list[tuple[Any, ...]]:
    return [
        (s.name, str(s.config.address), s.admin, s.full_weight, s.max_connections)
        for s in operator.pools["agents"].servers
    ]


BEFORE = [
    ("agent1", "127.0.0.1:8001", "ready", 3, 9),
    ("agent2", "[::1]:8002", "ready", 1, 0),
]


async def send(client: Client, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    status, answer = await client.send(method, f"/api/v1/{path}", body)
    return status, answer


@pytest.mark.parametrize(
    ("method", "path", "body", "after"),
    [
        ("POST", "servers/agents", NEW, [*BEFORE, ("new", "127.0.0.1:9", "ready", 1, 0)]),
        (
            "POST", "servers/agents",
            {**NEW, "state": "drain", "options": {"weight": 7, "max_connections": 2}},
            [*BEFORE, ("new", "127.0.0.1:9", "drain", 7, 2)],
        ),
        ("DELETE", AGENT2, None, BEFORE[:1]),
        (
            "PUT", f"{AGENT1}/options", {"options": {"max_connections": 0}},
            [("agent1", "127.0.0.1:8001", "ready", 3, 0), BEFORE[1]],
        ),
        (
            "PUT", f"{AGENT1}/options", {"options": {"address": "127.0.0.1:7"}},
            [("agent1", "127.0.0.1:7", "ready", 3, 9), BEFORE[1]],
        ),
    ],
)  # fmt: skip
async def test_servers_are_added_removed_and_changed(
    method: str, path: str, body: Any, after: list[Any]
) -> None:
    async with admin_listener() as client:
        status, answer = await send(client, method, path, body)
        assert status in (200, 201), answer
        shape = "servers/{backend}" if method == "POST" else SERVER + path[len(AGENT1) :]
        check_answer(f"/api/v1/{shape}", method.lower(), status, answer)
        assert states(client.operator) == after


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "servers/nowhere", NEW, 404, "no backend 'nowhere'"),
        ("POST", "servers/agents", {**NEW, "name": "agent1"}, 409, "has a server agent1 already"),
        ("POST", "servers/agents", {**NEW, "name": HOSTILE}, 400, "name"),
        ("POST", "servers/agents", {**NEW, "address": "nowhere"}, 400, "address"),
        ("POST", "servers/agents", {**NEW, "address": HOSTILE}, 400, "address"),
        ("POST", "servers/agents", {**NEW, "options": {"wieght": 3}}, 400, "wieght"),
        ("POST", "servers/agents", {**NEW, "options": {"weight": -1}}, 400, "weight"),
        ("POST", "servers/agents", {"name": "new"}, 400, "address"),
        ("DELETE", AGENT1, None, 400, "every server is a backup"),
        ("DELETE", "servers/agents/nobody", None, 404, "no server 'nobody'"),
        ("PUT", f"{AGENT1}/options", {"options": {}}, 400, "options"),
        ("PUT", f"{AGENT1}/options", {"options": {"weight": 3}}, 400, "can't be changed"),
        ("PUT", f"{AGENT1}/options", {"options": {HOSTILE: 3}}, 400, "can't be changed"),
        ("PUT", f"{AGENT1}/options", {"options": {"max_connections": -1}}, 400, "max_connections"),
        ("PUT", f"{AGENT1}/options", {"options": {"address": [1]}}, 400, "address"),
        ("PUT", f"{AGENT1}/health", {"health": "fine"}, 400, "health"),
        ("PUT", "servers/agents/nobody/health", {"health": "up"}, 404, "no server"),
        ("DELETE", "sessions/0-1-1", None, 404, "no such session"),
        ("DELETE", "pins?limit=many", None, 400, "limit"),
    ],
)
async def test_what_is_refused_changes_nothing(
    method: str, path: str, body: Any, status: int, said: str
) -> None:
    async with admin_listener() as client:
        client.operator.running = [session()]
        got, answer = await send(client, method, path, body)
        message = answer["error"]["message"]
        assert (got, said in message) == (status, True), message
        assert "\x1b" not in message
        assert states(client.operator) == BEFORE
        assert len(client.operator.running) == 1


async def test_the_last_server_of_a_backend_stays() -> None:
    async with admin_listener() as client:
        await send(client, "DELETE", AGENT2)
        status, answer = await send(client, "DELETE", AGENT1)
        assert (status, "last server" in answer["error"]["message"]) == (409, True)
        assert states(client.operator) == BEFORE[:1]


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("DELETE", "", None, "of the discovery (file), which decides on it: set it to maint"),
        ("PUT", "/options", {"options": {"address": "127.0.0.1:7"}}, "decides on pod's address"),
        ("PUT", "/options", {"options": {"server_name": "a"}}, "decides on pod's server_name"),
    ],
)
async def test_what_a_source_decides_on_is_refused(
    method: str, path: str, body: Any, said: str
) -> None:
    pod = {"name": "pod", "address": "127.0.0.1:9", "found_by": "file"}
    async with admin_listener() as client:
        client.operator.pools["agents"].discover([DiscoveredServer.model_validate(pod)], [])
        status, answer = await send(client, method, f"servers/agents/pod{path}", body)
        assert (status, said in answer["error"]["message"]) == (409, True), answer
        assert states(client.operator) == [*BEFORE, ("pod", "127.0.0.1:9", "ready", 1, 0)]


async def test_another_address_keeps_what_operators_have_set() -> None:
    async with admin_listener() as client:
        await send(client, "PUT", f"{AGENT1}/state", {"state": "maint"})
        await send(client, "PUT", f"{AGENT1}/weight", {"weight": 0})
        body = {"options": {"address": "127.0.0.1:7"}}
        await send(client, "PUT", f"{AGENT1}/options", body)
        assert states(client.operator)[0] == ("agent1", "127.0.0.1:7", "maint", 0, 9)


async def test_a_server_in_maintenance_has_no_health_to_set() -> None:
    async with admin_listener() as client:
        await send(client, "PUT", f"{AGENT1}/state", {"state": "maint"})
        status, _ = await send(client, "PUT", f"{AGENT1}/health", {"health": "up"})
        assert (status, client.operator.forced) == (409, {})


async def test_one_session_is_ended_and_no_other() -> None:
    async with admin_listener() as client:
        client.operator.running = [session(id="0-a-1"), session(id="0-b-1")]
        assert await send(client, "DELETE", "sessions/0-a-1") == (200, {"ended": 1})
        assert [one["id"] for one in client.operator.running] == ["0-b-1"]


async def test_pins_are_listed_and_cleared() -> None:
    async with admin_listener() as client:
        client.operator.kept_pins = [
            KeptPin("01", "agents", "agent1"), KeptPin("02", "agents", "agent2"),
        ]  # fmt: skip
        found = await client.get("/api/v1/pins?server=agent2&limit=1")
        assert found["pins"] == [{"id": "02", "backend": "agents", "server": "agent2"}]
        assert await send(client, "DELETE", "pins?server=agent1") == (200, {"cleared": 1})
        assert [pin.id for pin in client.operator.kept_pins] == ["02"]


async def test_counters_are_cleared_but_not_in_the_metrics() -> None:
    operator = FakeOperator()
    counters = operator.server("agent1").counters
    counters.responses[2], counters.bytes_out, operator.frontend.requests = 5, 100, 6
    operator.frontend.connections = 9
    async with admin_listener(operator) as client:
        await send(client, "DELETE", "counters")
        counters.responses[2] += 2
        server = await client.get(f"/api/v1/{AGENT1}")
        assert server["counters"]["responses"]["2xx"] == 2
        assert server["counters"]["bytes_out"] == 0
        operator.frontend.connections = 4  # a gauge: fewer than before are no counter that fell
        [frontend] = (await client.get("/api/v1/status"))["frontends"]
        assert (frontend["requests"], frontend["connections"]) == (0, 4)
        _, metrics = await client.ask("/metrics")
        [line] = [one for one in metrics.splitlines() if re.match(COUNTED, one)]
        assert line.endswith((" 7.0", " 7"))


async def test_the_configuration_is_dumped_without_secrets() -> None:
    async with admin_listener() as client:
        client.operator.config = client.operator.config.model_copy(
            update={"admin": client.operator.config.admin.model_copy(update={"token": "hush" * 9})}
        )
        await send(client, "POST", "servers/agents", NEW)
        rows = await client.get("/api/v1/config")
        assert "hush" not in json.dumps(rows)
        by_key = {row["key"]: row for row in rows}
        assert by_key["backends.agents.servers.new.address"]["origin"] == "runtime"
        less = await client.get("/api/v1/config?under=backends.agents.servers.new")
        assert {row["origin"] for row in less} == {"runtime"}


# With a balancer that serves.


async def test_a_removed_server_finishes_what_it_has_and_an_added_one_serves(site: Site) -> None:
    client, at_first = await site.streaming(site.first)
    await site.ctl.ask("delete", AGENT1, shape=SERVER)
    for _ in range(2):
        await site.streaming(site.second)
    await at_first.send(b"data: 1\n\n")
    await client.read_until(b"data: 1\n\n")
    third = await site.stage.origin()
    body = {"name": "third", "address": f"127.0.0.1:{third.port}"}
    await site.ctl.ask("post", "servers/agents", body, shape="servers/{backend}")
    await site.ctl.ask("delete", "servers/agents/agent2", shape=SERVER)
    await site.streaming(third)


async def test_a_changed_address_is_where_new_requests_go(site: Site) -> None:
    client, at_first = await site.streaming(site.first)
    await site.ctl.ask("delete", "servers/agents/agent2", shape=SERVER)
    body = {"options": {"address": f"127.0.0.1:{site.second.port}"}}
    await site.ctl.ask("put", f"{AGENT1}/options", body, shape=f"{SERVER}/options")
    await site.streaming(site.second)
    await at_first.send(b"data: 1\n\n")
    await client.read_until(b"data: 1\n\n")
    # Both are requests on agent1: of the server that it was, and of the one that it is.
    found = await site.ctl.ask("get", "sessions?server=agent1", shape="sessions")
    assert found["total"] == 2


async def test_one_stream_is_cut_and_the_other_goes_on(site: Site) -> None:
    first, _ = await site.streaming(site.first)
    second, at_second = await site.streaming(site.second)
    rows = (await site.ctl.ask("get", "sessions"))["sessions"]
    [doomed] = [row["id"] for row in rows if row["server"] == "agent1"]
    answer = await site.ctl.ask("delete", f"sessions/{doomed}", shape="sessions/{id}")
    assert answer == {"ended": 1}
    await first.read_until_cut()
    await at_second.send(b"data: 1\n\n")
    await second.read_until(b"data: 1\n\n")
    again = await site.ctl.ask("delete", f"sessions/{doomed}", shape="sessions/{id}")
    assert again["error"]["status"] == 404


async def test_a_change_outlives_a_reload(site: Site) -> None:
    await site.ctl.ask("delete", AGENT1, shape=SERVER)
    await site.lb.reconfigure(site.lb.config)
    for _ in range(2):
        await site.streaming(site.second)
