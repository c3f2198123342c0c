"""`ctl drain --wait`: the requests in flight in all processes are known when drain is answered."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.ctl.client import AdminClient
from hermes_lb.ctl.drain import wait_until_drained
from tests.workers.processes import serving

if TYPE_CHECKING:
    from tests.workers.processes import Site


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2], ids=["alone", "several"])
async def test_who_drains_a_server_is_notified_of_what_has_only_just_begun(
    site: Site, count: int
) -> None:
    async with serving(site.write(site.workers[:1], count=count)) as (running, api):
        url = f"{api}/servers/agents/agent1/state"
        for _ in range(5):  # processes publish periodically
            async with (
                site.stream(running.url),
                site.client.put(url, json={"state": "drain"}) as response,
            ):
                assert (await response.json())["in_flight"] == 1
            async with site.client.put(url, json={"state": "ready"}) as response:
                assert (await response.json())["in_flight"] == 0
            site.workers[0].go_on.clear()


def drain(api: str) -> tuple[AdminClient, dict[str, Any]]:
    """What `ctl drain agent1` does -> its client, and the server's state."""
    client = AdminClient(api.removesuffix("/api/v1"))
    return client, client.change(client.find("agent1"), "state", "drain")


async def left(client: AdminClient, server: dict[str, Any]) -> int:
    """What `--wait` sees at its first look."""
    return await asyncio.to_thread(wait_until_drained, client, server, 0.0, None)


@pytest.mark.slow
async def test_a_drain_knows_what_a_server_has_from_before_it_was_removed_and_added_again(
    site: Site,
) -> None:
    async with (
        serving(site.write(site.workers[:1])) as (running, api),
        site.stream(running.url),
    ):
        for there in (site.workers[1:], site.workers[:1]):
            site.write(there)
            async with site.client.post(f"{api}/reload", json={}) as response:
                assert response.status == 200
        assert await left(*await asyncio.to_thread(drain, api)) == 1


@pytest.mark.slow
async def test_a_drain_that_a_process_has_not_heard_of_is_not_done(site: Site) -> None:
    async with (
        serving(site.write(site.workers[:1], count=1)) as (running, api),
        site.stream(running.url),  # just begun, not published yet
    ):
        [process] = running.workers
        os.kill(process, signal.SIGSTOP)
        try:
            asked, server = await asyncio.to_thread(drain, api)
        finally:
            os.kill(process, signal.SIGCONT)
        assert not server["settled"]
        assert await left(asked, server) == 1
