"""Learnt sessions over changes of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp

from hermes_lb.testing import Answer, config_for

if TYPE_CHECKING:
    from hermes_lb.testing import Request, Server
    from tests.support.aiohttp_client import Balanced, Servers

LEARNS = {"on": "header:X-Session", "learn": True}


def configured(*servers: Server, **options: Any) -> dict[str, Any]:
    return config_for(*servers, stick=[LEARNS], balance="round_robin", **options)


async def ask(url: str, session: str) -> str:
    async with (
        aiohttp.ClientSession() as client,
        client.get(url, headers={"X-Session": session} if session else {}) as response,
    ):
        return await response.text()


async def test_a_session_that_was_learnt_outlives_a_reload_and_not_its_server(
    balanced_servers: Servers, load_balancer: Balanced
) -> None:
    one, two, three = await balanced_servers(3)
    one.handler = opening("s-1", one)
    lb = await load_balancer(config=configured(one, two))
    assert await ask(lb.url, "") == "one"

    for new in (
        configured(three, two, one),
        configured(three, two, one, pins={"size": 5}),
        config_for(three, two, one, stick=[LEARNS], balance="maglev"),
        configured(two, one),
    ):
        assert await lb.reconfigure(new)
        assert [await ask(lb.url, "s-1") for _ in range(3)] == ["one"] * 3

    await lb.reconfigure(configured(two, three))
    moved = await ask(lb.url, "s-1")
    assert moved in {"two", "three"}
    await lb.reconfigure(configured(one, two, three))
    assert [await ask(lb.url, "s-1") for _ in range(3)] == [moved] * 3


async def test_a_strict_session_whose_server_is_gone_is_refused_and_not_given_to_another(
    balanced_servers: Servers, load_balancer: Balanced
) -> None:
    one, two, three = await balanced_servers(3)
    one.handler = opening("s-1", one)
    strict: dict[str, Any] = {"stick": [{**LEARNS, "on_lost": "strict"}], "balance": "round_robin"}
    lb = await load_balancer(config=config_for(one, two, three, **strict))
    assert await ask(lb.url, "") == "one"

    await lb.reconfigure(config_for(two, three, **strict))
    for _ in range(3):
        assert "503" in await ask(lb.url, "s-1")
    assert await ask(lb.url, "s-2") in {"two", "three"}
    await lb.reconfigure(config_for(one, two, three, **strict))
    assert [await ask(lb.url, "s-1") for _ in range(3)] == ["one"] * 3


def opening(session: str, server: Server) -> Any:
    """A handler that gives its client a session."""

    async def answer(request: Request) -> Answer:
        return Answer(200, {"X-Session": session}, server.name)

    return answer
