"""Pub/sub on one connection, which is replaced when it is lost.

    subscribe     the channel is wanted; SUBSCRIBE is sent now, or on the next connection
    live          the server has confirmed it: messages that are published afterwards arrive
    lost          the connection is lost: no channel is live until all are confirmed again; then
                  `on_reconnected` reports that messages may have been missed

A Cluster broadcasts PUBLISH to all of its nodes, so a connection to any node receives everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Any

from redis import exceptions as redis_errors
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError

from agent_worker.tasks import spawn_reporting

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.connection import AbstractConnection

    from agent_worker.sessions.node import Node
    from agent_worker.sessions.topology import Topology

log = logging.getLogger(__name__)

# Seconds. A server that vanished without closing is detected after the sum of both.
_QUIET_S = 10.0
_PONG_S = 2.0
_CANCEL_AGAIN_S = 0.05
# While Redis is away. A worker without a subscription counts as dead (`runtime.holders`).
_LONGEST_PAUSE_S = 0.1


class Subscriber:
    """Made by `Client.subscriber`. The callbacks are synchronous, and must be short.

    A channel has one subscription for all callers of `subscribe`.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        on_message: Callable[[str, str], None],
        on_reconnected: Callable[[], None],
    ) -> None:
        self._topology = topology
        self._on_message = on_message
        self._on_reconnected = on_reconnected
        # An event per wanted channel, set while it is live.
        self._live: dict[str, asyncio.Event] = {}
        # The subscriptions that the server has to confirm, in the order of sending.
        self._unconfirmed: deque[asyncio.Event] = deque()
        self._connection: AbstractConnection | None = None
        self._sending = asyncio.Lock()
        self._has_missed = False
        # Time of the loop's clock; infinite while the connection is lost.
        self._live_since = -math.inf
        self._task: asyncio.Task[object] | None = None

    @property
    def live_s(self) -> float:
        return max(asyncio.get_running_loop().time() - self._live_since, 0.0)

    async def subscribe(self, channel: str) -> None:
        """Return once the channel is live; it waits while Redis is away."""
        live = self._live.get(channel)
        if live is None:
            live = self._live[channel] = asyncio.Event()
            if self._task is None:
                self._task = spawn_reporting(self._run(), name="subscriber")
            self._send_soon("SUBSCRIBE", channel)
        await live.wait()

    async def unsubscribe(self, channel: str) -> None:
        """Drop the channel. Callers that wait in `subscribe` return."""
        live = self._live.pop(channel, None)
        if live is not None:
            live.set()
            self._send_soon("UNSUBSCRIBE", channel)

    async def close(self) -> None:
        # Repeated: redis-py may swallow a cancellation while it connects.
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CANCEL_AGAIN_S)

    async def _run(self) -> None:
        backoff = ExponentialWithJitterBackoff(cap=_LONGEST_PAUSE_S, base=0.05)
        failures = 0
        while True:
            node: Node | None = None
            try:
                node = await self._topology.node(None)
                async with node.own_connection() as connection:
                    self._connection = connection
                    await self._send("SUBSCRIBE", *self._live)
                    while True:
                        self._take(await self._next_reply(node, connection))
                        failures = 0
            except (RedisError, OSError) as error:
                if not failures:
                    log.warning("subscriptions lost: %s", error or type(error).__name__)
                if node is not None:
                    self._topology.distrust(node)
            finally:
                self._lose()
            failures += 1
            # The jitter may be 0: the constant prevents a busy loop.
            await asyncio.sleep(0.02 + backoff.compute(failures))

    def _lose(self) -> None:
        self._connection = None
        self._live_since = math.inf
        self._unconfirmed.clear()
        for live in self._live.values():
            self._has_missed |= live.is_set()
            live.clear()

    async def _next_reply(self, node: Node, connection: AbstractConnection) -> Any:
        reply = await _read(connection, _QUIET_S)
        if reply is None:
            if not self._topology.serves(node):
                raise redis_errors.ConnectionError(f"{node.name} is not the master any more")
            await self._send("PING")
            reply = await _read(connection, _PONG_S)
        if reply is None:
            raise redis_errors.ConnectionError(f"no answer from {node.name}")
        return reply

    def _take(self, reply: Any) -> None:
        match reply:
            case ["message", channel, data]:
                # It may have been in transit when the channel was dropped.
                if channel in self._live:
                    self._call(self._on_message, channel, data)
            case ["subscribe", _, _]:
                self._unconfirmed.popleft().set()
                if self._unconfirmed:
                    return
                if self._live_since == math.inf:
                    self._live_since = asyncio.get_running_loop().time()
                if self._has_missed:
                    self._has_missed = False
                    log.warning("subscriptions restored")
                    self._call(self._on_reconnected)

    def _call(self, function: Callable[..., None], *args: str) -> None:
        try:
            function(*args)
        except Exception:
            log.exception("a subscriber's callback failed")

    def _send_soon(self, command: str, channel: str) -> None:
        # Not cancelled with the caller: others may wait for the same channel.
        spawn_reporting(self._send(command, channel), name=command)

    async def _send(self, command: str, *channels: str) -> None:
        """Send a command if there is a connection; the reader detects a failure.

        Commands are sent one at a time. Channels whose state has changed meanwhile are left out.
        """
        async with self._sending:
            connection = self._connection
            if connection is None or not connection.is_connected:
                return
            if command != "PING":
                is_wanted = command == "SUBSCRIBE"
                channels = tuple(name for name in channels if (name in self._live) == is_wanted)
                if not channels:
                    return
                if is_wanted:
                    self._unconfirmed.extend(self._live[name] for name in channels)
            # AttributeError: the reader has closed it between redis-py's check and its write.
            # RuntimeError: the server has closed it, and so has uvloop.
            with contextlib.suppress(RedisError, OSError, AttributeError, RuntimeError):
                # redis-py's health check would take the next message for the reply to its PING.
                await connection.send_command(command, *channels, check_health=False)


async def _read(connection: AbstractConnection, timeout_s: float) -> Any:
    """The next reply, or None after `timeout_s`."""
    return await connection.read_response(timeout=timeout_s)
