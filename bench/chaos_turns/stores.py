"""The store of a run, and how it fails: one server on its file, or a Sentinel's failover."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Self

from bench.chaos_sessions.backends import Sentinel
from bench.chaos_streams.store import Store

if TYPE_CHECKING:
    import random
    from pathlib import Path

_DOWN = (0.0, 1.0)  # s


class Durable(Store):
    """One server that keeps what it has acknowledged: it is killed, and started on its file."""

    name: ClassVar[str] = "durable"

    async def fail(self, rng: random.Random) -> str:
        """-> what happened."""
        self.kill()
        await asyncio.sleep(rng.uniform(*_DOWN))
        await self.start()
        return "stores killed and restarted"


class Failover(Sentinel):
    """A master and one replica, which must have a keyed turn before it is sent (`WAIT 1`)."""

    name: ClassVar[str] = "sentinel"
    REPLICAS = 1

    def __init__(self, folder: Path) -> None:
        super().__init__(is_guarded=False)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    async def __aexit__(self, *reason: Any) -> None:
        await super().__aexit__(*reason)

    async def fail(self, rng: random.Random) -> str:
        """-> what happened."""
        [what] = await self.inflict(rng.choice(("kill", "freeze")), rng)
        return what


STORES = {kind.name: kind for kind in (Durable, Failover)}
