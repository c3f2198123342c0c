"""Records while the balancer is given other configurations: all are there, each once."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb import ConfigError
from hermes_lb.testing import Record, config_for
from hermes_lb.testing.messages import Answer, Request
from tests.support.aiohttp_client import Client
from tests.support.waiting import turns

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.aiohttp_client import Balanced, Servers

USERS = 8
TIMES = 40

FORMATS: tuple[dict[str, Any], ...] = (
    {"access": "off", "format": "httplog"},
    {"access": "off", "format": "json"},
    {"access": "off", "format": "combined", "sample": 0.0},
    {"access": "off", "capture_trace": True},
)
FILES: tuple[dict[str, Any], ...] = (
    {"access": "a.log", "format": "json"},
    {"access": "off"},
    {"access": "b.log", "sample": 0.0},
    {"access": "c.log", "format": "combined", "capture_trace": True},
)


def requests_in(folder: Path) -> Counter[str]:
    return Counter(
        Record.parse(line).request
        for path in folder.iterdir()
        for line in path.read_text().splitlines()
    )


@pytest.mark.parametrize("logs", [FORMATS, FILES], ids=["formats", "files"])
async def test_all_requests_have_their_record_however_often_it_is_reconfigured(
    logs: tuple[dict[str, Any], ...],
    balanced_servers: Servers,
    load_balancer: Balanced,
    tmp_path: Path,
) -> None:
    """The checks of health change too, for which it waits when all else is done."""
    asked: list[str] = []
    numbers = count()
    is_over = False

    async def use(client: Client, url: str) -> None:
        while not is_over:
            path = f"/{next(numbers)}"
            assert await client.get(url + path) == (200, "one")
            asked.append(f"GET {path} HTTP/1.1")

    [one] = await balanced_servers(1)
    lb = await load_balancer(one, health={"path": "/up", "interval": "1h"})
    async with Client() as client, asyncio.TaskGroup() as users:
        for number in range(USERS):
            users.create_task(use(client, lb.url), name=f"user {number}")
        for number in range(TIMES):
            await turns(3)
            log = dict(logs[number % len(logs)])
            if log["access"] != "off":
                log["access"] = str(tmp_path / log["access"])
            health = {"path": "/up", "interval": f"{number + 2}h"}
            await lb.reconfigure(config_for(one, health=health, log=log))
            with pytest.raises(ConfigError):
                await lb.reconfigure(config_for(one, balance="none"))
        is_over = True
    await lb.served(len(asked))
    await lb.stop()
    assert Counter(record.request for record in lb.records) == Counter(asked)
    written = requests_in(tmp_path)
    assert bool(written) == (logs is FILES)
    assert written <= Counter(asked)


@pytest.mark.parametrize(("traceparent", "is_made"), [("make", True), ("pass", False)])
async def test_a_trace_is_made_only_where_it_is_configured(
    traceparent: str, is_made: bool, balanced_servers: Servers, load_balancer: Balanced
) -> None:
    async def tell(request: Request) -> Answer:
        return Answer(body=request.header("traceparent") or "none")

    [one] = await balanced_servers(1, handler=tell)
    lb = await load_balancer(one, log={"access": "off", "traceparent": traceparent})
    async with Client() as client:
        assert ((await client.get(lb.url))[1] != "none") is is_made
    assert await lb.served() == ["one"]
