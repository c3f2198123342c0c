"""/api/v1/turns: the turns in the store, of all balancers that share it."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from hermes_lb.control.errors import ApiError, number_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hermes_lb.control.operator import Operator
    from hermes_lb.turns.store.inventory import Inventory

logger = logging.getLogger("hermes_lb.admin")

_MOST_ROWS = 1000


class TurnsApi:
    """The handlers."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/turns", self._list),
            web.delete("/api/v1/turns", self._purge),
            web.delete("/api/v1/turns/{id}", self._cancel),
        ]

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

    async def _list(self, request: web.Request) -> web.Response:
        limit = number_of(request, "limit", 100, most=_MOST_ROWS)
        async with self._inventory() as inventory:
            rows = await inventory.turns(request.query.get("id", ""), limit)
        return web.json_response({"turns": rows})

    async def _cancel(self, request: web.Request) -> web.Response:
        turn = request.match_info["id"]
        async with self._inventory() as inventory:
            count = await inventory.cancel(turn)
        if not count:
            raise ApiError(404, "there is no turn whose id begins so")
        logger.info("turn %s: its cancellation was asked for by an operator", turn)
        return web.json_response({"cancelled": count})

    async def _purge(self, request: web.Request) -> web.Response:
        principal = request.query.get("principal", "")
        async with self._inventory() as inventory:
            count = await inventory.purge(principal)
        logger.info("principal %s: %d turns were deleted by an operator", principal, count)
        return web.json_response({"purged": count})
