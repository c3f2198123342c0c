"""The access log changes while requests end: each has a line, in the format of its file."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

from hermes_lb import LoadBalancer
from hermes_lb.testing import Rig, config_for
from tests.support.aiohttp_client import Client
from tests.support.waiting import turns

if TYPE_CHECKING:
    from pathlib import Path

USERS = 8
TIMES = 30
TARGET = re.compile(r"/request\d+")


def other_config(number: int, server: str, folder: Path) -> dict[str, Any]:
    """By turns `httplog` and JSON, each to a file of its own, and another bind as well."""
    log = {"access": str(folder / "httplog")}
    bind = ["127.0.0.1:0"]
    if number % 2:
        log = {"access": str(folder / "json"), "format": "json"}
        bind.append(f"unix:{folder / 'socket'}")
    return config_for(server, frontend={"bind": bind}, log=log)


async def test_no_line_is_lost_or_in_another_format_than_its_file(tmp_path: Path) -> None:
    asked: list[str] = []
    numbers = count()
    is_over = False

    async def use(client: Client, url: str) -> None:
        while not is_over:
            target = f"/request{next(numbers)}"
            assert await client.get(url + target) == (200, "one")
            asked.append(target)

    async with Rig() as rig, Client() as client:
        [one] = await rig.servers()
        async with (
            LoadBalancer(other_config(0, one.address, tmp_path)) as lb,
            asyncio.TaskGroup() as users,
        ):
            for number in range(USERS):
                users.create_task(use(client, lb.url), name=f"user {number}")
            for number in range(1, TIMES + 1):
                await turns(3)
                await lb.reconfigure(other_config(number, one.address, tmp_path))
            is_over = True
    written = Counter[str]()
    for name, first in (("httplog", "1"), ("json", "{")):
        lines = (tmp_path / name).read_text().splitlines()
        assert {line[0] for line in lines} <= {first}
        written.update(target for line in lines for target in TARGET.findall(line))
    assert written == Counter(asked)
