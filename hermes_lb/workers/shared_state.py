"""What all processes of a balancer know alike: verdicts on servers, learnt sessions, the numbers.

The supervisor has pools of its own, which nobody leases from: health checks and operators decide on
their servers, and each decision is told to the workers, which apply it to theirs. What a worker has
found out is told to the others. What the workers count is added up into these pools, so that
whoever looks sees the same objects as in an embedded balancer.
"""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from hermes_lb.backends import FrontendCounters, Pool
from hermes_lb.control.operator import SETTLE_TAKES
from hermes_lb.health.checker import HealthChecker
from hermes_lb.observe.recent import Recent
from hermes_lb.workers.pins import AllPins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hermes_lb.backends import Server
    from hermes_lb.config import Config
    from hermes_lb.workers.channel import Message
    from hermes_lb.workers.child import Child
    from hermes_lb.workers.fleet import Fleet
    from hermes_lb.workers.gathered import Gathered
    from hermes_lb.workers.rows import Rows


class SharedState:
    """Empty until `reconfigure`. From then on the workers of `fleet` are told of each decision.

    What they say has to come to `hear`. `pools` (by backend) and `frontends` stay the same dicts
    for life. `on_decision` is called for each change of a server's `snapshot`.
    """

    def __init__(self, fleet: Fleet, rows: Rows, gathered: Gathered) -> None:
        self.pools: dict[str, Pool] = {}
        self.frontends: dict[str, FrontendCounters] = {}
        self.recent = Recent()
        self.on_decision: Callable[[], None] = lambda: None
        self._pins = AllPins()
        self._fleet = fleet
        self._rows = rows
        self._gathered = gathered
        self._config: Config | None = None

    def __repr__(self) -> str:
        return f"<SharedState of {', '.join(self.pools) or 'no backend'}>"

    def reconfigure(self, config: Config) -> None:
        """Have these backends and frontends; the workers are not told.

        Raises ValueError if there are not enough rows for them.
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
        for name in self.pools.keys() - config.backends.keys():
            del self.pools[name]
        self._pins.reconfigure(config)
        names = [frontend.name for frontend in config.frontends]
        for name in self.frontends.keys() - set(names):
            del self.frontends[name]
        for name in names:
            self.frontends.setdefault(name, FrontendCounters())
        freed = self._rows.deal(self.pools, names)
        self._gathered.forget(freed)
        self._config = config

    @property
    def config(self) -> Config:
        """The one of the last `reconfigure`, by which pools and rows are."""
        assert self._config is not None, "there was none yet"
        return self._config

    def refresh(self) -> None:
        """Make all numbers current, and say which processes only finish what runs."""
        self._gathered.fill(self.pools, self.frontends, self._rows.rows)
        retired = {child.number for child in self._fleet.children if child.is_retired}
        for process in self._gathered.processes:
            process.is_draining = process.number in retired

    def tick(self, now: float) -> None:
        """Time alone ends ejections, and goes on with slow starts."""
        for pool in self.pools.values():
            pool.tick(now)

    # What the workers say.

    def hear(self, child: Child, message: Message) -> None:
        """One of the messages that `workers.worker` lists; another one is none of ours."""
        match message["do"]:
            case "failed":
                if (server := self._find(message)) is not None:
                    pool = self.pools[message["backend"]]
                    pool.failed(server, message["at"], message.get("because", ""))
                self._fleet.tell(message, but=child)
            case "recovered":
                if (server := self._find(message)) is not None:
                    self.pools[message["backend"]].recovered(server, None)
                self._fleet.tell(message, but=child)
            case "ejected":
                if (server := self._find(message)) is not None:
                    self._ejected(server, message)
            case "pin":
                if self._pins.note(message, asyncio.get_running_loop().time()):
                    self._fleet.tell(message, but=child)
            case "find":
                # Only when all that was told before has been read (`workers.pins`).
                asyncio.get_running_loop().call_soon(self._answer_pin, child, message)
            case "refused":
                self._gathered.refused(child.number, message["frontend"], message["refused"])
            case "recent":
                for abort in message["aborts"]:
                    self.recent.add(abort)

    def _ejected(self, server: Server, message: Message) -> None:
        """One worker has ejected it. Workers do not see each other's ejections at once: what is too
        much, or has been decided already, is refused here, and all are told what holds."""
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

    # What the workers are told and asked.

    def snapshots(self) -> list[list[Any]]:
        """`[backend, server, snapshot]` of each server."""
        return [
            [name, server.name, server.snapshot()]
            for name, pool in self.pools.items()
            for server in pool.servers
        ]

    def all_decisions(self, **also: bool) -> Message:
        """To tell the workers all of them, and something else that a `servers` may say."""
        return {"do": "servers", "servers": self.snapshots(), **also}

    def _decided(self, backend: str, server: Server) -> None:
        self._fleet.tell({"do": "servers", "servers": [[backend, server.name, server.snapshot()]]})
        self.on_decision()

    def _recovered(self, backend: str, server: Server, began: float | None) -> None:
        """A good check has forgiven its failures here."""
        message = {"do": "recovered", "backend": backend, "server": server.name, "began": began}
        self._fleet.tell(message)

    def _marked_down(self, backend: str, server: Server, stands_still: bool) -> None:
        """Told with `servers`, where workers of older code take no notice of it."""
        marked_down = [backend, server.name, stands_still]
        message = {"do": "servers", "servers": [], "marked_down": marked_down}
        self._fleet.tell(message)

    async def settle(self) -> bool:
        """Until all workers have applied the decisions so far, and have published their numbers.

        False: one has not answered within SETTLE_TAKES. Workers of older code do not listen to
        `publish`, but answer.
        """
        question = {"do": "servers", "servers": [], "publish": True}
        return await self._fleet.all_answer(question, SETTLE_TAKES)

    def load_reported(self, server: Server, load: float) -> None:
        """A server has told its load to a check."""
        self._fleet.tell({"do": "load", "load": load, **self._named(server)})

    def checker(self, known: Iterable[Server]) -> HealthChecker:
        """Of the servers that there are; `known` have been checked before. It has yet to start,
        and to be reconfigured before that.

        Files that TLS needs are read only then: by this configuration they may be gone already.
        """
        backends = self.config.backends.items()
        return HealthChecker(
            self.pools,
            {name: backend.model_copy(update={"tls": None}) for name, backend in backends},
            rng=Random(),
            clock=asyncio.get_running_loop().time,
            moved=self.has_moved,
            reported=self.load_reported,
            known=known,
        )

    async def has_moved(self, server: Server, seconds: float) -> bool:
        """True if a response of the server moved in these last seconds, in any process."""
        question = {"do": "moved", "seconds": seconds, **self._named(server)}
        answers = await self._fleet.ask_all(question)
        return any(answer.get("moved") for answer in answers)

    def _named(self, server: Server) -> Message:
        backend = next((name for name, pool in self.pools.items() if server in pool.servers), "")
        return {"backend": backend, "server": server.name}

    # For the program's next image.

    def state(self) -> dict[str, Any]:
        """What `restore` takes, as JSON has it. Numbers are not in it: `Gathered` has them."""
        return {
            "servers": self.snapshots(),
            "pins": self._pins.state(),
            "recent": self.recent.since(),
        }

    def restore(self, state: Mapping[str, Any]) -> list[Server]:
        """Go on by the last image's decisions -> the servers that it knew.

        To be called when the configuration is the one by which it decided: what another one says
        of its servers would be undone.
        """
        self.recent.restore(state.get("recent", ()))  # older code has none
        known: list[Server] = []
        for backend, name, snapshot in state["servers"]:
            server = self._find({"backend": backend, "server": name})
            if server is not None:
                server.restore(snapshot)
                known.append(server)
        self._pins.restore(state["pins"], asyncio.get_running_loop().time())
        return known
