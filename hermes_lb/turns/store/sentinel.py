"""The named master of a group of Sentinels.

https://redis.io/docs/latest/develop/reference/sentinel-clients/, but all Sentinels are asked, and
the answer with the highest configuration epoch counts: a Sentinel that was partitioned still names
the old master. A master that is demoted later drops its clients, or answers READONLY.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from hermes_lb.turns.store.link import LinkLost
from hermes_lb.turns.store.node import Node
from hermes_lb.turns.store.topology import Topology, ask_one

if TYPE_CHECKING:
    from hermes_lb.turns.store.url import Address

# Seconds. A Sentinel answers in a millisecond; one that hangs must not use up the caller's time.
_PATIENCE: Final = 0.5


class SentinelMaster(Topology):
    _master: Node | None = None

    async def node(self, key: str) -> Node:
        if self._master is None:
            async with self._asking:
                if self._master is None:
                    self._master = await self._find()
        return self._master

    def distrust(self, node: Node) -> None:
        super().distrust(node)
        if node is self._master:
            self._master = None

    async def try_login(self) -> None:
        """The Sentinels, too: they are asked again only when the master is lost."""
        await super().try_login()
        for address in self._url.addresses:
            await Node(address, self._sentinel_login, is_store=False).try_login()

    async def _find(self) -> Node:
        answers = await asyncio.gather(*map(self._ask, self._url.addresses))
        known = [answer for answer in answers if not isinstance(answer, str)]
        if not known:
            raise LinkLost(f"no Sentinel knows the master: {'; '.join(map(str, answers))}")
        _, address = max(known)
        node = self.at(address)
        [role] = await (await node.link()).ask([("ROLE",)])
        if not isinstance(role, list) or role[0] != b"master":
            self.distrust(node)
            raise LinkLost(f"{node.name} is not the master yet")
        self.keep((address,))
        return node

    async def _ask(self, sentinel: Address) -> tuple[int, Address] | str:
        """(epoch, address) of the master, or why it is unknown."""
        words = ("SENTINEL", "MASTER", self._url.master_name)
        try:
            async with asyncio.timeout(_PATIENCE):
                reply = await ask_one(sentinel, self._sentinel_login, *words)
        except (OSError, TimeoutError) as error:
            return f"{sentinel[0]}:{sentinel[1]} {error or 'does not answer'}"
        assert isinstance(reply, list)
        facts = dict(zip(reply[::2], reply[1::2], strict=True))
        return int(facts[b"config-epoch"]), (facts[b"ip"].decode(), int(facts[b"port"]))
