"""The Redis client of the store: runs scripts, waits for replicas, subscribes; on any topology.

Why not redis-py's clients: each of the three has its own pool, its own retries and its own way to
find the master, none lets a script and its WAIT share a connection, and `register_script` does not
support Cluster. The connections, pools, parsers and errors of redis-py are used.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis import exceptions as redis_errors
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from agent_worker.sessions.keys import heartbeat_key
from agent_worker.sessions.node import Unreachable
from agent_worker.sessions.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent_worker.sessions.node import Command, Node
    from agent_worker.sessions.scripts import Script
    from agent_worker.sessions.topology import Topology

# Two retries survive one dropped connection; more only delay the 503 that the client can act on.
_RETRIES = 2
# Replicas of a healthy deployment answer in milliseconds. Less than the socket's timeout, or a slow
# replica would look like a lost server.
_REPLICA_WAIT_MS = 1000
_HEARTBEAT_KEPT_MS = 3_600_000

# The server refused before any effect; another server, or a later attempt, may succeed.
_REFUSALS = (ReadOnlyError, ClusterDownError, TryAgainError)


class Client:
    """Every operation raises RedisError and OSError if Redis cannot serve it."""

    def __init__(self, topology: Topology, *, min_replicas: int | None = None) -> None:
        self._min_replicas = min_replicas
        self._topology = topology
        self._raw: Any = None

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[str | int | bytes]
    ) -> Any:
        """The script's reply. Its keys are in one hash slot.

        The script runs again when a reply is lost (`lua/_common.lua`, rule 5), three times at most.
        """
        [reply] = await self._run(script, keys, args)
        return reply

    async def run_replicated(
        self, script: Script, keys: Sequence[str], args: Sequence[str | int | bytes], replicas: int
    ) -> tuple[Any, int]:
        """Like `run`; then wait up to 1 s until `replicas` have it.

        Returns the reply and the number of replicas that have it, which may be smaller.
        """
        if not replicas:
            return await self.run(script, keys, args), 0
        # WAIT covers the writes of its own connection, so it is sent with the script. A script that
        # finds its work done (repeated after a lost reply) writes nothing, and WAIT would count
        # replicas that lack the first write. Hence a write of our own after the script.
        key = keys[0]
        # Another key in its hash slot.
        beside = f"{key}:wait" if "{" in key else f"{{{key}}}:wait"
        mark = ("SET", beside, "", "PX", 1)
        wait = ("WAIT", replicas, _REPLICA_WAIT_MS)
        reply, *others = await self._run(script, keys, args, mark, wait)
        for other in others:
            if isinstance(other, ResponseError):
                raise other
        return reply, others[-1]

    async def replicas_wanted(self, key: str) -> int:
        """The number of replicas that must have a write to `key` before no failover can lose it.

        As set in the URL; otherwise all that its master has now, and at least one, since any may be
        promoted.
        """
        if self._min_replicas is not None:
            return self._min_replicas
        if not self._topology.has_replicas:
            return 0
        [role] = await self._ask(key, lambda by_text: [("ROLE",)])
        return max(1, len(role[2])) if role[0] == "master" else 1

    async def ping(self, *, patience_s: float | None = None) -> None:
        """Raise unless Redis answers and, if it is a Cluster, reports that its state is ok."""
        probe = self._topology.probe
        [reply] = await self._ask(None, lambda by_text: [probe], patience_s=patience_s)
        if "cluster_state:fail" in reply:
            raise ClusterDownError("the Cluster reports that its state is not ok")

    async def probe_writes(self) -> None:
        """Raise unless each master accepts a write, of a key that expires at once."""
        # No waiting for a failover: the present state is asked for.
        await self.ping(patience_s=0.0)

        async def write(key: str) -> None:
            await self._ask(key, lambda by_text: [("SET", key, "", "PX", 1)], patience_s=0.0)

        keys = await self._topology.one_key_for_each_master("hermes:ready")
        await asyncio.gather(*map(write, keys))

    async def subscribers(self, channel: str) -> int:
        """On all masters together."""

        async def count(key: str) -> int:
            command = ("PUBSUB", "NUMSUB", channel)
            [reply] = await self._ask(key, lambda by_text: [command], patience_s=0.0)
            return int(reply[1])

        keys = await self._topology.one_key_for_each_master("hermes:subscribers")
        return sum(await asyncio.gather(*map(count, keys)))

    async def beat(self, worker: str) -> None:
        key = heartbeat_key(worker)
        command = ("SET", key, "", "PX", _HEARTBEAT_KEPT_MS)
        await self._ask(key, lambda by_text: [command], patience_s=0.0)

    async def beat_age_s(self, worker: str) -> float | None:
        key = heartbeat_key(worker)
        [left_ms] = await self._ask(key, lambda by_text: [("PTTL", key)], patience_s=0.0)
        return (_HEARTBEAT_KEPT_MS - left_ms) / 1000 if left_ms >= 0 else None

    def subscriber(
        self, *, on_message: Callable[[str, str], None], on_reconnected: Callable[[], None]
    ) -> Subscriber:
        """One connection for all channels. Close it before the client."""
        return Subscriber(self._topology, on_message=on_message, on_reconnected=on_reconnected)

    @property
    def raw(self) -> Any:
        """redis-py's client of the same servers, with connections of its own."""
        if self._raw is None:
            self._raw = self._topology.make_raw()
        return self._raw

    async def aclose(self) -> None:
        await self._topology.aclose()
        if self._raw is not None:
            await self._raw.aclose()

    async def _run(
        self, script: Script, keys: Sequence[str], args: Sequence[str | int | bytes], *then: Command
    ) -> list[Any]:
        def commands(by_text: bool) -> list[Command]:
            how = ("EVAL", script.text) if by_text else ("EVALSHA", script.sha)
            return [(*how, len(keys), *keys, *args), *then]

        return await self._ask(keys[0], commands)

    async def _ask(
        self,
        key: str | None,
        commands: Callable[[bool], list[Command]],
        *,
        patience_s: float | None = None,
    ) -> list[Any]:
        """Send commands to the server that holds `key`, with the retries of `_Retries`.

        `commands` is called with True once a server does not know the script. Raises the first
        reply if it is an error.
        """
        retries = _Retries(self._topology.patience_s if patience_s is None else patience_s)
        by_text = False
        while True:
            node: Node | None = None
            try:
                node = await self._topology.node(key)
                replies = await node.ask(*commands(by_text))
                if isinstance(replies[0], AskError) and not isinstance(replies[0], MovedError):
                    # The slot is being migrated there, and this key already is.
                    target = self._topology.redirect(node, replies[0])
                    replies = await _ask_ahead(target, commands(by_text))
                error = replies[0]
                if not isinstance(error, ResponseError):
                    return replies
                if isinstance(error, NoScriptError) and not by_text:
                    by_text = True
                    continue
                if isinstance(error, MovedError):
                    self._topology.moved(node, error)
                elif isinstance(error, _REFUSALS) or str(error).startswith("NOREPLICAS"):
                    self._topology.distrust(node)
                else:
                    raise error
                await retries.refused(error)
            except AuthenticationError:
                raise
            except (Unreachable, BusyLoadingError) as unreached:
                if node is not None:
                    self._topology.distrust(node)
                await retries.refused(unreached)
            except (redis_errors.ConnectionError, redis_errors.TimeoutError) as lost:
                if node is not None:
                    self._topology.distrust(node)
                await retries.lost(lost)


async def _ask_ahead(node: Node, commands: list[Command]) -> list[Any]:
    """Send commands for a slot that is being imported: ASKING admits one command each."""
    announced: list[Command] = [each for command in commands for each in (("ASKING",), command)]
    return (await node.ask(*announced))[1::2]


class _Retries:
    """The retry budget of one operation, and the pauses between its attempts.

    `_RETRIES` after a lost reply: the operation may have run. `_RETRIES` as well if it has not run,
    and any number for `seconds`, in which a failover may complete.
    """

    def __init__(self, seconds: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + seconds
        self._backoff = ExponentialWithJitterBackoff(cap=0.2, base=0.02)
        self._lost = self._refused = 0

    async def lost(self, error: Exception) -> None:
        """Pause, or raise `error`."""
        self._lost += 1
        if self._lost > _RETRIES:
            raise error
        await self._pause()

    async def refused(self, error: Exception) -> None:
        """Pause, or raise `error`."""
        self._refused += 1
        if self._refused > _RETRIES and self._clock() >= self._until:
            raise error
        await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self._backoff.compute(self._lost + self._refused))
