"""The cost of discovery: N endpoints with C changes a second, beside the tests' fake API server.

    python -m bench.scale.discovery --endpoints 5000 --changes 100 --seconds 30

Prints the CPU share and the resident memory of the supervisor and of each worker, without and with
changes, the delay of their loops, and the latency of requests meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from tests.support import balancer_process
from tests.support.balancer_process import Running, run, until_it_listens
from tests.support.kubernetes.objects import endpoint, endpoint_slice
from tests.support.kubernetes.server import FakeApiServer

_OF_A_SLICE = 100
_TICKS = 100  # a second, of /proc/PID/stat

_CONFIG = """
[process]
workers = 2
[admin]
bind = "127.0.0.1:0"
[log]
access = "off"
[[frontends]]
name = "web"
bind = "127.0.0.1:0"
default_backend = "found"
[backends.found]
balance = "{balance}"
[backends.found.discovery]
max_servers = 10000
flap_hold = "0s"
kubernetes = {{ service = "agents", namespace = "default", server = "{api}" }}
"""


def used(pid: int) -> tuple[float, float]:
    """CPU seconds so far, and resident MB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6
    return (int(fields[11]) + int(fields[12])) / _TICKS, resident


class Endpoints:
    """In slices, as the controller keeps them."""

    def __init__(self, api: FakeApiServer, count: int, host: str, port: int) -> None:
        self._api, self._port, self._rng = api, port, random.Random(1)
        self._all = [endpoint(host, f"pod-{number}") for number in range(count)]
        for place in range(0, count, _OF_A_SLICE):
            self._put(place)

    def _put(self, place: int) -> None:
        ports = [{"name": "http", "port": self._port}]
        found = self._all[place : place + _OF_A_SLICE]
        self._api.store.put(
            "endpointslices", endpoint_slice(found, name=f"s-{place:06}", ports=ports)
        )

    def change(self) -> None:
        """One endpoint: ready, or not."""
        place = self._rng.randrange(len(self._all))
        conditions = self._all[place]["conditions"]
        conditions["ready"] = not conditions["ready"]
        self._put(place // _OF_A_SLICE * _OF_A_SLICE)


async def serve() -> tuple[asyncio.Server, int]:
    """An HTTP server of the least cost."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def requests(url: str, took: list[float], ends: float) -> None:
    """100 a second."""
    async with aiohttp.ClientSession() as client:
        while time.monotonic() < ends:
            began = time.monotonic()
            async with client.get(url) as response:
                await response.read()
                assert response.status == 200, response.status
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.01)


async def measure(
    running: Running, seconds: float, changes: float, endpoints: Endpoints
) -> list[float]:
    """Prints a line for each process -> latencies."""
    pids = [running.process.pid, *running.workers]
    before = {pid: used(pid)[0] for pid in pids}
    began = time.monotonic()
    took: list[float] = []
    asking = asyncio.create_task(requests(running.url, took, began + seconds))  # noqa: TID251
    made = 0
    while (passed := time.monotonic() - began) < seconds:
        while made < passed * changes:
            endpoints.change()
            made += 1
            await asyncio.sleep(0)
        await asyncio.sleep(0.005)
    await asking
    for pid in pids:
        cpu, resident = used(pid)
        name = "supervisor" if pid == running.process.pid else "worker"
        share = (cpu - before[pid]) / seconds
        print(f"  {name:10} {share:6.1%} of a core, {resident:6.1f} MB resident")
    took.sort()
    p50, p99 = took[len(took) // 2] * 1000, took[int(len(took) * 0.99)] * 1000
    print(f"  {made / seconds:.0f} changes/s; requests: p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
          f"worst {took[-1] * 1000:.1f} ms")  # fmt: skip
    return took


async def lags(admin: str) -> None:
    async with aiohttp.ClientSession() as client, client.get(f"{admin}/metrics") as response:
        text = await response.text()
    for line in text.splitlines():
        if line.startswith("hermes_lb_loop_lag_worst_seconds"):
            print(f"  {line}")


async def main(count: int, changes: float, seconds: float, balance: str) -> None:
    balancer_process.START_TAKES = 120.0
    server, port = await serve()
    async with FakeApiServer() as api:
        endpoints = Endpoints(api, count, "127.0.0.1", port)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "lb.toml"
            file.write_text(_CONFIG.format(api=api.url, balance=balance))
            began = time.monotonic()
            async with run(file) as running:
                await until_it_listens(running)
                admin = (await running.says(r"admin on (http://\S+)"))[1]
                print(f"{count} endpoints, {balance}; started in {time.monotonic() - began:.1f} s")
                await measure(running, seconds / 3, 0.0, endpoints)
                await lags(admin)
                await measure(running, seconds, changes, endpoints)
                await lags(admin)
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--endpoints", type=int, default=5000)
    parser.add_argument("--changes", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--balance", default="round_robin")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.endpoints, given.changes, given.seconds, given.balance)))
