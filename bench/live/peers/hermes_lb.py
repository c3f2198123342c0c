"""This balancer: one worker process, every feature on that a deployment has on.

Its relatives are there for single cases, and differ in one thing each.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.live.peers.base import HEALTH_PATH, Peer, Setup, first_line
from bench.live.processes import ROOT, python_module

if TYPE_CHECKING:
    from collections.abc import Sequence


class HermesLb(Peer):
    name = "hermes_lb"
    install = "pip install -e ."
    python = sys.executable
    has_http2 = has_http2_servers = True
    workers: ClassVar[int] = 1
    #: More lines of the frontend.
    routes: ClassVar[str] = ""
    #: More sections; `{store}` is its URL.
    sections: ClassVar[str] = ""

    def is_installed(self) -> bool:
        return importlib.util.find_spec("hermes_lb.__main__") is not None

    def version(self) -> str:
        try:
            return importlib.metadata.version("hermes-lb")
        except importlib.metadata.PackageNotFoundError:
            return "source tree"

    def command(self, setup: Setup) -> list[str]:
        return [str(self.python), "-m", "hermes_lb", "--config", str(self.configure(setup))]

    def servers(self, setup: Setup) -> Sequence[int]:
        """The port of each server."""
        return setup.upstreams

    def configure(self, setup: Setup) -> Path:
        """Write the configuration, and return where."""
        bind, tls = f'"127.0.0.1:{setup.port}"', ""
        if setup.certificate:
            bind = f"{{ address = {bind}, tls = true }}"
            files = f'certificate = "{setup.certificate.chain}", key = "{setup.certificate.key}"'
            tls = f"tls = {{ {files}, session_tickets = false }}"
        servers = "\n".join(
            f'[[backends.upstreams.servers]]\nname = "s{number}"\naddress = "127.0.0.1:{port}"\n'
            for number, port in enumerate(self.servers(setup), 1)
        )
        protocol = 'protocol = "h2"' if setup.http2_servers else ""
        config = f"""
[process]
workers = {self.workers}
drain_timeout = "1s"

[admin]
bind = "127.0.0.1:{setup.admin_port}"

[log]
access = "{setup.access_log}"
format = "httplog"

{self.sections.format(store=setup.store)}
[[frontends]]
name = "bench"
bind = [{bind}]
http2 = {str(setup.http2).lower()}
default_backend = "upstreams"
{tls}
{self.routes}
[backends.upstreams]
balance = "leastconn"
affinity = {{ cookie = "SERVERID", mode = "insert", indirect = true, nocache = true }}
keep_alive = 64
{protocol}

[backends.upstreams.health]
path = "{HEALTH_PATH}"
interval = "5s"

{servers}"""
        return setup.write("lb.toml", config)


class HermesLbResume(HermesLb):
    """The same, on a route whose streams go on from another server when theirs is lost."""

    name = "hermes_lb-resume"
    cases = frozenset({"tokens-300", "tokens-3000"})
    routes = """
[[frontends.routes]]
path_prefix = "/"
backend = "upstreams"
resume = true
"""


class HermesLbTurns(HermesLb):
    """The same, on a route whose requests are turns, in a store on the load's core."""

    name = "hermes_lb-turns"
    install = "pip install -e '.[demo]'"
    cases = frozenset({"turns-300", "turns-3000", "first-token"})
    # Streams end with their clients: what is measured is one fleet, and not the one before.
    routes = """
[[frontends.routes]]
path_prefix = "/"
backend = "upstreams"
turns = { linger = "100ms" }
"""
    sections = """
[store]
url = "{store}"
"""


class HermesLbCompiled(HermesLb):
    """The same source compiled by mypyc, installed in an environment of its own."""

    name = "hermes_lb-compiled"
    install = "make compiled (a C compiler is needed)"
    python = str(ROOT / ".venv-compiled" / "bin" / "python")
    # Without it the working directory's package, which is not compiled, would be the first found.
    environment: ClassVar[dict[str, str]] = {"PYTHONSAFEPATH": "1"}

    def is_installed(self) -> bool:
        return self._compiled_modules() > 0

    def version(self) -> str:
        version = first_line(str(self.python), "-m", "hermes_lb", "--version")
        return f"{version}, {self._compiled_modules()} compiled modules"

    def _compiled_modules(self) -> int:
        environment = Path(str(self.python)).parents[1]
        return sum(1 for _ in environment.glob("lib/python3*/site-packages/hermes_lb/**/*.so"))


class HermesLbCompiledResume(HermesLbCompiled):
    name = "hermes_lb-compiled-resume"
    cases = HermesLbResume.cases
    routes = HermesLbResume.routes


class HermesLbCompiledTurns(HermesLbCompiled):
    name = "hermes_lb-compiled-turns"
    cases = HermesLbTurns.cases
    routes = HermesLbTurns.routes
    sections = HermesLbTurns.sections


class HermesLbTwo(HermesLb):
    """Two worker processes."""

    name = "hermes_lb-2"
    cases = frozenset({"processes", "spread"})
    workers = 2


class HermesLbEmbedded(HermesLb):
    """No processes but one: the library, as a program that embeds it has it."""

    name = "hermes_lb-embedded"
    cases = frozenset({"processes"})

    def command(self, setup: Setup) -> list[str]:
        return python_module("bench.live.peers.embedded", str(self.configure(setup)))
