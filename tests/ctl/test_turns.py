"""`hermes-lb ctl turns` and /api/v1/turns, with a real store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from agent_worker.redis_server import RedisServer
from tests.control.test_api import check_answer
from tests.ctl.test_commands import ctl
from tests.support.operator import admin_listener
from tests.support.turn_fleet import ValkeyFleet, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.operator import Client


@pytest.fixture(scope="module")
def store_url() -> Iterator[str]:
    with RedisServer.start() as server:
        yield server.url


@pytest.fixture
async def fleet(store_url: str) -> AsyncIterator[ValkeyFleet]:
    running = ValkeyFleet(store_url)
    yield running
    await running.close()


@pytest.fixture
async def client(store_url: str) -> AsyncIterator[Client]:
    async with admin_listener() as running:
        running.operator.store_url = store_url
        yield running


async def test_turns_are_listed_shown_cancelled_and_purged(
    fleet: ValkeyFleet, client: Client
) -> None:
    store = await fleet.at(0)
    turn = await run(store, fleet.claim(key="k"))
    other = await run(store, fleet.claim())
    principal, shown = turn.id[:16], turn.id[:24]

    listed = await ctl("turns", "list", "--principal", principal, url=client.url)
    assert listed.exit_code == 0, listed.output
    assert shown in listed.output
    assert "running" in listed.output
    assert turn.id not in listed.output

    check_answer("/api/v1/turns", "get", 200, await client.get("/api/v1/turns"))
    one = await ctl("turns", "show", shown, "--json", url=client.url)
    [row] = json.loads(one.output)["turns"]
    assert (row["id"], row["state"], row["has_key"]) == (shown, "running", True)

    assert (await ctl("turns", "cancel", shown, url=client.url)).output == f"{shown}: cancelled\n"
    [row] = json.loads((await ctl("--json", "turns", "show", shown, url=client.url)).output)[
        "turns"
    ]
    assert row["state"] == "cancelling"

    purged = await ctl("turns", "purge", "--principal", principal, url=client.url)
    assert purged.output == f"{principal}: 2 turns deleted\n"
    assert await store.find(fleet.principal, other.id) is None


async def test_a_turn_that_is_unknown(client: Client) -> None:
    result = await ctl("turns", "cancel", "unknown", url=client.url)
    assert result.exit_code == 1
    assert "there is no turn whose id begins so" in result.output


async def test_a_purge_names_its_principal(client: Client) -> None:
    assert (await ctl("turns", "purge", url=client.url)).exit_code == 2
    assert "0 turns" in (await ctl("turns", "purge", "--principal", "*", url=client.url)).output


async def test_a_balancer_without_turns(client: Client) -> None:
    client.operator.store_url = ""
    result = await ctl("turns", "list", url=client.url)
    assert result.exit_code == 1
    assert "no route has turns" in result.output


async def test_a_store_that_is_away(client: Client) -> None:
    client.operator.store_url = "redis://127.0.0.1:1/0"
    result = await ctl("turns", "list", url=client.url)
    assert result.exit_code == 1
    assert "the store of turns can't be reached" in result.output
