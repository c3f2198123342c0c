"""The Redis of a run: one server behind a proxy that loses replies, or Sentinels that fail over."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any, Protocol, Self

from redis.asyncio import Redis

from agent_worker.redis_server import RedisServer
from agent_worker.tasks import cancel_and_wait, spawn
from bench.chaos.waiting import until
from tests.agent_worker.redis.dropping_proxy import HOST, DroppingProxy
from tests.agent_worker.redis.topologies import GUARDED, Sentinels

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

# Seconds around a failover in which an acknowledged write may be lost: replicas may lag before it,
# and a master that was only stopped may still acknowledge some when it wakes up.
_BEFORE, _BEHIND = 2.0, 3.0
# Longer than a tool takes on a busy machine, and shorter than any lease.
_HELD_S = 0.1


class Backend(Protocol):
    """What workers connect to (`url`), and where its truth is (`port`)."""

    #: Name of each fault -> how often it may come, relative to others.
    faults: dict[str, int]
    #: From when to when (time.monotonic()) acknowledged writes may be lost.
    failovers: list[tuple[float, float]]

    @property
    def url(self) -> str: ...

    @property
    def port(self) -> int: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def inflict(self, fault: str, rng: random.Random) -> dict[str, int]:
        """Do it, and return what to count of it."""
        ...

    async def hold(self) -> None:
        """Let no command arrive until `let_go`, and return when what was begun has happened.

        Returns at once where nothing can be held.
        """
        ...

    def let_go(self) -> None:
        """Commands arrive again; those that were held are lost, with their connections."""
        ...

    def calm(self) -> None:
        """No more faults."""
        ...


def look(port: int) -> Any:
    """A client of our own, past every proxy, for looking only."""
    return Redis(host=HOST, port=port, decode_responses=True, socket_timeout=5, protocol=2)


class Standalone:
    """One server. Replies are lost, connections cut, and nothing comes through for a moment."""

    def __init__(self) -> None:
        self.faults = {"lose": 8, "cut": 1, "mute": 1}
        self.failovers: list[tuple[float, float]] = []
        self._server: RedisServer
        self._proxy: DroppingProxy

    async def __aenter__(self) -> Self:
        self._server = RedisServer.start()
        self._proxy = await DroppingProxy(self._server.port).__aenter__()
        return self

    async def __aexit__(self, *reason: Any) -> None:
        # Links that end by themselves leave no cancelled task behind.
        self._proxy.refuses = True
        self._proxy.cut()
        await until(self._is_cut, "all connections are closed")
        await self._proxy.__aexit__(*reason)
        self._server.stop()

    @property
    def url(self) -> str:
        return self._proxy.url

    @property
    def port(self) -> int:
        return self._server.port

    async def inflict(self, fault: str, rng: random.Random) -> dict[str, int]:
        if fault == "lose":
            times = rng.randint(1, 4)
            self._proxy.lose_replies("EVALSHA", times)
            return {"replies dropped": times}
        if fault == "cut":
            cut = self._proxy.open_connections
            self._proxy.cut()
            return {"connections cut": cut}
        self._proxy.go_mute()
        await asyncio.sleep(rng.uniform(0.1, 1.5))
        self._proxy.speak()
        return {"times that Redis was mute": 1}

    async def hold(self) -> None:
        self._proxy.go_deaf()
        await asyncio.sleep(_HELD_S)

    def let_go(self) -> None:
        self._proxy.cut()
        self._proxy.speak()

    def calm(self) -> None:
        self._proxy.speak()

    async def _is_cut(self) -> bool:
        return not self._proxy.open_connections


class Sentinel:
    """A master with two replicas. It is killed, or stopped until another has its place.

    Workers reach it directly, as the Sentinels tell; replies are lost when it dies, and when the
    server closes all connections. `min_replicas` goes into the URL: with fewer than all of them a
    Sentinel may promote the one that lacks the record of a `once` call. `is_guarded`: a master that
    no replica follows takes no writes.
    """

    REPLICAS = 2

    def __init__(self, min_replicas: int | None = None, *, is_guarded: bool = True) -> None:
        self.faults = {"kill": 2, "freeze": 1, "cut": 3}
        self.failovers: list[tuple[float, float]] = []
        self._min_replicas = min_replicas
        self._options = GUARDED if is_guarded else {}
        self._servers: Sentinels
        self._master = 0
        self._is_failing = False
        self._watcher: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        # Longer than a busy machine holds up a server: failovers are ours to choose.
        servers = Sentinels(replicas=self.REPLICAS, down_after_ms=1500, options=self._options)
        self._servers = servers.__enter__()
        self._master = servers.master_port
        self._watcher = spawn(self._watch(), name="master")
        return self

    async def __aexit__(self, *reason: Any) -> None:
        await cancel_and_wait(self._watcher)
        self._servers.close()

    @property
    def url(self) -> str:
        wanted = self._min_replicas
        return self._servers.url + (f"?min_replicas={wanted}" if wanted is not None else "")

    @property
    def port(self) -> int:
        return self._master

    async def inflict(self, fault: str, rng: random.Random) -> dict[str, int]:
        if fault == "cut":
            return {"connections cut": await _cut(self.port)}
        old, begin = self._master, time.monotonic()
        # Before its end is known: until there is another, everything may be lost.
        self.failovers.append((begin - _BEFORE, math.inf))
        window = len(self.failovers) - 1
        servers = self._servers
        self._is_failing = True
        servers.kill(old) if fault == "kill" else servers.freeze(old)
        try:
            self._master = await asyncio.to_thread(servers.wait_for_new_master, old)
            await asyncio.sleep(rng.uniform(0.0, 1.0))
        finally:
            servers.restart(old) if fault == "kill" else servers.thaw(old)
        await asyncio.to_thread(servers.wait_in_step)
        self._is_failing = False
        self.failovers[window] = (begin - _BEFORE, time.monotonic() + _BEHIND)
        return {f"failovers ({fault})": 1}

    async def hold(self) -> None:
        """Nothing stands between it and the workers."""

    def let_go(self) -> None:
        """Nothing was held."""

    def calm(self) -> None:
        """A failover is waited for to its end by `inflict` itself."""

    async def _watch(self) -> None:
        """The Sentinels may promote another one without being asked to."""
        seen = time.monotonic()
        while True:
            await asyncio.sleep(0.2)
            master, now = (
                await asyncio.to_thread(lambda: self._servers.master_port),
                time.monotonic(),
            )
            if master != self._master and not self._is_failing:
                self.failovers.append((seen - _BEFORE, now + _BEHIND))
                self._master = master
            seen = now


async def _cut(port: int) -> int:
    """Close the connections to a server, but for MONITOR's and the replicas'."""
    client = look(port)
    try:
        ids = [each["id"] for each in await client.client_list() if each["flags"] in {"N", "P"}]
        for client_id in ids:
            await client.execute_command("CLIENT", "KILL", "ID", client_id, "SKIPME", "yes")
    finally:
        await client.aclose()
    return len(ids)


BACKENDS: dict[str, Callable[[], Backend]] = {
    "standalone": Standalone,
    "sentinel": Sentinel,
}
