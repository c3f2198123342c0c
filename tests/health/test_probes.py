"""The kinds of probes: `probe = "tcp"`, and that a kind is one file and one entry."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import Backend, ConfigError, load_config
from hermes_lb.health.probes.http import HttpOptions
from hermes_lb.health.probes.registry import PROBES
from hermes_lb.health.probes.tcp import TcpOptions
from hermes_lb.testing import config_for
from tests.health.test_reaching import verdict
from tests.support.fake_server import FakeServer, answers
from tests.support.source_copy import copy_packages, run_in
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

TCP = {"probe": "tcp", "interval": "60s", "timeout": "10s", "fall": 1, "rise": 1}


async def test_a_server_that_accepts_is_up_by_tcp() -> None:
    async with FakeServer(answers(500)) as fake:
        server = await verdict(f"127.0.0.1:{fake.port}", health=TCP)
        await until(lambda: fake.open == 0)  # the check closes its connection
    assert (server.state, server.last_check.partition(" in ")[0]) == ("up", "connected")
    assert (fake.accepted, fake.requests) == (1, [])


async def test_a_server_that_refuses_connections_is_down_by_tcp() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server = await verdict(f"127.0.0.1:{closed.getsockname()[1]}", health=TCP)
    assert (server.state, server.last_check) == ("down", "connection refused")


async def test_the_tls_handshake_is_a_part_of_it() -> None:
    """This server speaks no TLS."""

    async def greets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greets, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        server = await verdict(f"127.0.0.1:{port}", health=TCP, tls={"verify": False})
    assert server.state == "down"


@pytest.mark.parametrize(
    ("health", "said"),
    [
        (
            {"probe": "tcp", "path": "/health"},
            'path: not an option of "tcp"; it belongs to probe = "http"',
        ),
        (
            {"probe": "tpc"},
            'probe: "tpc" is not allowed; allowed is "http", "tcp" or "grpc"',
        ),
        ({"probe": 3}, 'probe: 3 is not allowed; allowed is "http", "tcp" or "grpc"'),
        ({"pat": "/"}, 'pat: unknown key; did you mean "path"?'),
        ({"rise": 0}, "rise: 0 is too small; allowed is an integer from 1 to 1000"),
    ],
)
def test_keys_depend_on_the_kind_of_probe(health: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(config_for("127.0.0.1:9", health=health))
    assert str(caught.value) == f"backends.servers.health.{said}"


def test_a_table_without_a_kind_is_an_http_probe() -> None:
    def options(health: object) -> object:
        servers = [{"name": "a", "address": "127.0.0.1:9"}]
        return Backend.model_validate({"servers": servers, "health": health}).health

    assert options({}) == HttpOptions()
    assert options({"probe": "tcp", "rise": 5}) == TcpOptions(rise=5)
    assert options(TcpOptions(rise=5)) == TcpOptions(rise=5)
    assert options(None) is None


def test_each_kind_is_registered_by_its_own_name() -> None:
    assert {name: one.options.model_fields["probe"].default for name, one in PROBES.items()} == {
        name: name for name in PROBES
    }


BANNER = """
from typing import Literal
from hermes_lb.health.probes.base import Finding, Probe, ProbeOptions


class BannerOptions(ProbeOptions):
    probe: Literal["banner"] = "banner"
    greeting: str = "220"


class BannerProbe(Probe):
    options = BannerOptions

    def __init__(self, options):
        self._greeting = options.greeting

    async def check(self, dialer):
        return Finding(self._greeting == "220", f"greets with {self._greeting}")
"""

USE = """
import asyncio, json, random
from hermes_lb.backends import Pool
from hermes_lb.config import ConfigError, load_config
from hermes_lb.health.checker import HealthChecker
from hermes_lb.testing import config_for, eventually

def backend(**health):
    return load_config(config_for("127.0.0.1:9", health=health)).backends["servers"]

async def checked(**health):
    configured = backend(probe="banner", interval="1ms", fall=1, rise=1, **health)
    pool = Pool("servers", configured)
    checker = HealthChecker({"servers": pool}, {"servers": configured}, rng=random.Random(0))
    await checker.start()
    await eventually(lambda: "greets" in pool.servers[0].last_check)
    await checker.stop()
    return pool.servers[0].state, pool.servers[0].last_check.partition(" in ")[0]

try:
    backend(probe="tcp", greeting="220")
except ConfigError as error:
    refused = str(error)
states = [asyncio.run(checked()), asyncio.run(checked(greeting="500"))]
print(json.dumps({"states": states, "refused": refused}))
"""


@pytest.mark.slow
def test_a_new_kind_is_a_file_and_an_entry_of_the_registry(tmp_path: Path) -> None:
    copy_packages(tmp_path, "hermes_lb")
    probes = tmp_path / "hermes_lb/health/probes"
    (probes / "banner.py").write_text(BANNER)
    registry = probes / "registry.py"
    text = registry.read_text().replace("GrpcProbe}", 'GrpcProbe, "banner": BannerProbe}')
    line = "from hermes_lb.health.probes.banner import BannerProbe\n"
    registry.write_text(text.replace("\nif TYPE", f"{line}\nif TYPE"))

    assert json.loads(run_in(tmp_path, USE)) == {
        "states": [["up", "greets with 220"], ["down", "greets with 500"]],
        "refused": 'backends.servers.health.greeting: not an option of "tcp"; '
        'it belongs to probe = "banner"',
    }
