"""/api/v1/turns: the turns in the store, of all balancers that share it."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from hermes_lb.control import shapes
from hermes_lb.control.endpoints import delete, get
from hermes_lb.control.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from hermes_lb.control.operator import Operator
    from hermes_lb.turns.store.inventory import Inventory

logger = logging.getLogger("hermes_lb.admin")


class TurnsApi:
    """The handlers."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    @asynccontextmanager
    async def _inventory(self) -> AsyncIterator[Inventory]:
        # Here, as hiredis is for those who have turns.
        from hermes_lb.turns.ports import StoreAway
        from hermes_lb.turns.store.inventory import Inventory

        inventory = Inventory(self._operator.turn_store_url())
        try:
            yield inventory
        except StoreAway as error:
            raise ApiError(503, f"the store of turns can't be reached: {error}") from None
        finally:
            await inventory.close()

    @get(
        "turns", "Turns in the store, newest first, of all balancers that share it",
        answers=shapes.Turns, query=shapes.WhichTurns, errors=(409, 503),
    )  # fmt: skip
    async def turns(self, request: web.Request, which: shapes.WhichTurns) -> shapes.Turns:
        async with self._inventory() as inventory:
            rows = await inventory.turns(which.id, which.limit)
        return {"turns": cast("list[shapes.Turn]", rows)}

    @delete(
        "turns", "Cancel and delete all turns of a principal, with their responses",
        answers=shapes.Purged, query=shapes.WhichPrincipal, errors=(409, 503),
    )  # fmt: skip
    async def purge(self, request: web.Request, which: shapes.WhichPrincipal) -> shapes.Purged:
        async with self._inventory() as inventory:
            count = await inventory.purge(which.principal)
        logger.info("principal %s: %d turns were deleted by an operator", which.principal, count)
        return {"purged": count}

    @delete(
        "turns/{id}", "Ask for the cancellation of a turn; the id is as the list shows it",
        answers=shapes.Cancelled, errors=(404, 409, 503),
    )  # fmt: skip
    async def cancel(self, request: web.Request) -> shapes.Cancelled:
        turn = request.match_info["id"]
        async with self._inventory() as inventory:
            count = await inventory.cancel(turn)
        if not count:
            raise ApiError(404, "there is no turn whose id begins so")
        logger.info("turn %s: its cancellation was asked for by an operator", turn)
        return {"cancelled": count}
