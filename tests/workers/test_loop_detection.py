"""Loop detection, and what only looks like a loop: a frontend that is another one's server."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.balancer_process import reserved_port
from tests.workers.processes import becomes, serving

if TYPE_CHECKING:
    from pathlib import Path

    import aiohttp

    from tests.workers.processes import Site

_MANY = 16  # concurrent, so that both processes serve each frontend


def _write(folder: Path, outer: int, inner: int, worker: int) -> Path:
    """The server of `outer` is `inner`, whose server is the worker; /loop leads from `outer` to
    itself, /ring goes through `inner`.

    No idle connections are kept, as one would stay with one process.
    """
    file = folder / "lb.toml"
    backends = "".join(
        f"[backends.{name}]\nkeep_alive = 0\n"
        f'servers = [{{ name = "s", address = "127.0.0.1:{port}" }}]\n'
        for name, port in (("outer", outer), ("inner", inner), ("workers", worker))
    )
    file.write_text(
        "[process]\nworkers = 2\nmax_connections = 400\n"
        '[admin]\nbind = "127.0.0.1:0"\n[log]\naccess = "off"\n'
        f'[[frontends]]\nname = "outer"\nbind = "127.0.0.1:{outer}"\ndefault_backend = "inner"\n'
        'routes = [{ path = "/loop", backend = "outer" }]\n'
        f'[[frontends]]\nname = "inner"\nbind = "127.0.0.1:{inner}"\ndefault_backend = "workers"\n'
        f'routes = [{{ path = "/ring", backend = "outer" }}]\n{backends}'
    )
    return file


async def _statuses(client: aiohttp.ClientSession, url: str) -> set[int]:
    async def get() -> int:
        async with client.get(url) as response:
            return response.status

    return set(await asyncio.gather(*(get() for _ in range(_MANY))))


async def _requests(client: aiohttp.ClientSession, api: str) -> dict[str, int]:
    async with client.get(f"{api}/status") as response:
        return {one["name"]: one["requests"] for one in (await response.json())["frontends"]}


@pytest.mark.slow
async def test_a_frontend_may_be_a_server_of_another_and_loops_end(site: Site) -> None:
    """In any process: before, and after a reload and an upgrade."""
    with reserved_port() as outer, reserved_port() as inner:
        file = _write(site.folder, outer, inner, site.workers[0].port)
        url = f"http://127.0.0.1:{outer}"
        async with serving(file) as (running, api):
            # Requests by frontend until one is answered or found in a loop.
            costs = {"/": (200, 1, 1), "/loop": (508, 2, 0), "/ring": (508, 2, 1)}
            seen = {"outer": 0, "inner": 0}
            for path, (status, at_outer, at_inner) in costs.items():
                assert await _statuses(site.client, url + path) == {status}
                seen["outer"] += at_outer * _MANY
                seen["inner"] += at_inner * _MANY
                await becomes(lambda: _requests(site.client, api), seen)
            via = site.workers[0].via
            first, second = via.split(", ")
            assert first != second
            for number, done in ((signal.SIGHUP, "reloaded"), (signal.SIGUSR2, "upgraded")):
                running.signal(number)
                await running.says(done)
                for path, (status, *_) in costs.items():
                    assert await _statuses(site.client, url + path) == {status}
                assert site.workers[0].via == via
            assert "Traceback" not in running.said
