"""The admin listener of a real balancer: commands change routing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from hermes_lb.testing import eventually
from tests.control.test_api import check_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb import LoadBalancer
    from tests.support.http_peer import AtOrigin, Client
    from tests.support.origin import Origin
    from tests.support.stage import Stage

GET = b"GET /chat?key=secret HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
AGENT1 = "servers/agents/agent1"


class Ctl:
    """A client of the admin listener that checks every answer against its schema."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url, self._http = url, http

    async def ask(self, method: str, path: str, body: Any = None, *, shape: str = "") -> Any:
        given = {} if method == "get" else {"json": body or {}}
        async with self._http.request(method, f"{self._url}/api/v1/{path}", **given) as response:
            answer = await response.json()
            check_answer(f"/api/v1/{shape or path}", method, response.status, answer)
            return answer

    async def set(self, state: str) -> Any:
        body = {"state": state}
        shape = "servers/{backend}/{server}/state"
        return await self.ask("put", f"{AGENT1}/state", body, shape=shape)


@dataclass
class Site:
    """A balancer before two servers, and a client of its admin listener."""

    stage: Stage
    lb: LoadBalancer
    first: Origin
    second: Origin
    ctl: Ctl

    async def streaming(self, origin: Origin) -> tuple[Client, AtOrigin]:
        """A client with an event stream in progress."""
        client = await self.stage.client(self.lb)
        await client.send(GET)
        at_origin = await origin.accept()
        await at_origin.read_request()
        await at_origin.send(HEAD)
        await client.read_head()
        return client, at_origin


@pytest.fixture
async def site(stage: Stage) -> AsyncIterator[Site]:
    first, second = await stage.origin(), await stage.origin()
    lb = await stage.balancer(first, second, admin={"bind": "127.0.0.1:0"})
    async with aiohttp.ClientSession() as http:
        yield Site(stage, lb, first, second, Ctl(lb.admin_url or "", http))


async def test_a_drained_server_gets_no_new_requests_and_its_stream_goes_on(site: Site) -> None:
    client, at_first = await site.streaming(site.first)
    answer = await site.ctl.set("drain")
    assert (answer["state"], answer["in_flight"]) == ("drain", 1)
    assert answer["drain"]["at_start"] == 1
    for _ in range(3):
        await site.streaming(site.second)
    await at_first.send(b"data: 1\n\n")
    await client.read_until(b"data: 1\n\n")


async def test_sessions_say_what_runs_without_its_secrets(site: Site) -> None:
    await site.streaming(site.first)
    answer = await site.ctl.ask("get", "sessions")
    (row,) = answer["sessions"]
    assert (row["backend"], row["server"], row["phase"]) == ("agents", "agent1", "D")
    assert (row["kind"], row["method"], row["target"]) == ("stream", "GET", "/chat")


async def test_ended_sessions_are_cut_and_reported_as_killed(site: Site) -> None:
    client, _at_first = await site.streaming(site.first)
    shape = "servers/{backend}/{server}/sessions"
    assert await site.ctl.ask("delete", f"{AGENT1}/sessions", shape=shape) == {"ended": 1}
    await client.read_until_cut()
    await eventually(lambda: site.lb.recent.last == 1)
    (abort,) = await site.ctl.ask("get", "recent")
    assert abort["termination"].startswith("K")
    assert "operator" in abort["means"]


async def test_what_runs_on_a_server_that_is_gone_can_be_ended(site: Site) -> None:
    client, _at_first = await site.streaming(site.first)
    backend = site.lb.config.backends["agents"]
    one = backend.model_copy(update={"servers": backend.servers[1:]})
    await site.lb.reconfigure(site.lb.config.model_copy(update={"backends": {"agents": one}}))
    shape = "servers/{backend}/{server}/sessions"
    assert await site.ctl.ask("delete", f"{AGENT1}/sessions", shape=shape) == {"ended": 1}
    await client.read_until_cut()


async def test_status_and_live_numbers_of_a_running_balancer(site: Site) -> None:
    await site.streaming(site.first)
    status = await site.ctl.ask("get", "status")
    assert status["processes"][0]["connections"] == 1
    assert status["frontends"][0]["connections"] == 1
    last = {"conditions": "*", "backend": "agents", "rules": "", "turns": False, "resume": False}
    assert status["frontends"][0]["routes"][-1] == last
    assert [b["in_flight"] for b in await site.ctl.ask("get", "backends")] == [1]


async def test_an_embedded_balancer_says_why_it_can_not_upgrade_or_reload(site: Site) -> None:
    for path in ("reload", "upgrade"):
        answer = await site.ctl.ask("post", path)
        assert answer["error"]["status"] == 409
