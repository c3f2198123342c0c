"""A real HAProxy and our balancer before the same scripted servers, with the same configuration.

A scenario talks to either by a `Front`, and says what it saw and what is in the log.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.support.log_line import LogLine
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.http_peer import Client
    from tests.support.stage import Stage

needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy installed")

# Seconds, by our names; HAProxy's follow.
TIMEOUTS = {"connect": 10.0, "client": 10.0, "server": 10.0, "queue": 0.3, "request_head": 10.0}
THEIR_TIMEOUTS = {"request_head": "http-request"}
CONFIG = """
global
    log stdout format raw local0
defaults
    mode http
    log global
    option httplog
    option redispatch
    option abortonclose
    retries {retries}
{timeouts}
frontend public
    bind fd@{listening}
    default_backend agents
backend agents
    cookie SERVERID insert indirect nocache
{servers}
"""


class Front(Protocol):
    """One of the two, running."""

    async def client(self) -> Client:
        """A connection to it."""

    async def logged(self, count: int = 1) -> list[LogLine]:
        """The lines of its access log, once there are `count`."""


class Ours:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    @asynccontextmanager
    async def before(
        self, *ports: int, retries: int = 0, most: int = 0, **timeouts: float
    ) -> AsyncIterator[Front]:
        """In front of these servers, of which each takes `most` requests at a time."""
        stage = self._stage
        lb = await stage.balancer(
            *ports,
            server={"max_fails": 0, "max_connections": most},
            backend={"affinity": {"cookie": "SERVERID"}, "retries": retries},
            timeouts={**TIMEOUTS, **timeouts},
        )

        class Running:
            async def client(self) -> Client:
                return await stage.client(lb)

            async def logged(self, count: int = 1) -> list[LogLine]:
                return await stage.logged(lb, count)

        yield Running()


class HAProxys:
    def __init__(self, stage: Stage, folder: Path) -> None:
        self._stage, self._folder = stage, folder

    @asynccontextmanager
    async def before(
        self, *ports: int, retries: int = 0, most: int = 0, **timeouts: float
    ) -> AsyncIterator[Front]:
        config, log = self._folder / "haproxy.cfg", self._folder / "haproxy.log"
        with socket.create_server(("127.0.0.1", 0)) as listening, log.open("wb") as output:
            config.write_text(_config(listening.fileno(), ports, retries, most, timeouts))
            process = await asyncio.create_subprocess_exec(
                "haproxy", "-db", "-f", str(config),
                stdout=output, stderr=asyncio.subprocess.DEVNULL, pass_fds=[listening.fileno()],
            )  # fmt: skip
            stage, url = self._stage, f"http://127.0.0.1:{listening.getsockname()[1]}"

            class Running:
                async def client(self) -> Client:
                    return await stage.client(url)

                async def logged(self, count: int = 1) -> list[LogLine]:
                    await eventually(lambda: len(_lines(log)) >= count, f"{count} lines")
                    return [LogLine(line) for line in _lines(log)]

            try:
                yield Running()
            finally:
                process.terminate()
                await process.wait()


def _config(
    listening: int, ports: tuple[int, ...], retries: int, most: int, timeouts: dict[str, float]
) -> str:
    spans = {
        THEIR_TIMEOUTS.get(name, name): span for name, span in {**TIMEOUTS, **timeouts}.items()
    }
    return CONFIG.format(
        retries=retries,
        listening=listening,
        timeouts="\n".join(
            f"    timeout {name} {span * 1e3:.0f}ms" for name, span in spans.items()
        ),
        servers="\n".join(
            f"    server agent{n} 127.0.0.1:{port} cookie agent{n} maxconn {most}"
            for n, port in enumerate(ports, 1)
        ),
    )


def _lines(log: Path) -> list[str]:
    """Of requests: what HAProxy says of itself has no times."""
    return [line for line in log.read_text().splitlines() if line.endswith('"')]
