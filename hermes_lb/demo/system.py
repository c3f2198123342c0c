"""The running system: Valkey, PostgreSQL, the workers, and the balancer in front of them."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp

from hermes_lb.demo.failures import DemoFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from hermes_lb.demo.plan import Plan, PlannedWorker
    from hermes_lb.demo.processes import Child, Children

STORE, DATABASE, BALANCER = "valkey", "postgres", "balancer"

# Seconds: slow enough to see, fast enough not to bore.
TOKEN_INTERVAL_MS = 40

# Seconds: imports take a second, much more on a busy machine.
_START_TIMEOUT = 20.0
_POLL_EVERY = 0.05
_PROBE_TIMEOUT = aiohttp.ClientTimeout(total=2.0)

_VERDICT = "hermes_lb.health: "
_LISTENING = re.compile(r"listening on (\S+) \((.+)\)")
_URL = re.compile(r"listening on (http://\S+)")

_STORY = """[process]
workers = 1

[admin]
enabled = false

[log]
access = "off"

[store]
url = "{store}"
secret_file = "{secret}"

[[frontends]]
name = "public"
bind = "127.0.0.1:0"
default_backend = "story"

[[frontends.routes]]
path_prefix = "/story"
backend = "story"

[frontends.routes.turns]

[backends.story]
servers = [{{ name = "storyteller", address = "{backend}" }}]
"""


class Place(NamedTuple):
    """The address of an embedded server, and what it is."""

    url: str
    version: str


class StoryPlaces(NamedTuple):
    """URLs of a backend that knows nothing of turns, and of two balancers before it."""

    backend: str
    balancers: tuple[str, str]


class ServerState(NamedTuple):
    """A server's state in the balancer."""

    name: str
    address: str
    state: str  # as in the API: up, degraded, drain, failing, ejected, down, maint
    may_serve: bool
    resumes: int  # streams taken over from lost servers


