"""A drain that is waited for: what the processes have in flight is known when it is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.workers.processes import Worker, a_stream, serving, write

if TYPE_CHECKING:
    from pathlib import Path

    import aiohttp


@pytest.mark.parametrize("count", [1, 2], ids=["alone", "several"])
async def test_who_drains_a_server_is_told_of_what_has_only_just_begun(
    tmp_path: Path, workers: list[Worker], client: aiohttp.ClientSession, count: int
) -> None:
    file = write(tmp_path, workers[:1])
    file.write_text(file.read_text().replace("workers = 2", f"workers = {count}"))
    async with serving(file) as (running, api):
        url = f"{api}/servers/agents/agent1/state"
        for _ in range(5):  # the processes tell their numbers in steps
            async with (
                a_stream(client, running.url, workers),
                client.put(url, json={"state": "drain"}) as response,
            ):
                assert (await response.json())["in_flight"] == 1
            async with client.put(url, json={"state": "ready"}) as response:
                assert (await response.json())["in_flight"] == 0
            workers[0].go_on.clear()
