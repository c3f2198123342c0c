"""This balancer: one data-plane process, every feature on that a deployment has on."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import ClassVar

from bench.live.peers.base import HEALTH_PATH, Peer, Setup
from bench.live.processes import python_module


class HermesLb(Peer):
    name = "hermes_lb"
    install = "pip install -e ."
    #: More lines of the frontend.
    routes: ClassVar[str] = ""

    def is_installed(self) -> bool:
        return importlib.util.find_spec("hermes_lb.__main__") is not None

    def version(self) -> str:
        try:
            return importlib.metadata.version("hermes-lb")
        except importlib.metadata.PackageNotFoundError:
            return "source tree"

    def command(self, setup: Setup) -> list[str]:
        bind = f'"127.0.0.1:{setup.port}"'
        if setup.certificate:
            files = f'certificate = "{setup.certificate.chain}", key = "{setup.certificate.key}"'
            bind = f"{{ address = {bind}, tls = {{ {files} }} }}"
        servers = "\n".join(
            f'[[backends.upstreams.servers]]\nname = "s{number}"\naddress = "127.0.0.1:{port}"\n'
            for number, port in enumerate(setup.upstreams, 1)
        )
        config = f"""
[process]
workers = 1
drain_timeout = "1s"

[admin]
bind = "127.0.0.1:{setup.admin_port}"

[log]
access = "{setup.access_log}"
format = "httplog"

[[frontends]]
name = "bench"
bind = [{bind}]
default_backend = "upstreams"
{self.routes}
[backends.upstreams]
balance = "leastconn"
affinity = {{ cookie = "SERVERID", mode = "insert", indirect = true, nocache = true }}
keep_alive = 64

[backends.upstreams.health]
path = "{HEALTH_PATH}"
interval = "5s"

{servers}"""
        return python_module("hermes_lb", "--config", str(setup.write("lb.toml", config)))


class HermesLbResume(HermesLb):
    """The same, on a route whose streams go on from another server when theirs is lost."""

    name = "hermes_lb-resume"
    is_for_streams_only = True
    routes = """
[[frontends.routes]]
path_prefix = "/"
backend = "upstreams"
resume = true
"""
