"""What runs where, from the configuration; and whether the ports are free."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hermes_lb.demo.client import SESSIONS
from hermes_lb.errors import reason
from hermes_lb.options.units import Address

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hermes_lb.config import Backend, Config, Frontend

# Seconds that health checks on a busy machine may be late.
_SLACK = 5.0


class Unsuitable(Exception):
    """The demo can't run with this configuration; the text says what to change."""


@dataclass(frozen=True, slots=True)
class PlannedWorker:
    """A server of the configuration, started as a worker of the same name."""

    name: str
    address: Address
    backend: Backend

    @property
    def url(self) -> str:
        return f"http://{self.address}"


@dataclass(frozen=True, slots=True)
class Listener:
    """An address that must be free, its purpose, and the setting to change if it isn't."""

    address: Address
    purpose: str
    setting: str


@dataclass(frozen=True, slots=True)
class Plan:
    source: Path
    url: str
    admin_url: str
    workers: Sequence[PlannedWorker]
    listeners: Sequence[Listener]
    #: The sessions' route resumes a stream when its worker dies.
    resumes: bool = False

    def worker(self, name: str | None) -> PlannedWorker | None:
        return next((worker for worker in self.workers if worker.name == name), None)


def make_plan(config: Config, source: Path) -> Plan:
    """Raises Unsuitable."""
    frontend = config.frontends[0]
    servers = {
        server.address: PlannedWorker(server.name, server.address, backend)
        for backend in config.backends.values()
        for server in backend.servers
        if not server.down and isinstance(server.address, Address)
    }
    workers = list(servers.values())
    if not config.admin.enabled:
        raise Unsuitable(
            f"the demo asks the admin listener: set [admin] enabled = true in {source}"
        )
    if len({worker.name for worker in workers}) < max(2, len(workers)):
        raise Unsuitable(
            "the demo kills a worker and goes on with another: "
            f"{source} needs two servers or more, each with a name of its own"
        )
    listeners = _listeners(config)
    for listener in listeners:
        if listener.address.port == 0:
            raise Unsuitable(
                f"the demo must know the port of {listener.purpose}: write one instead of 0 in "
                f"{source} ({listener.setting})"
            )
    return Plan(
        source=source,
        url=_url(frontend, source),
        admin_url=f"http://{config.admin.bind.as_destination()}",
        workers=workers,
        listeners=[
            *listeners,
            *(
                Listener(w.address, f"server {w.name}", "its address in [[backends.*.servers]]")
                for w in workers
            ),
        ],
        resumes=_resumes(frontend),
    )


def _resumes(frontend: Frontend) -> bool:
    for route in frontend.routes:
        # The client's Host is an address, which a route with a host does not match.
        if not (route.path or route.host) and SESSIONS.startswith(route.path_prefix or ""):
            return route.resume
    return False


def _url(frontend: Frontend, source: Path) -> str:
    for bind in frontend.bind:
        if isinstance(bind.address, Address) and not (bind.tls or bind.proxy_protocol):
            return f"http://{bind.address.as_destination()}"
    raise Unsuitable(
        f"the demo's client speaks plain HTTP over TCP: give frontend {frontend.name} an address "
        f'such as "127.0.0.1:8080" in {source} ([[frontends]] bind)'
    )


def _listeners(config: Config) -> list[Listener]:
    frontends = [
        Listener(bind.address, f"frontend {frontend.name}", "[[frontends]] bind")
        for frontend in config.frontends
        for bind in frontend.bind
        if isinstance(bind.address, Address)
    ]
    return [*frontends, Listener(config.admin.bind, "admin", "[admin] bind")]


def obstacles(plan: Plan) -> list[str]:
    """A line for each address that can't be bound, with advice."""
    found = []
    for listener in plan.listeners:
        error = _try_to_bind(listener.address)
        if error is not None:
            found.append(_explain(listener, error, plan.source))
    return found


def _try_to_bind(address: Address) -> OSError | None:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As asyncio binds: a connection in TIME_WAIT does not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        return error
    return None


def _explain(listener: Listener, error: OSError, source: Path) -> str:
    host, port = listener.address
    place = f"({listener.purpose}, {source})"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} {place} is in use: stop what uses it, or change {listener.setting}"
    if error.errno == errno.EACCES:
        return f"port {port} {place} is not allowed: take one above 1023, in {listener.setting}"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return (
            f"{host} {place} is not an address of this machine, where the demo runs everything: "
            f"change {listener.setting} to one, such as 127.0.0.1:{port}"
        )
    return f"port {port} {place} cannot be had ({reason(error)}): see {listener.setting}"


def seconds_until_down(backend: Backend) -> float | None:
    """How long health checks may take to notice a death; None without checks."""
    health = backend.health
    if health is None:
        return None
    intervals = max(health.interval, health.fast_interval or 0.0)
    return (health.fall + 1) * (intervals + (health.timeout or 0.0)) + _SLACK


def seconds_until_up(backend: Backend) -> float:
    """How long a server that answers again may be unused."""
    health = backend.health
    if health is None:
        return max((server.fail_timeout for server in backend.servers), default=0.0) + _SLACK
    return (health.rise + 1) * max(health.interval, health.down_interval or 0.0) + _SLACK
