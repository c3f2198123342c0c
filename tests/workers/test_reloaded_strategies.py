"""A strategy of one's own whose file changes, in all processes of a balancer."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.strategy_file import BAD, BAD_IDS, FIRST, LEARNS, SECOND, StrategyFile
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from tests.support.balancer_process import Running
    from tests.workers.processes import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

_MANY = 30  # requests, each on a connection of its own: both processes get some


@pytest.fixture
def mine(site: Site) -> StrategyFile:
    return StrategyFile(site.folder, "strategy_of_test")


def serving(
    site: Site, mine: StrategyFile, text: str
) -> AbstractAsyncContextManager[tuple[Running, str]]:
    return site.serving(
        before=f'export PYTHONPATH="{site.folder}:$PYTHONPATH"',
        backend=f'balance = "{mine.write(text)}"',
    )


async def picked(site: Site, running: Running) -> set[int]:
    """The numbers of the agents that many requests get."""
    ports = {str(worker.port): number for number, worker in enumerate(site.workers, 1)}
    return {ports[answer] for answer in await site.get_many(running.url, _MANY)}


async def ask(site: Site, method: str, url: str, body: Any = None) -> Any:
    async with site.client.request(method, url, json=body or {}) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def kill_all(running: Running) -> None:
    """Kill the processes, and wait for the next ones."""
    before = set(running.workers)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: len(set(running.workers) - before) == 2)


async def test_another_text_takes_over_in_all_processes_and_streams_go_on(
    site: Site, mine: StrategyFile
) -> None:
    async with serving(site, mine, FIRST) as (running, api), site.stream(running.url):
        assert await picked(site, running) == {1}
        mine.write(SECOND)
        running.signal(signal.SIGHUP)
        await running.says(
            r"reloaded\n\s+backends\.agents\.balance: the module strategy_of_test has changed\n"
        )
        assert await picked(site, running) == {2}
        assert site.workers[0].running == 1
        mine.write(LEARNS)
        await ask(site, "POST", f"{api}/reload")
        assert await picked(site, running) == {1, 2}
        # The same text again: what the processes have learnt stays.
        mine.write(LEARNS)
        await ask(site, "POST", f"{api}/reload")
        assert await picked(site, running) == {2}


@pytest.mark.parametrize("text", BAD, ids=BAD_IDS)
async def test_a_text_that_is_refused_is_in_no_process_whatever_happens(
    site: Site, mine: StrategyFile, text: str | None
) -> None:
    async with serving(site, mine, SECOND) as (running, api):
        async with site.stream(running.url):
            mine.write(text)
            running.signal(signal.SIGHUP)
            said = await running.says(r"not reloaded, the old one goes on:\n(.*)\n")
            assert mine.refusal(text) in said[1]
            assert await picked(site, running) == {2}
        await kill_all(running)
        assert await picked(site, running) == {2}

        # Something else is changed in all processes.
        limit = {"options": {"max_connections": 500}}
        await ask(site, "PUT", f"{api}/servers/agents/agent2/options", limit)
        assert await picked(site, running) == {2}
        mine.write(FIRST)
        await kill_all(running)
        assert await picked(site, running) == {2}

        await ask(site, "POST", f"{api}/reload")
        assert await picked(site, running) == {1}
        assert "round robin" not in running.said
    assert "Traceback" not in running.said


async def test_an_upgrade_takes_another_text_too_or_is_refused(
    site: Site, mine: StrategyFile
) -> None:
    async with serving(site, mine, FIRST) as (running, api):
        mine.write("class Other: pass")
        running.signal(signal.SIGUSR2)
        said = await running.says("no upgrade: the new code refuses: (.*)\n")
        assert mine.refusal("class Other: pass") in said[1]
        assert await picked(site, running) == {1}
        mine.write(SECOND)
        running.signal(signal.SIGUSR2)
        await running.says("upgraded")
        assert await picked(site, running) == {2}
        changes = await ask(site, "POST", f"{api}/reload")
        assert changes["changes"] == []
        await kill_all(running)
        assert await picked(site, running) == {2}
    assert "Traceback" not in running.said
