"""State that all processes share: decisions about servers, learned sessions, totals.

The supervisor has pools of its own, from which nothing is leased: health checks and operators
decide on their servers, and each decision is sent to the workers, which apply it to theirs. What
one worker finds out is passed to the others. The workers' counters are added up into these pools,
so metrics and API read the same objects as in an embedded balancer.
"""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from hermes_lb.backends import FrontendCounters, Pool
from hermes_lb.control.operator import SETTLE_TAKES
from hermes_lb.health.checker import HealthChecker
from hermes_lb.observe.certificates import CertificateView, earliest
from hermes_lb.observe.recent import Recent
from hermes_lb.workers.layout import server_row
from hermes_lb.workers.pins import AllPins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hermes_lb.backends import Server
    from hermes_lb.backends.options import DiscoveredServer
    from hermes_lb.config import Config
    from hermes_lb.control.operator import KeptPin
    from hermes_lb.discovery.watch import Delta
    from hermes_lb.workers.channel import Message
    from hermes_lb.workers.child import Child
    from hermes_lb.workers.fleet import Fleet
    from hermes_lb.workers.gathered import Gathered
    from hermes_lb.workers.layout import Layout


class SharedState:
    """Empty until `reconfigure`; from then on each decision is sent to the workers of `fleet`.

    Messages of workers have to be passed to `hear`. `pools` (by backend) and `frontends` are the
    same dicts for life. `on_decision` is called for each change of a server's `snapshot`.
    """

    def __init__(self, fleet: Fleet, layout: Layout, gathered: Gathered) -> None:
        self.pools: dict[str, Pool] = {}
        self.frontends: dict[str, FrontendCounters] = {}
        self.recent = Recent()
        self.on_decision: Callable[[], None] = lambda: None
        self._pins = AllPins()
        self._fleet = fleet
        self._layout = layout
        self._gathered = gathered
        self._config: Config | None = None

    def __repr__(self) -> str:
        return f"<SharedState of {', '.join(self.pools) or 'no backend'}>"

    def reconfigure(
        self,
        config: Config,
        discovered: Callable[[str], Mapping[str, DiscoveredServer]] = lambda backend: {},
    ) -> None:
        """Create, update and remove pools and frontends; the workers are not notified.

        `discovered` has the servers of a backend's discovery. Raises ValueError if there are not
        enough rows for them.
        """
        for name, configured in config.backends.items():
            pool = self.pools.get(name)
            if pool is None:
                self.pools[name] = pool = Pool(name, configured)
                pool.on_change = partial(self._decided, name)
                pool.on_recovered = partial(self._recovered, name)
                pool.on_marked_down = partial(self._marked_down, name)
            else:
                pool.reconfigure(configured)
            pool.expects_servers = configured.discovery is not None
            found = discovered(name)
            here = [server.name for server in pool.servers if server.config.is_discovered]
            pool.discover(found.values(), [one for one in here if one not in found])
        for name in self.pools.keys() - config.backends.keys():
            del self.pools[name]
        self._pins.reconfigure(config)
        names = [frontend.name for frontend in config.frontends]
        for name in self.frontends.keys() - set(names):
            del self.frontends[name]
        for name in names:
            self.frontends.setdefault(name, FrontendCounters())
        freed = self._layout.assign(self.pools, names)
        self._gathered.forget(freed)
        self._config = config

    def discover(
        self, backend: str, delta: Delta, prepared: Callable[[list[Server], list[Server]], None]
    ) -> None:
        """Apply a change of a backend's discovery, here and in all workers.

        `prepared` is called with new or changed servers and removed ones before the workers know of
        them: a server that has to pass a check first is not used before. The costs are those of
        these servers. Raises ValueError if there are not enough rows; the workers are not notified.
        """
        pool = self.pools.get(backend)
        if pool is None:
            return
        changed, removed = pool.discover(delta.servers, delta.gone)
        new = [server_row(backend, server) for server in changed]
        try:
            freed = self._layout.change(new, [server_row(backend, server) for server in removed])
        except ValueError:
            without = [s.name for s in changed if server_row(backend, s) not in self._layout.rows]
            pool.discover([], without)
            raise
        self._gathered.forget(freed)
        prepared(changed, removed)
        self._fleet.broadcast(
            {
                "do": "servers",
                "discovered": {
                    "backend": backend,
                    "servers": [server.config.model_dump(mode="json") for server in changed],
                    "gone": [server.name for server in removed],
                    "rows": {key: self._layout.rows[key] for key in new},
                },
                "servers": [[backend, server.name, server.snapshot()] for server in changed],
            }
        )

    def discovered(self) -> dict[str, list[dict[str, Any]]]:
        """The servers of discoveries, by backend, fit for JSON."""
        return {
            name: [s.config.model_dump(mode="json") for s in pool.servers if s.config.is_discovered]
            for name, pool in self.pools.items()
            if pool.has_discovered
        }

    @property
    def config(self) -> Config:
        """The configuration of the last `reconfigure`."""
        assert self._config is not None, "not configured yet"
        return self._config

    def refresh(self) -> None:
        """Update all totals, and mark the processes that are draining."""
        self._gathered.fill(self.pools, self.frontends, self._layout.rows)
        retired = {child.number for child in self._fleet.children if child.is_retired}
        for process in self._gathered.processes:
            process.is_draining = process.number in retired

    def certificates(self) -> list[CertificateView]:
        """Those that new handshakes get, of all processes that accept."""
        children = [child for child in self._fleet.children if not child.is_retired]
        return earliest(view for child in children for view in child.certificates)

    def tick(self, now: float) -> None:
        """Advance what depends on time alone: ejections, slow starts."""
        for pool in self.pools.values():
            pool.tick(now)

    # Messages of workers.

    def hear(self, child: Child, message: Message) -> None:
        """Handle a message listed in `workers.worker`; others are ignored."""
        match message["do"]:
            case "failed":
                if (server := self._find(message)) is not None:
                    pool = self.pools[message["backend"]]
                    pool.failed(server, message["at"], message.get("because", ""))
                self._fleet.broadcast(message, but=child)
            case "recovered":
                if (server := self._find(message)) is not None:
                    self.pools[message["backend"]].recovered(server, None)
                self._fleet.broadcast(message, but=child)
            case "ejected":
                if (server := self._find(message)) is not None:
                    self._ejected(server, message)
            case "pin":
                if self._pins.note(message, asyncio.get_running_loop().time()):
                    self._fleet.broadcast(message, but=child)
            case "find":
                # After all messages that were sent before it have been read (`workers.pins`).
                asyncio.get_running_loop().call_soon(self._answer_pin, child, message)
            case "refused":
                self._gathered.refused(child.number, message["frontend"], message["refused"])
            case "certificates":
                child.certificates = [
                    CertificateView(frontend, file, tuple(names), not_after)
                    for frontend, file, names, not_after in message["certificates"]
                ]
            case "incarnation":
                child.incarnation = message["incarnation"]
            case "recent":
                for abort in message["aborts"]:
                    self.recent.add(abort)

    def _ejected(self, server: Server, message: Message) -> None:
        """Accept a worker's ejection, or refuse it and send all workers the state that holds.
        Workers see each other's ejections late, so there may be one already, or too many."""
        backend, until = message["backend"], message["until"]
        if server.ejected_until == until:
            return
        outliers = self.pools[backend].outliers
        now = asyncio.get_running_loop().time()
        if outliers is not None and outliers.allows(server, now) and not server.is_ejected:
            server.eject(until, message["because"])
        else:
            self._decided(backend, server)

    def _answer_pin(self, child: Child, message: Message) -> None:
        name = self._pins.find(message, asyncio.get_running_loop().time())
        child.channel.answer(message, {"server": name})

    def _find(self, message: Message) -> Server | None:
        pool = self.pools.get(message["backend"])
        return pool.find(message["server"]) if pool is not None else None

    # Messages to workers.

    def snapshots(self) -> list[list[Any]]:
        """`[backend, server, snapshot]` of each server."""
        return [
            [name, server.name, server.snapshot()]
            for name, pool in self.pools.items()
            for server in pool.servers
        ]

    def all_decisions(self, **also: bool) -> Message:
        """A `servers` message with all decisions and additional fields."""
        return {"do": "servers", "servers": self.snapshots(), **also}

    def _decided(self, backend: str, server: Server) -> None:
        self._fleet.broadcast(
            {"do": "servers", "servers": [[backend, server.name, server.snapshot()]]}
        )
        self.on_decision()

    def _recovered(self, backend: str, server: Server, began: float | None) -> None:
        """A health check passed: the server's failures are forgotten."""
        message = {"do": "recovered", "backend": backend, "server": server.name, "began": began}
        self._fleet.broadcast(message)

    def _marked_down(self, backend: str, server: Server, stands_still: bool) -> None:
        """Sent as a field of `servers`, which workers of older code ignore."""
        marked_down = [backend, server.name, stands_still]
        message = {"do": "servers", "servers": [], "marked_down": marked_down}
        self._fleet.broadcast(message)

    def pins(self) -> list[KeptPin]:
        """Learned sessions."""
        return self._pins.listed()

    def clear_pins(self, backend: str | None, server: str | None, pin: str | None) -> int:
        """Forget those that fit, here only -> their number."""
        return self._pins.clear(backend, server, pin)

    async def settle(self) -> bool:
        """Wait until all workers have applied the decisions so far and published their counters.

        False if one has not answered within SETTLE_TAKES. Workers of older code ignore `publish`,
        but answer.
        """
        question = {"do": "servers", "servers": [], "publish": True}
        return await self._fleet.all_answer(question, SETTLE_TAKES)

    def load_reported(self, server: Server, load: float) -> None:
        """Pass on the load that a server reported to a health check."""
        self._fleet.broadcast({"do": "load", "load": load, **self._named(server)})

    def checker(self, known: Iterable[Server]) -> HealthChecker:
        """A checker for the present servers; `known` ones have been checked before. The caller has
        to `reconfigure` and then start it.

        It is made without the backends' `tls`, as the files may be gone; `reconfigure` reads them.
        """
        backends = self.config.backends.items()
        return HealthChecker(
            self.pools,
            {name: backend.model_copy(update={"tls": None}) for name, backend in backends},
            rng=Random(),
            clock=asyncio.get_running_loop().time,
            moved=self.saw_progress,
            reported=self.load_reported,
            known=known,
        )

    async def saw_progress(self, server: Server, seconds: float) -> bool:
        """True if a response of the server moved within these last seconds, in any process."""
        question = {"do": "moved", "seconds": seconds, **self._named(server)}
        answers = await self._fleet.ask_all(question)
        return any(answer.get("moved") for answer in answers)

    def _named(self, server: Server) -> Message:
        backend = next((name for name, pool in self.pools.items() if server in pool.servers), "")
        return {"backend": backend, "server": server.name}

    # For the next generation.

    def state(self) -> dict[str, Any]:
        """JSON for `restore`, without totals, which `Gathered` has."""
        return {
            "servers": self.snapshots(),
            "pins": self._pins.state(),
            "recent": self.recent.since(),
        }

    def restore(self, state: Mapping[str, Any]) -> list[Server]:
        """Restore the previous generation's decisions -> the servers that it knew.

        The pools must have that generation's configuration: values set by another one for its
        servers would be overwritten.
        """
        self.recent.restore(state.get("recent", ()))  # missing from older code
        known: list[Server] = []
        for backend, name, snapshot in state["servers"]:
            server = self._find({"backend": backend, "server": name})
            if server is not None:
                server.restore(snapshot)
                known.append(server)
        self._pins.restore(state["pins"], asyncio.get_running_loop().time())
        return known