class System:
    """Runs from `start` until its `children` end. Raises DemoFailed wherever it waits."""

    def __init__(self, plan: Plan, children: Children, folder: Path) -> None:
        self.plan = plan
        self.access_log = folder / "access.log"
        self.store = self.database = Place("", "")
        self.processes: dict[str, Child] = {}
        self._children = children
        self._folder = folder

    async def start_store(self) -> None:
        self.store = await self._start_embedded(STORE, "redis", "--port", "0")

    async def start_database(self) -> None:
        self.database = await self._start_embedded(DATABASE, "postgres")

    async def start_worker(self, worker: PlannedWorker) -> Child:
        """Start it; `wait_for_worker` waits until it is ready."""
        return await self._start(
            worker.name,
            *("-m", "agent_worker"),
            *("--host", worker.address.host, "--port", str(worker.address.port)),
            *("--redis-url", self.store.url, "--database-url", self.database.url),
            *("--name", worker.name),
            *("--token-interval", f"{TOKEN_INTERVAL_MS}ms"),
        )

    async def wait_for_worker(self, worker: PlannedWorker) -> None:
        async def is_ready() -> bool:
            answer = await _get(f"{worker.url}/ready")
            return isinstance(answer, dict) and answer.get("worker") == worker.name

        await self._until(is_ready, self.processes[worker.name], f"{worker.name} is ready")

    async def start_balancer(self) -> None:
        """Start it, and wait until it sees every worker up."""
        balancer = await self._start(
            BALANCER,
            *("-m", "hermes_lb", "--config", str(self.plan.source)),
            output=self.access_log,
        )

        async def is_well() -> bool:
            return await _get(f"{self.plan.admin_url}/healthz") is not None and all(
                [await self._sees(worker, up=True) for worker in self.plan.workers]
            )

        await self._until(is_well, balancer, "the balancer runs and sees every worker up")

    @asynccontextmanager
    async def story(self) -> AsyncIterator[StoryPlaces]:
        """A backend, and two balancers over our store with a route of turns, for a while."""
        names = ("storyteller", "balancer-1", "balancer-2")
        try:
            yield await self._start_story(*names)
        finally:
            children = [self.processes.pop(name) for name in names if name in self.processes]
            await asyncio.gather(*(child.end() for child in children))

    async def _start_story(self, teller: str, *balancers: str) -> StoryPlaces:
        child = await self._start(teller, "-m", "hermes_lb.demo.storyteller")
        backend = await self._url_of(child)
        config, secret = self._folder / "story.toml", self._folder / "secret"
        secret.write_text(secrets.token_hex(32))
        secret.chmod(0o600)
        address = backend.removeprefix("http://")
        config.write_text(_STORY.format(store=self.store.url, secret=secret, backend=address))
        one, two = [
            await self._start(name, "-m", "hermes_lb", "--config", str(config))
            for name in balancers
        ]
        return StoryPlaces(backend, (await self._url_of(one), await self._url_of(two)))

    async def wait_until_seen(self, worker: PlannedWorker, *, up: bool, timeout: float) -> None:
        """Wait until the balancer sees the worker up (and in use), or down."""

        async def is_seen() -> bool:
            return await self._sees(worker, up=up)

        what = f"the balancer sees {worker.name} {'up' if up else 'down'}"
        await self._until(is_seen, self.processes[BALANCER], what, timeout)

    async def server_states(self) -> list[ServerState]:
        """States of all servers; empty if the balancer does not answer."""
        servers = await _get(f"{self.plan.admin_url}/api/v1/servers")
        return [
            ServerState(
                s["name"], s["address"], s["state"], s["available"], s["counters"]["resumes"]
            )
            for s in servers or []
        ]

    def logged(self) -> list[str]:
        """Lines of the access log, if it goes to stdout."""
        return _lines(self.access_log)

    def verdicts(self) -> list[str]:
        """Lines of the balancer's log about its servers: down, up."""
        return [line for line in _lines(self.processes[BALANCER].log) if _VERDICT in line]

    def ended(self) -> list[Child]:
        """Processes that have ended unexpectedly."""
        return [child for child in self.processes.values() if not child.is_running]

    async def _start_embedded(self, name: str, *command: str) -> Place:
        """Start a server that prints its address, and wait for that."""
        child = await self._start(name, "-m", "agent_worker", *command)
        places: list[Place] = []

        async def says_where() -> bool:
            match = _LISTENING.search("\n".join(child.tail(5)))
            if match:
                places.append(Place(*match.groups()))
            return match is not None

        await self._until(says_where, child, f"{name} is ready")
        return places[0]

    async def _url_of(self, child: Child) -> str:
        """Where it says that it listens."""

        async def says_where() -> bool:
            return _URL.search("\n".join(_lines(child.log))) is not None

        await self._until(says_where, child, f"{child.name} listens")
        match = _URL.search("\n".join(_lines(child.log)))
        assert match is not None
        return match[1]

    async def _sees(self, worker: PlannedWorker, *, up: bool) -> bool:
        states = [s for s in await self.server_states() if s.address == str(worker.address)]
        return bool(states) and all(
            (s.state == "up" and s.may_serve) if up else s.state == "down" for s in states
        )

    async def _start(self, name: str, *arguments: str, output: Path | None = None) -> Child:
        child = await self._children.start(name, *arguments, output=output)
        self.processes[name] = child
        return child

    async def _until(
        self,
        holds: Callable[[], Awaitable[bool]],
        child: Child,
        what: str,
        timeout: float = _START_TIMEOUT,
    ) -> None:
        """Poll until it holds. Raises DemoFailed if the child ends, or after `timeout`."""
        deadline = time.monotonic() + timeout
        while not await holds():
            if not child.is_running:
                raise DemoFailed(f"{child.name} {child.how_it_ended}", culprit=child.name)
            if time.monotonic() > deadline:
                raise DemoFailed(f"not within {timeout:g} s: {what}", culprit=child.name)
            await asyncio.sleep(_POLL_EVERY)


def _lines(file: Path) -> list[str]:
    """The complete lines of a growing file; none without the file."""
    try:
        text = file.read_text(errors="replace")
    except FileNotFoundError:
        return []
    return text[: text.rfind("\n") + 1].splitlines()


async def _get(url: str) -> Any:
    """The JSON of a successful response, else None: the system may be starting or ending."""
    try:
        async with (
            aiohttp.ClientSession(timeout=_PROBE_TIMEOUT) as session,
            session.get(url) as response,
        ):
            return await response.json() if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
