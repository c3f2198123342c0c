"""Servers that are added, removed and changed at run time, in all processes of a balancer."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.workers.processes import becomes

if TYPE_CHECKING:
    from tests.workers.processes import Site

AGENTS = "servers/agents"


async def ask(site: Site, method: str, url: str, body: Any = None) -> Any:
    async with site.client.request(method, url, json=body or {}) as response:
        answer = await response.json()
        assert response.status in (200, 201), answer
        return answer


async def set_servers(site: Site, api: str) -> dict[str, int]:
    """Remove one, add one, change one -> what all processes have then, by name."""
    await ask(site, "DELETE", f"{api}/{AGENTS}/agent1")
    new = {"name": "third", "address": f"127.0.0.1:{site.workers[0].port}"}
    await ask(site, "POST", f"{api}/{AGENTS}", new)
    limit = {"options": {"max_connections": 5}}
    await ask(site, "PUT", f"{api}/{AGENTS}/third/options", limit)
    return {"agent2": 0, "third": 5}


async def limits(site: Site, api: str) -> dict[str, int]:
    return {name: one["max_connections"] for name, one in (await site.servers(api)).items()}


@pytest.mark.slow
async def test_all_processes_have_what_operators_set_also_after_a_reload(site: Site) -> None:
    first, second = site.workers
    async with site.serving() as (running, api):
        await ask(site, "DELETE", f"{api}/{AGENTS}/agent1")
        await site.get_many(running.url, 20)
        assert (first.served, second.served) == (0, 20)
        new = {"name": "agent1", "address": f"127.0.0.1:{first.port}"}
        await ask(site, "POST", f"{api}/{AGENTS}", new)
        expected = await set_servers(site, api)
        await ask(site, "POST", f"{api}/reload")
        assert await limits(site, api) == expected
        await site.get_many(running.url, 40)
        assert first.served > 0
    assert "Traceback" not in running.said


@pytest.mark.slow
async def test_an_upgrade_keeps_what_operators_have_set(site: Site) -> None:
    async with site.serving() as (running, api):
        expected = await set_servers(site, api)
        running.signal(signal.SIGUSR2)
        await running.says("upgraded")
        await site.get_many(running.url, 40)
        assert site.workers[0].served > 0
        assert await limits(site, api) == expected
    assert "Traceback" not in running.said


@pytest.mark.slow
async def test_operators_who_add_and_remove_at_once_leave_what_each_was_answered(
    site: Site,
) -> None:
    async with site.serving() as (running, api):
        port = site.workers[0].port

        async def add(name: str) -> int:
            body = {"name": name, "address": f"127.0.0.1:{port}"}
            async with site.client.post(f"{api}/{AGENTS}", json=body) as response:
                return response.status

        async def remove(name: str) -> int:
            async with site.client.delete(f"{api}/{AGENTS}/{name}", json={}) as response:
                return response.status

        given = await asyncio.gather(*(add(name) for name in ("x", "y", "x", "z", "x")))
        assert sorted(given) == [201, 201, 201, 409, 409]
        given = await asyncio.gather(
            *(remove(name) for name in ("x", "x", "agent1", "agent2", "y", "z")),
            site.get_many(running.url, 20),
        )
        # One is refused since it would be the last server, one since the other was faster.
        assert sorted(given[:-1]) == [200, 200, 200, 200, 404, 409]
        assert len(await site.servers(api)) == 1
        await site.get_many(running.url, 10)
    assert "Traceback" not in running.said


@pytest.mark.slow
async def test_one_stream_is_cut_wherever_it_runs_and_pins_are_forgotten(site: Site) -> None:
    backend = '[[backends.agents.stick]]\non = "header:Mcp-Session-Id"\nlearn = true\n'
    async with site.serving(backend=backend) as (running, api):
        async with site.client.get(f"{running.url}/session") as response:
            await response.read()
        await becomes(partial(pins, site, api), 1)
        assert await ask(site, "DELETE", f"{api}/pins?backend=agents") == {"cleared": 1}
        assert await pins(site, api) == 0
        async with site.client.get(f"{running.url}/stream") as response:
            assert await response.content.read(6) == b"begun "
            [row] = (await ask(site, "GET", f"{api}/sessions"))["sessions"]
            assert await ask(site, "DELETE", f"{api}/sessions/{row['id']}") == {"ended": 1}
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()


@pytest.mark.slow
async def test_pins_in_a_store_are_cleared_there_and_in_all_processes(site: Site) -> None:
    redis_server = pytest.importorskip("agent_worker.redis_server")
    learns = '[[backends.agents.stick]]\non = "header:Mcp-Session-Id"\nlearn = true\n'
    with redis_server.RedisServer.start() as server:
        backend = f'{learns}[backends.agents.pins]\nredis = "{server.url}"\n'
        async with (
            site.serving(backend=backend) as (_, api),
            site.serving(backend=backend) as other,
        ):
            await site.get(f"{other[0].url}/session")
            assert await pins(site, api) == 1
            assert await ask(site, "DELETE", f"{api}/pins?backend=agents") == {"cleared": 1}
            assert await pins(site, other[1]) == 0


async def pins(site: Site, api: str) -> int:
    return int((await ask(site, "GET", f"{api}/pins"))["total"])


@pytest.mark.slow
async def test_health_that_is_set_holds_against_the_checks(site: Site) -> None:
    backend = "[backends.agents.health]\ninterval = 0.05\nfall = 1\n"
    async with site.serving(backend=backend) as (running, api):
        url = f"{api}/{AGENTS}/agent1/health"
        await ask(site, "PUT", url, {"health": "down"})
        other = str(site.workers[1].port)
        assert set(await site.get_many(running.url, 20)) == {other}  # the checks count as served
        assert (await site.servers(api))["agent1"]["because"] == "set down by an operator"
        await ask(site, "PUT", url, {"health": "auto"})
        await becomes(partial(state, site, api), "up")


async def state(site: Site, api: str) -> str:
    return str((await site.servers(api))["agent1"]["state"])
