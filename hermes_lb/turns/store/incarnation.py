"""This process, as other balancers see it: a key with a counter that it raises with each beat.

A key that is gone may have been observed as gone by others, so the process takes a new incarnation,
and verifies all turns that it owns: `on_new` starts that.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Final

from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.store.keys import alive_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.turns.store.client import StoreClient
    from hermes_lb.turns.store.timing import Timing

logger = logging.getLogger("hermes_lb.turns")

#: The value of a process that has ended, as its supervisor or itself has written it.
RETIRED: Final = b"retired"
# Seconds. An observer that comes later has to wait for a whole lease.
_RETIRED_KEPT: Final = 3600


class Incarnation:
    """`run` it as a task."""

    def __init__(self, client: StoreClient, timing: Timing, on_new: Callable[[], None]) -> None:
        self.id = _new_id()
        self._client = client
        self._timing = timing
        self._on_new = on_new
        self._beats = 0
        self._is_known = False

    def __repr__(self) -> str:
        return f"<Incarnation {self.id[:8]} {self._beats}>"

    async def known(self) -> str:
        """The id, once other processes can observe it. Raises StoreAway."""
        if not self._is_known:
            await self.beat()
        return self.id

    async def run(self) -> None:
        while True:
            pause = self._timing.beat
            try:
                await self.beat()
            except StoreAway:
                pause /= 5  # a beat may still be in time
            except Exception:  # without beats all turns of this process would be lost
                logger.exception("a beat of the store of turns failed")
            await asyncio.sleep(pause)

    async def retire(self) -> None:
        """No turn of it is left. Raises StoreAway."""
        await retire(self._client, self.id)

    async def beat(self) -> None:
        """Raises StoreAway."""
        key = alive_key(self.id)
        self._beats += 1
        life = ("PX", int(self._timing.lease * 1000))
        if not self._is_known:
            await self._client.ask(key, "SET", key, self._beats, *life)
            self._is_known = True
        elif await self._client.ask(key, "SET", key, self._beats, *life, "XX") is None:
            self.id = _new_id()
            self._is_known = False
            await self.beat()
            self._on_new()


async def retire(client: StoreClient, incarnation: str) -> None:
    """The process of the incarnation has ended: its turns are lost or released at once.

    A deleted key would not show it: it may also have expired while the store was away.
    """
    key = alive_key(incarnation)
    await client.ask(key, "SET", key, RETIRED, "EX", _RETIRED_KEPT)


def _new_id() -> str:
    return secrets.token_hex(16)
