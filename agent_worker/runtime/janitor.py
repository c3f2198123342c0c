"""Removes data that has outlived its session: Redis expires sessions without a notification."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from agent_worker.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

log = logging.getLogger(__name__)

# Twice a day is enough for a retention of a month. Every worker does it, spread by jitter.
_EVERY_S = 12 * 3600.0


async def clean_periodically(tasks: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Run each of `tasks` twice a day, until cancelled."""
    while True:
        await asyncio.sleep(_EVERY_S * random.uniform(0.5, 1.5))
        for task in tasks:
            try:
                await task()
            except AgentError as error:
                log.warning("cleaning is postponed: %s", error)
