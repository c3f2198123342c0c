"""A `Watch` that runs, with the changes that it has reported."""

from __future__ import annotations

from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any

from hermes_lb.discovery.sources.options import DiscoveryOptions
from hermes_lb.discovery.watch import Delta, Watch
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb.discovery.sources.base import Source


class Followed:
    def __init__(self, options: dict[str, Any], source: Source | None = None) -> None:
        self.deltas: list[Delta] = []
        self.watch = Watch(
            "agents",
            DiscoveryOptions.model_validate(options),
            lambda backend, delta: self.deltas.append(delta),
            rng=Random(0),
            source=source,
        )

    @property
    def addresses(self) -> dict[str, str]:
        return {name: str(server.address) for name, server in self.watch.servers.items()}

    def is_at(self, addresses: dict[str, str]) -> bool:
        return self.addresses == addresses


@asynccontextmanager
async def followed(
    options: dict[str, Any], source: Source | None = None
) -> AsyncIterator[Followed]:
    found = Followed(options, source)
    tasks = Tasks()
    tasks.spawn(found.watch.run(), name="watch")
    try:
        yield found
    finally:
        await tasks.cancel_all()
