"""A new counter of requests is a row of the table and the line that counts it; no other file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.source_copy import copy_packages, run_in

# File, a line of it, and what the changed copy has before it.
CHANGES = {
    ("backends/counters.py", "    late: int = number()"):
        '    whole: int = number("hermes_lb_whole_total", "Responses that came whole")\n',
    ("proxy/record.py", "            histogram = counters.at_once\n"):
        "            counters.whole += 1\n",
}  # fmt: skip

# What a balancer with this code tells of a request, in each place.
PROGRAM = """
import asyncio, json
from urllib.parse import urlsplit
import hermes_lb
from hermes_lb.backends.counters import RequestCounters, layout
from hermes_lb.control.openapi import document
from hermes_lb.control.views import describe_servers
from hermes_lb.observe.metrics import render
from hermes_lb.testing import config_for
from hermes_lb.workers.shared_memory import SharedMemory

async def origin(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")

async def main():
    server = await asyncio.start_server(origin, "127.0.0.1", 0)
    address = "127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    async with hermes_lb.LoadBalancer(config_for(address)) as balancer:
        url = urlsplit(balancer.urls[0])
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n")
        await reader.readuntil(b"\\r\\n\\r\\nok")
        [counters] = [one.counters for one in balancer.pools["servers"].servers]
        while not sum(counters.responses):
            await asyncio.sleep(0)
        [described] = describe_servers(balancer.observed, 0.0)
        lines = b"".join(render(balancer.observed)).decode().splitlines()
        writer.close()
    server.close()
    region = SharedMemory.create(1, rows=1).regions[0]
    region.write_counters(0, counters.cells())
    read = RequestCounters()
    read.load(region.read_counters(0))
    print(json.dumps({
        "file": hermes_lb.__file__,
        "metric": [line for line in lines if line.startswith("hermes_lb_whole_total{")],
        "api": described["counters"]["whole"],
        "schema": document()["components"]["schemas"]["Counters"]["properties"]["whole"],
        "shared": read.whole,
        "layout": ["whole", 1] in layout(),
    }))

asyncio.run(main())
"""


@pytest.mark.pure_only("it changes the source of a module")
def test_a_new_counter_is_a_row_and_the_line_that_counts(tmp_path: Path) -> None:
    copy_packages(tmp_path, "hermes_lb")
    for (name, line), added in CHANGES.items():
        path = tmp_path / "hermes_lb" / name
        text = path.read_text()
        assert text.count(line) == 1, f"{name} has changed: this test has to follow"
        path.write_text(text.replace(line, added + line))
    seen = json.loads(run_in(tmp_path, PROGRAM))
    assert Path(seen.pop("file")).is_relative_to(tmp_path)
    assert seen == {
        "metric": [
            'hermes_lb_whole_total{backend="servers",server="address1"} 1',
            'hermes_lb_whole_total{backend="servers",server="<NOSRV>"} 0',
        ],
        "api": 1,
        "schema": {"type": "integer", "minimum": 0},
        "shared": 1,
        "layout": True,
    }
