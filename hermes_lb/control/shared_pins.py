"""The pins that backends keep in shared stores: other balancers use them, too."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.affinity.stores.registry import open_pins
from hermes_lb.affinity.stores.stored_pins import StoreAway
from hermes_lb.control.operator import KeptPin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb.affinity.stores.registry import TableOptions
    from hermes_lb.affinity.stores.stored_pins import StoredPins
    from hermes_lb.config import Config
    from hermes_lb.control.shapes import WhichPins

# Seconds: for the list of each backend, and for clearing all of them, 100,000 pins a second. `ctl`
# waits longer (`hermes_lb.ctl.client`).
_LISTING_TAKES, _CLEARING_TAKES = 1.0, 60.0


class Found(NamedTuple):
    """Of one backend; `because` says why there may be more: empty, if these are all."""

    pins: list[KeptPin]
    because: str


class Cleared(NamedTuple):
    """Of one backend; `because` says why not all are cleared: empty, if they are."""

    number: int
    because: str


class SharedPins:
    """Those of a configuration. Nothing is raised: what failed is in the results, by backend."""

    def __init__(self, config: Config) -> None:
        self._tables = {n: one.pins for n, one in config.backends.items() if one.pins.has_store}

    @property
    def backends(self) -> list[str]:
        """Those that keep their pins in a store."""
        return list(self._tables)

    async def find(self, which: WhichPins) -> dict[str, Found]:
        """Up to `which.limit` of each backend."""
        chosen = self._chosen(which)
        found = await asyncio.gather(*(self._find(name, which) for name in chosen))
        return dict(zip(chosen, found, strict=True))

    async def _find(self, name: str, which: WhichPins) -> Found:
        found: list[KeptPin] = []
        try:
            async with (
                asyncio.timeout(_LISTING_TAKES),
                self._opened(name) as stored,
                aclosing(stored.pins(which.server, which.id)) as parts,
            ):
                async for part in parts:
                    found += (KeptPin(pin, name, server) for pin, server in part)
                    if len(found) > which.limit:
                        return Found(found[: which.limit], "there are more")
        except StoreAway as error:
            return Found(found, str(error))
        except TimeoutError:
            return Found(found, f"not read to its end within {_LISTING_TAKES:g} s")
        return Found(found, "")

    async def clear(self, which: WhichPins) -> dict[str, Cleared]:
        """One backend after the other, as several may have one store."""
        deadline = asyncio.get_running_loop().time() + _CLEARING_TAKES
        return {name: await self._clear(name, which, deadline) for name in self._chosen(which)}

    async def _clear(self, name: str, which: WhichPins, deadline: float) -> Cleared:
        number = 0
        try:
            async with (
                asyncio.timeout_at(deadline),
                self._opened(name) as stored,
                aclosing(stored.clear(which.server, which.id)) as parts,
            ):
                async for part in parts:
                    number += part
        except StoreAway as error:
            return Cleared(number, str(error))
        except TimeoutError:
            return Cleared(number, f"the {_CLEARING_TAKES:g} s for all backends are over")
        return Cleared(number, "")

    def _chosen(self, which: WhichPins) -> list[str]:
        return [name for name in self._tables if which.backend in (None, name)]

    @asynccontextmanager
    async def _opened(self, name: str) -> AsyncIterator[StoredPins]:
        # In a thread, as redis-py may have to be imported: a sixth of a second.
        stored = await asyncio.to_thread(_open, name, self._tables[name])
        try:
            yield stored
        finally:
            await stored.close()


def _open(name: str, options: TableOptions) -> StoredPins:
    stored = open_pins(name, options)
    assert stored is not None, "the backend has no store"
    return stored
