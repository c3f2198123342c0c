"""A fake operator, and a client of its admin listener."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import aiohttp

from hermes_lb.backends import FrontendCounters, Pool
from hermes_lb.config import Admin, Backend, load_config
from hermes_lb.config.dump import settings
from hermes_lb.config.runtime import RuntimeServers, checked
from hermes_lb.control.admin import AdminServer
from hermes_lb.control.operator import KeptPin, NotPossible, carried_over, find_server
from hermes_lb.observe.observed import Observed, ProcessView
from hermes_lb.observe.recent import Recent, abort
from tests.observe.records import a_head, a_record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from hermes_lb.backends import Server
    from hermes_lb.config import Config
    from hermes_lb.control.operator import Operator
    from hermes_lb.control.shapes import Resolved, Session, Setting
    from hermes_lb.observe.certificates import CertificateView

TOKEN = "open-sesame-0123456789"


_CONFIG: dict[str, Any] = {
    "frontends": [
        {
            "name": "public",
            "bind": "127.0.0.1:0",
            "default_backend": "agents",
            "routes": [
                {
                    "path_prefix": "/v1/",
                    "match": {"method": ["POST"]},
                    "backend": "agents",
                    "resume": True,
                    "turns": {},
                }
            ],
        }
    ],
    "backends": {
        "agents": {
            "servers": [
                {"name": "agent1", "address": "127.0.0.1:8001", "weight": 3, "max_connections": 9},
                {"name": "agent2", "address": "[::1]:8002", "backup": True, "max_fails": 1},
            ]
        }
    },
}


class FakeOperator:
    """Real pools without traffic. `reload_answer` and `upgrade_answer` are given or raised."""

    def __init__(self, *pools: Pool) -> None:
        self.pools = {pool.name: pool for pool in pools or (agents(),)}
        self.frontend = FrontendCounters()
        self.processes = [ProcessView(0, 4711, started_at=1000.0)]
        self.certificates: list[CertificateView] = []
        self.observed = Observed(
            self.pools, {"public": self.frontend}, self.processes,
            certificates=lambda: self.certificates,
        )  # fmt: skip
        self.config: Config = load_config(_CONFIG)
        self.runtime = RuntimeServers()
        self.forced: dict[str, bool | None] = {}  # health by server
        self.kept_pins: list[KeptPin] = []
        self.names: list[Resolved] = []
        self.recent = Recent()
        self.is_draining = False
        self.missing_processes: Literal["none", "some", "all"] = "none"
        self.time: float | None = None  # of the clock, if it is stopped
        self.running: list[Session] = []
        self.asked = 0  # calls of `sessions`
        self.reload_answer: list[str] | Exception = []
        self.upgrades = 0
        self.upgrade_error: Exception | None = None
        self.untold: dict[str, int] = {}  # in flight by server, not published yet
        self.settles = True
        self.store_url = ""
        self.meanwhile: Callable[[], object] = lambda: None  # called by `settle`

    def server(self, name: str) -> Server:
        return next(s for pool in self.pools.values() for s in pool.servers if s.name == name)

    def turn_store_url(self) -> str:
        if not self.store_url:
            raise NotPossible("no route has turns")
        return self.store_url

    def now(self) -> float:
        return time.monotonic() if self.time is None else self.time

    def set_state(self, backend: str, server: str, state: Any) -> None:
        find_server(self.pools, backend, server).set_admin(state)

    def set_weight(self, backend: str, server: str, weight: int | None) -> None:
        find_server(self.pools, backend, server).set_weight(weight)

    def set_health(self, backend: str, server: str, up: bool | None) -> None:
        found = find_server(self.pools, backend, server)
        self.forced[server] = up
        found.set_up(up is not False, "set by an operator")

    async def change_servers(self, change: Callable[[RuntimeServers], RuntimeServers]) -> None:
        runtime = change(self.runtime)
        carry = carried_over(self.pools)
        for name, backend in checked(self.config, runtime, self.config.backends).items():
            if name in self.pools:
                self.pools[name].reconfigure(backend)
        carry()
        self.runtime = runtime

    async def everywhere(self, command: str, **arguments: Any) -> list[Any]:
        assert command == "kill", "no other one is called by the API"
        before, session = len(self.running), arguments["session"]
        self.running = [one for one in self.running if one["id"] != session]
        return [before - len(self.running)]

    def pins(self) -> list[KeptPin]:
        return self.kept_pins

    async def clear_pins(self, backend: str | None, server: str | None, pin: str | None) -> int:
        before = len(self.kept_pins)
        self.kept_pins = [
            one
            for one in self.kept_pins
            if (backend not in (None, one.backend))
            or (server not in (None, one.server))
            or (pin not in (None, one.id))
        ]
        return before - len(self.kept_pins)

    def resolvers(self) -> list[Resolved]:
        return self.names

    def settings(self) -> list[Setting]:
        rows: list[Any] = settings(self.config, self.runtime, lambda backend: {})
        return rows

    async def settle(self) -> bool:
        for name, count in self.untold.items():
            self.server(name).in_flight = count
        self.meanwhile()
        return self.settles

    async def end_sessions(self, backend: str, server: str) -> int:
        doomed = [s for s in self.running if (s["backend"], s["server"]) == (backend, server)]
        self.running = [session for session in self.running if session not in doomed]
        if doomed:
            return len(doomed)
        found = find_server(self.pools, backend, server)
        ended, found.in_flight = found.in_flight, 0
        return ended

    async def reload(self) -> list[str]:
        if isinstance(self.reload_answer, Exception):
            raise self.reload_answer
        return self.reload_answer

    async def upgrade(self) -> None:
        if self.upgrade_error is not None:
            raise self.upgrade_error
        self.upgrades += 1

    async def sessions(self) -> list[Session]:
        self.asked += 1
        return self.running

    def abort(
        self, termination: str = "SD--", request: str = "GET /chat HTTP/1.1", status: int = 200
    ) -> None:
        """A request has just ended abnormally."""
        method, _, rest = request.partition(" ")
        head = a_head(method.encode(), rest.removesuffix(" HTTP/1.1").encode())
        ended = a_record(
            client="192.0.2.7:40312", frontend="public", backend="agents", server="agent1",
            termination=termination, status=status, total=1.5, request=head,
        )  # fmt: skip
        self.recent.add(abort(ended, time.time()))


def _is_an_operator(fake: FakeOperator) -> Operator:
    return fake  # so that mypy checks the fake against the protocol


def agents(name: str = "agents") -> Pool:
    return Pool(name, Backend.model_validate(_CONFIG["backends"]["agents"]))


def session(**given: Any) -> Session:
    """One row of `sessions`."""
    row: Any = {
        "id": "0-7f00-1", "process": 0, "client": "192.0.2.7:40312", "frontend": "public",
        "backend": "agents", "server": "agent1", "kind": "stream", "phase": "D", "seconds": 12.5,
        "method": "POST", "target": "/chat", "bytes_in": 100, "bytes_out": 2000, "pinned_by": None,
        "version": "1.1",
        "stream": None, **given,
    }  # fmt: skip
    return row


class Client:
    """A client of one admin listener."""

    def __init__(
        self, admin: AdminServer, operator: FakeOperator, http: aiohttp.ClientSession
    ) -> None:
        self.admin = admin
        self.operator = operator
        self.http = http
        self.url = admin.url

    async def ask(
        self, path: str, method: str = "GET", **options: Any
    ) -> tuple[aiohttp.ClientResponse, str]:
        async with self.http.request(method, self.url + path, **options) as response:
            return response, await response.text()

    async def get(self, path: str, **options: Any) -> Any:
        """The JSON of a successful response."""
        response, text = await self.ask(path, **options)
        assert response.status == 200, text
        return await response.json()

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Send JSON -> status and JSON."""
        response, _ = await self.ask(path, method, json={} if body is None else body,
                                     headers=headers)  # fmt: skip
        return response.status, await response.json()


@asynccontextmanager
async def admin_listener(
    operator: FakeOperator | None = None, **configured: Any
) -> AsyncIterator[Client]:
    """A running listener, on a free loopback port."""
    operator = operator or FakeOperator()
    admin = AdminServer(Admin.model_validate({"bind": "127.0.0.1:0", **configured}), operator)
    await admin.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield Client(admin, operator, http)
    finally:
        await admin.stop()
