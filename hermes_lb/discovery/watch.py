"""Follows one source: retries, damping, and one line of log for each news."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pydantic import ValidationError

from hermes_lb.discovery.damping import Damper
from hermes_lb.discovery.sources.base import DiscoveryFailed, Endpoint
from hermes_lb.options.units import Address
from hermes_lb.tasks import jittered

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random
    from typing import TypeAlias

    from hermes_lb.backends.options import DiscoveredServer
    from hermes_lb.discovery.sources.base import Answer, Source
    from hermes_lb.discovery.sources.options import DiscoveryOptions
    from hermes_lb.discovery.sources.resolve import ResolvedName

    Followed: TypeAlias = DiscoveryOptions | ResolvedName

logger = logging.getLogger("hermes_lb.discovery")

# Seconds between two changes of a backend: all that come meanwhile share the cost of the pool's
# lists, which is that of all servers.
_SETTLES = 0.1
# The same for each server, so that many of them cost no more: the lists of 5,000 servers take 3 ms
# of each process, those of some strategies 20 ms.
_SETTLES_PER_SERVER = 2e-4
# Seconds between two steps of a large answer: requests are served meanwhile.
_STEP = 0.02
# Seconds between two attempts at a source that fails, doubled each time.
_FIRST_RETRY = 1.0
_LAST_RETRY = 30.0


class Delta(NamedTuple):
    """Servers that are new or have changed, and names of those that are gone."""

    servers: list[DiscoveredServer]
    gone: list[str]


class Watch:
    """The servers of one source, while it runs; `changed` is called with each change of them."""

    def __init__(
        self,
        backend: str,
        options: Followed,
        changed: Callable[[Watch, Delta], None],
        *,
        rng: Random,
        source: Source | None = None,
    ) -> None:
        self.backend = backend
        self.options = options
        self.kind = options.kind
        self.label = options.label(backend)
        self.servers: dict[str, DiscoveredServer] = {}
        self.has_answered = asyncio.Event()  # or has failed
        self.last_success: float | None = None  # seconds since 1970
        self.failures = 0
        self._source = source or options.source(rng)
        self._changed = changed
        self._rng = rng
        self._damper = Damper(
            self.label, empty_after=options.empty_after, flap_hold=options.flap_hold,
            max_servers=options.max_servers,
        )  # fmt: skip
        self._failing = ""  # the last failure that was logged
        self._problem = ""
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._last_flush = float("-inf")
        self._apply(options.at_first)

    def __repr__(self) -> str:
        return f"<Watch of {self.label} by {self.kind}, {len(self.servers)} servers>"

    @property
    def is_failing(self) -> bool:
        """Its source can't answer."""
        return bool(self._failing)

    @property
    def state(self) -> list[Any]:
        """Fit for JSON, for `restore` after a reload or an upgrade."""
        about = self.label, self.options.origin, self.failures, self.last_success
        return [*about, list(self._damper.applied.items())]

    def restore(self, state: list[Any]) -> None:
        """Servers of before, in use until the first answer; none if it is of another origin."""
        _, origin, failures, last_success, endpoints = state
        if origin == self.options.origin:
            self.failures, self.last_success = failures, last_success
            self._apply({name: _endpoint_of(one) for name, one in endpoints})
            self._source.start_with(self.endpoints)

    def _apply(self, endpoints: dict[str, Endpoint]) -> None:
        self._damper.start_with(endpoints)
        self.servers = {name: one for name, one in self._made(endpoints).items() if one is not None}

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """What `servers` are made of."""
        return self._damper.applied

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            pause = _FIRST_RETRY
            while True:
                wait = pause
                try:
                    async with aclosing(cast("Any", self._source.answers())) as answers:
                        async for answer in answers:
                            self._answered(answer)
                            pause = wait = _FIRST_RETRY
                except DiscoveryFailed as error:
                    self._failed(str(error))
                    wait = pause if error.retry_after is None else error.retry_after
                except Exception:  # a bug must not end the discovery
                    logger.exception("%s: the discovery by %s went wrong", self.label, self.kind)
                    self.failures += 1
                    wait = pause
                self.has_answered.set()
                pause = min(2 * pause, _LAST_RETRY)
                await asyncio.sleep(jittered(wait, self._rng))
        finally:
            if self._timer is not None:
                self._timer.cancel()
            await self._source.close()

    def _failed(self, text: str) -> None:
        self.failures += 1
        if text != self._failing:
            self._failing = text
            kept = len(self.servers)
            logger.warning(
                "%s: discovery by %s: %s; %s", self.label, self.kind, text,
                f"the last {kept} servers stay" if kept else "no server is known yet",
            )  # fmt: skip

    def _answered(self, answer: Answer) -> None:
        self.last_success = time.time()
        if self._failing:
            self._failing = ""
            logger.info("%s: discovery by %s works again", self.label, self.kind)
        if answer.problem != self._problem:
            self._problem = answer.problem
            if answer.problem:
                logger.warning("%s: discovery by %s: %s", self.label, self.kind, answer.problem)
        now = asyncio.get_running_loop().time()
        self._damper.answered(answer, now)
        settles = max(_SETTLES, len(self.servers) * _SETTLES_PER_SERVER)
        self._flush_at(max(now, self._last_flush + settles))

    def _flush_at(self, due: float) -> None:
        """Not later than then. The first change of a quiet backend takes effect at once."""
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        if due <= loop.time():
            self._flush()
        else:
            self._due = due
            self._timer = loop.call_at(due, self._flush)

    def _flush(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        self._last_flush = now
        present, gone, due = self._damper.take(now)
        changed = []
        for name, server in self._made(present).items():
            if server is None:
                gone.append(name)
            else:
                self.servers[name] = server
                changed.append(server)
        gone = [name for name in gone if self.servers.pop(name, None) is not None]
        if due is not None:
            self._flush_at(max(due, now + _STEP))
        if due is None or due > now:
            self.has_answered.set()
        if changed or gone:
            logger.info(
                "%s: discovery by %s: %d servers%s%s", self.label, self.kind, len(self.servers),
                _listed(" here or changed", [server.name for server in changed]),
                _listed(" gone", gone),
            )  # fmt: skip
            self._changed(self, Delta(changed, gone))

    def _made(self, endpoints: dict[str, Endpoint]) -> dict[str, DiscoveredServer | None]:
        """None: the balancer cannot use its name or its address."""
        made: dict[str, DiscoveredServer | None] = {}
        for name, endpoint in endpoints.items():
            try:
                made[name] = self.options.server(name, endpoint)
            except ValidationError as error:
                what = error.errors(include_url=False)[0]["msg"]
                logger.warning("%s: %s is left out: %s", self.label, ascii(name)[:80], what)
                made[name] = None
        return made


def _endpoint_of(state: list[Any]) -> Endpoint:
    """Of `list(endpoint)`, from JSON."""
    (host, port), *others = state
    return Endpoint(Address(host, port), *others)


def _listed(what: str, names: list[str]) -> str:
    """A few of them."""
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"; {', '.join(names[:3])}{more}{what}"
