"""The admin listener of a real balancer: commands change routing."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from hermes_lb.testing import eventually
from tests.control.test_api import check_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb import LoadBalancer
    from tests.support.http_peer import Client, Peer
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


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@asynccontextmanager
async def two_servers(stage: Stage) -> AsyncIterator[tuple[LoadBalancer, Any, Any]]:
    first, second = await stage.origin(), await stage.origin()
    lb = await stage.balancer(first, second, admin={"bind": "127.0.0.1:0"})
    yield lb, first, second


async def streaming(stage: Stage, lb: LoadBalancer, origin: Any) -> tuple[Client, Peer]:
    """A client with an event stream in progress."""
    client = await stage.client(lb)
    await client.send(GET)
    at_origin = await origin.accept()
    await at_origin.read_request()
    await at_origin.send(HEAD)
    await client.read_head()
    return client, at_origin


async def test_a_drained_server_gets_no_new_requests_and_its_stream_goes_on(
    stage: Stage, http: aiohttp.ClientSession
) -> None:
    async with two_servers(stage) as (lb, first, second):
        ctl = Ctl(lb.admin_url or "", http)
        client, at_first = await streaming(stage, lb, first)
        answer = await ctl.set("drain")
        assert (answer["state"], answer["in_flight"]) == ("drain", 1)
        assert answer["drain"]["at_start"] == 1
        for _ in range(3):
            await streaming(stage, lb, second)
        await at_first.send(b"data: 1\n\n")
        await client.read_until(b"data: 1\n\n")


async def test_sessions_say_what_runs_without_its_secrets(
    stage: Stage, http: aiohttp.ClientSession
) -> None:
    async with two_servers(stage) as (lb, first, _):
        ctl = Ctl(lb.admin_url or "", http)
        await streaming(stage, lb, first)
        answer = await ctl.ask("get", "sessions")
        (row,) = answer["sessions"]
        assert (row["backend"], row["server"], row["phase"]) == ("agents", "agent1", "D")
        assert (row["kind"], row["method"], row["target"]) == ("stream", "GET", "/chat")


async def test_ended_sessions_are_cut_and_reported_as_killed(
    stage: Stage, http: aiohttp.ClientSession
) -> None:
    async with two_servers(stage) as (lb, first, _):
        ctl = Ctl(lb.admin_url or "", http)
        client, _at_first = await streaming(stage, lb, first)
        shape = "servers/{backend}/{server}/sessions"
        assert await ctl.ask("delete", f"{AGENT1}/sessions", shape=shape) == {"ended": 1}
        await client.read_to_end()
        await eventually(lambda: lb.recent.last == 1)
        (abort,) = await ctl.ask("get", "recent")
        assert abort["termination"].startswith("K")
        assert "operator" in abort["means"]


async def test_what_runs_on_a_server_that_is_gone_can_be_ended(
    stage: Stage, http: aiohttp.ClientSession
) -> None:
    async with two_servers(stage) as (lb, first, _):
        ctl = Ctl(lb.admin_url or "", http)
        client, _at_first = await streaming(stage, lb, first)
        backend = lb.config.backends["agents"]
        one = backend.model_copy(update={"servers": backend.servers[1:]})
        await lb.reconfigure(lb.config.model_copy(update={"backends": {"agents": one}}))
        shape = "servers/{backend}/{server}/sessions"
        assert await ctl.ask("delete", f"{AGENT1}/sessions", shape=shape) == {"ended": 1}
        await client.read_to_end()


async def test_status_and_live_numbers_of_a_running_balancer(
    stage: Stage, http: aiohttp.ClientSession
) -> None:
    async with two_servers(stage) as (lb, first, _):
        ctl = Ctl(lb.admin_url or "", http)
        await streaming(stage, lb, first)
        status = await ctl.ask("get", "status")
        assert status["processes"][0]["connections"] == 1
        assert status["frontends"][0]["connections"] == 1
        assert [b["in_flight"] for b in await ctl.ask("get", "backends")] == [1]


async def test_an_embedded_balancer_says_why_it_can_not_upgrade_or_reload(
    stage: Stage, http: aiohttp.ClientSession
) -> None:
    async with two_servers(stage) as (lb, _, _):
        ctl = Ctl(lb.admin_url or "", http)
        for path in ("reload", "upgrade"):
            answer = await ctl.ask("post", path)
            assert answer["error"]["status"] == 409
