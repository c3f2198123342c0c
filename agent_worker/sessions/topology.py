"""The server that holds a key: a fixed one, the master of the Sentinels, or a node of a Cluster.

None of the topologies watches its servers: a failed operation calls `distrust`, and the next one
looks the server up again.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import Sentinel
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError, ResponseError

from agent_worker.sessions.node import Node, Nodes, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.exceptions import AskError, MovedError

    from agent_worker.sessions.redis_url import Address, RedisUrl

# Seconds for a Sentinel or node to name the master. They answer in a millisecond, and a hanging one
# must not use up the time of the waiting operation.
_ASK_TIMEOUT_S = 0.5
# Seconds that an operation waits for a failover, well within the store's 5 s. With a longer wait
# requests would pile up that a 503 could send elsewhere.
_FAILOVER_PATIENCE_S = 3.0


class Topology(ABC):
    #: Whether a failover may lose acknowledged writes.
    has_replicas = True
    #: Seconds to wait for a server that replaces a lost one.
    patience_s = _FAILOVER_PATIENCE_S
    #: The command that any server answers with the health of the deployment.
    probe: tuple[str, ...] = ("PING",)

    @abstractmethod
    async def node(self, key: str | None) -> Node:
        """The master that holds `key`; None: any server that can publish and subscribe.

        Raises Unreachable, AuthenticationError.
        """

    async def one_key_for_each_master(self, prefix: str) -> list[str]:
        """A key that begins with `prefix` for each master. Raises what `node` raises."""
        return [prefix]

    @abstractmethod
    def distrust(self, node: Node) -> None:
        """`node` did not answer, or is not the master: look it up again."""

    def redirect(self, node: Node, error: AskError) -> Node:
        """The server to which `node` has redirected one command."""
        raise RedisError(
            f"{node.name} belongs to a Redis Cluster: use a URL with redis+cluster://"
        ) from error

    def moved(self, node: Node, error: MovedError) -> None:
        """`node` has reported that another server holds the slot."""
        self.redirect(node, error)

    @abstractmethod
    def serves(self, node: Node) -> bool:
        """Whether `node` still belongs to the deployment."""

    @abstractmethod
    def make_raw(self) -> Any:
        """A new client of redis-py for the same servers."""

    @abstractmethod
    async def aclose(self) -> None: ...


class OneServer(Topology):
    has_replicas = False
    # No server replaces it, and the client can act on an immediate error.
    patience_s = 0.0

    def __init__(self, url: RedisUrl) -> None:
        self._settings = dict(url.settings)
        if url.addresses:
            self._settings["host"], self._settings["port"] = url.addresses[0]
        self._node = Node(self._settings)

    async def node(self, key: str | None) -> Node:
        return self._node

    def distrust(self, node: Node) -> None:
        pass

    def serves(self, node: Node) -> bool:
        return True

    def make_raw(self) -> Any:
        return Redis.from_pool(BlockingConnectionPool(**self._settings))

    async def aclose(self) -> None:
        await self._node.aclose()


class SentinelMaster(Topology):
    """The named master (https://redis.io/docs/latest/develop/reference/sentinel-clients/).

    All Sentinels are asked, and the answer with the highest configuration epoch counts: a Sentinel
    that was partitioned still names the old master. A master that is demoted later drops our
    connections (Sentinel sends it CLIENT KILL), or answers READONLY.
    """

    def __init__(self, url: RedisUrl) -> None:
        self._url = url
        self._nodes = Nodes(url.settings)
        self._master: Node | None = None
        self._raw_sentinels: list[Redis] = []
        # One task asks; the others wait for its result.
        self._asking = asyncio.Lock()

    async def node(self, key: str | None) -> Node:
        if self._master is None:
            async with self._asking:
                if self._master is None:
                    self._master = await self._find()
        return self._master

    def distrust(self, node: Node) -> None:
        if node is self._master:
            self._master = None

    def serves(self, node: Node) -> bool:
        return self._nodes.holds(node)

    def make_raw(self) -> Any:
        sentinel_settings = _plain_settings(self._url.sentinel_settings)
        sentinel = Sentinel(self._url.addresses, sentinel_kwargs=sentinel_settings)  # type: ignore[no-untyped-call]
        self._raw_sentinels += sentinel.sentinels
        return sentinel.master_for(self._url.master_name, **_plain_settings(self._url.settings))

    async def aclose(self) -> None:
        await self._nodes.keep(())
        # redis-py's client closes the master's connections only.
        for sentinel in self._raw_sentinels:
            await sentinel.aclose()

    async def _find(self) -> Node:
        answers = await asyncio.gather(*map(self._ask, self._url.addresses))
        found = [answer for answer in answers if isinstance(answer, tuple)]
        if not found:
            raise Unreachable(f"no Sentinel knows a master {self._url.master_name!r}: {answers}")
        _, address = max(found)
        node = self._nodes.at(address)
        [role] = await node.ask(("ROLE",))
        if isinstance(role, ResponseError) or role[0] != "master":
            raise Unreachable(f"{node.name} is not the master yet: {role}")
        await self._nodes.keep((address,))
        return node

    async def _ask(self, sentinel: Address) -> tuple[int, Address] | str:
        """(epoch, address) of the master, or the reason why it is unknown."""
        host, port = sentinel
        settings = {**self._url.sentinel_settings, "host": host, "port": port}
        name = self._url.master_name
        try:
            async with asyncio.timeout(_ASK_TIMEOUT_S), aclosing(Node(settings)) as node:
                # Only the first names a promoted replica at once; only the second has the epoch.
                address, facts = await node.ask(
                    ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name), ("SENTINEL", "MASTER", name)
                )
        except (RedisError, OSError, TimeoutError) as error:
            return f"{host}:{port} does not answer ({error or type(error).__name__})"
        if not isinstance(address, list) or not isinstance(facts, list):
            return f"{host}:{port} does not know it ({facts})"
        epoch = dict(zip(facts[::2], facts[1::2], strict=True))["config-epoch"]
        return int(epoch), (address[0], int(address[1]))


class Cluster(Topology):
    """The masters of a Cluster by hash slot (CLUSTER SLOTS), refreshed after `distrust`."""

    probe = ("CLUSTER", "INFO")

    def __init__(self, url: RedisUrl) -> None:
        self._url = url
        self._nodes = Nodes(url.settings)
        self._slots: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._is_current = False
        # The nodes that probably know the last change, and that probably do not.
        self._ask_first: Address | None = None
        self._ask_last: Address | None = None
        self._asking = asyncio.Lock()

    async def node(self, key: str | None) -> Node:
        if not self._is_current:
            async with self._asking:
                if not self._is_current:
                    await self._learn()
        if key is None:
            return self._nodes.at(random.choice(sorted(self._masters())))
        slot = key_slot(key.encode())
        address = self._slots[slot]
        if address is None:
            self._is_current = False
            raise Unreachable(f"no node of the Cluster serves the slot {slot}")
        return self._nodes.at(address)

    async def one_key_for_each_master(self, prefix: str) -> list[str]:
        await self.node(None)
        keys: dict[Address, str] = {}
        missing = self._masters()
        # Hashes are distributed evenly: a few attempts per master, unless one has few slots.
        for number in range(REDIS_CLUSTER_HASH_SLOTS):
            key = f"{prefix}:{number}"
            if (address := self._slots[key_slot(key.encode())]) in missing:
                missing.remove(address)
                keys[address] = key
            if not missing:
                break
        return list(keys.values())

    def distrust(self, node: Node) -> None:
        self._ask_last = node.address
        self._is_current = False

    def redirect(self, node: Node, error: AskError) -> Node:
        return self._nodes.at((error.host or node.address[0], error.port))

    def moved(self, node: Node, error: MovedError) -> None:
        self._ask_first = (error.host or node.address[0], error.port)
        self._slots[error.slot_id] = self._ask_first
        self._is_current = False

    def serves(self, node: Node) -> bool:
        return self._nodes.holds(node)

    def make_raw(self) -> Any:
        nodes = [ClusterNode(host, port) for host, port in self._url.addresses]
        return RedisCluster(startup_nodes=nodes, **_plain_settings(self._url.settings))

    async def aclose(self) -> None:
        await self._nodes.keep(())

    def _masters(self) -> set[Address]:
        return {address for address in self._slots if address is not None}

    async def _learn(self) -> None:
        failures = []
        for address in self._nodes_to_ask():
            node = self._nodes.at(address)
            try:
                async with asyncio.timeout(_ASK_TIMEOUT_S):
                    [ranges] = await node.ask(("CLUSTER", "SLOTS"))
            except (RedisError, OSError, TimeoutError) as error:
                failures.append(f"{node.name}: {error or type(error).__name__}")
                continue
            if isinstance(ranges, ResponseError):
                raise ranges
            if ranges:
                break
            failures.append(f"{node.name} knows of no slots")
        else:
            raise Unreachable(f"no node of the Cluster answers: {failures}")
        self._slots = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            # A node that does not know its own host omits it: it is the one that was asked.
            self._slots[first : last + 1] = [(host or node.address[0], port)] * (last + 1 - first)
        # Set before the await below, during which `distrust` may be called.
        self._is_current, self._ask_first, self._ask_last = True, None, None
        await self._nodes.keep(self._masters())

    def _nodes_to_ask(self) -> Iterator[Address]:
        """All known nodes, the best first, without duplicates."""
        known = [*self._masters(), *self._url.addresses]
        random.shuffle(known)
        known.sort(key=lambda address: address == self._ask_last)
        if self._ask_first is not None:
            known.insert(0, self._ask_first)
        yield from dict.fromkeys(known)


def _plain_settings(settings: Any) -> dict[str, Any]:
    """The settings in the form of redis-py's Sentinel and RedisCluster."""
    plain = {
        name: settings[name] for name in settings if name not in ("connection_class", "timeout")
    }
    return plain | {"ssl": True} if settings["connection_class"] is SSLConnection else plain
