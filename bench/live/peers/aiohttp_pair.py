"""An aiohttp server that hands to an aiohttp client: what one would write first."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

from bench.live.peers.base import Peer, Setup
from bench.live.processes import python_module


class AiohttpPair(Peer):
    name = "aiohttp"
    install = "pip install aiohttp uvloop"
    has_tls = False
    has_websocket = False
    python = sys.executable

    def is_installed(self) -> bool:
        return all(importlib.util.find_spec(name) for name in ("aiohttp", "uvloop"))

    def version(self) -> str:
        versions = [f"{name} {importlib.metadata.version(name)}" for name in ("aiohttp", "uvloop")]
        return ", ".join(versions)

    def command(self, setup: Setup) -> list[str]:
        arguments = [str(setup.access_log), str(setup.port), *map(str, setup.upstreams)]
        return python_module("bench.live.peers.aiohttp_proxy", *arguments)
