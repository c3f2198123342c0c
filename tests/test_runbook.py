"""docs/runbook.md: each symptom has its parts, what they name exists, and a test produces it."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path

import aiohttp
import pytest
import yaml

from hermes_lb.ctl.commands import app
from hermes_lb.testing import Answer, Request, Rig, eventually
from tests.observe.test_monitoring_files import exposed

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/runbook.md").read_text()
PARTS = ("Look at", "It means:", "Do:", "Produced by")


TITLES = re.findall(r"^## (.+)$", PAGE, re.M)
ENTRIES = [" ".join(text.split()) for text in re.split(r"^## .+$", PAGE, flags=re.M)[1:]]

each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=TITLES)


def alerts() -> set[str]:
    groups = yaml.safe_load((ROOT / "configs/alerts.yml").read_text())["groups"]
    return {rule["alert"] for group in groups for rule in group["rules"]}


def test_there_are_twenty_symptoms() -> None:
    assert len(set(TITLES)) == len(TITLES) == len(ENTRIES) >= 20


@each_entry
def test_an_entry_says_what_to_look_at_what_it_means_and_what_to_do(entry: str) -> None:
    assert [part for part in PARTS if entry.count(f"**{part}**") != 1] == []


@each_entry
def test_a_test_produces_the_symptom(entry: str) -> None:
    [(file, name)] = re.findall(r"\*\*Produced by\*\* `(\S+)::(\w+)`", entry)
    functions = ast.FunctionDef, ast.AsyncFunctionDef
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, functions)}


def test_what_it_names_exists() -> None:
    assert set(re.findall(r"`(Hermes\w+)`", PAGE)) <= alerts()
    series = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed()}
    assert set(re.findall(r"`(hermes_lb_\w+)`", PAGE)) <= series
    commands = {
        one.name or one.callback.__name__ for one in app.registered_commands if one.callback
    }
    assert set(re.findall(r"hermes-lb ctl (\w+)", PAGE)) <= commands


def test_no_alert_is_without_an_entry() -> None:
    own = {"HermesBalancerGone"}  # its annotation has all there is to say
    assert alerts() - own <= set(re.findall(r"`(Hermes\w+)`", PAGE))


async def test_a_server_that_fails_fast_gets_everything() -> None:
    go_on = asyncio.Event()

    async def fails(request: Request) -> Answer:
        return Answer(500)

    async def works(request: Request) -> Answer:
        await go_on.wait()
        return Answer(200)

    async with Rig() as rig, aiohttp.ClientSession() as client:
        broken, busy = await rig.servers(2)
        broken.handler, busy.handler = fails, works
        lb = await rig.balancer(broken, busy, balance="leastconn", retries=0)
        async with asyncio.TaskGroup() as group:
            while not busy.in_flight:  # the first one may go to either
                task = group.create_task(_get(client, lb.url))
                await eventually(lambda task=task: task.done() or busy.in_flight, "it arrives")
            before = len(broken.requests)
            for _ in range(20):
                assert await _get(client, lb.url) == 500
            assert len(broken.requests) == before + 20
            go_on.set()
        counters = {
            s.name: s.counters.responses for pool in lb.pools.values() for s in pool.servers
        }
        assert counters[broken.name][5] >= 20
        assert counters[busy.name][5] == 0


async def _get(client: aiohttp.ClientSession, url: str) -> int:
    async with client.get(url) as response:
        return response.status
