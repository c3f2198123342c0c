"""The server that holds a key. An operation that fails calls `distrust`; the next looks it up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hermes_lb.turns.store.link import LinkLost
from hermes_lb.turns.store.login import Login
from hermes_lb.turns.store.node import Node

if TYPE_CHECKING:
    from collections.abc import Collection

    from hermes_lb.turns.store.url import Address, StoreUrl


class Topology:
    #: Another server may replace one that is lost: wait for it.
    has_failover = True
    #: Its channels are sharded: a message is received only at the node that holds the channel.
    is_sharded = False

    def __init__(self, url: StoreUrl) -> None:
        self._url = url
        self._login = Login(url.server)
        self._sentinel_login = Login(url.sentinel)
        self._nodes: dict[Address, Node] = {}
        self._asking = asyncio.Lock()  # one caller asks; the others wait for its result
        self._is_closed = False

    def renew(self, url: StoreUrl) -> None:
        """New connections log in as this URL of the same store says."""
        self._login.renew(url.server)
        self._sentinel_login.renew(url.sentinel)

    async def try_login(self) -> None:
        """Raises OSError if one of the masters does not accept the present credentials."""
        for node in await self.masters():
            await node.try_login()

    async def node(self, key: str) -> Node:
        """The master that holds `key`. Raises OSError."""
        raise NotImplementedError

    async def masters(self) -> list[Node]:
        """All that hold keys. Raises OSError."""
        return [await self.node("")]

    def distrust(self, node: Node) -> None:
        """`node` does not answer, or is not the master: close it, and look it up again."""
        node.abort()

    def at(self, address: Address) -> Node:
        """A server by its address, for a redirection."""
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Node(address, self._login)
            if self._is_closed:
                node.close()  # for an operation that still has attempts left
        return node

    def moved(self, slot: int, address: Address) -> None:
        """A node has reported that another one holds the slot."""

    def keep(self, addresses: Collection[Address]) -> None:
        """Close and forget all other nodes."""
        for address in [each for each in self._nodes if each not in addresses]:
            self._nodes.pop(address).close()

    def close(self) -> None:
        self._is_closed = True
        self.keep(())


class OneServer(Topology):
    has_failover = False

    async def node(self, key: str) -> Node:
        return self.at(self._url.addresses[0])


async def ask_one(address: Address, login: Login, *words: str) -> object:
    """One command to a server or Sentinel of which nothing else is wanted. Raises OSError."""
    node = Node(address, login, is_store=False)
    try:
        link = await node.link()
        [reply] = await link.ask([words])
    finally:
        node.close()
    if isinstance(reply, Exception):
        raise LinkLost(f"{node.name}: {reply}")
    return reply
