"""All shared stores, each with the key of `[backends.NAME.pins]` that selects it.

A new one is a file for the data path, one for operators, and a key and two branches here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from hermes_lb.options.patterns import pattern
from hermes_lb.options.section import Section
from hermes_lb.options.units import PositiveDuration

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.affinity.stores.base import SharedStore
    from hermes_lb.affinity.stores.stored_pins import StoredPins
    from hermes_lb.tasks import Tasks

_REDIS_URL = pattern(r"^(rediss?|unix)://\S+$", "a URL such as redis://127.0.0.1:6379/0")


class TableOptions(Section):
    """`[backends.NAME.pins]`: the session table, for all stick rules of a backend."""

    size: int = Field(100_000, ge=1, le=10_000_000)
    expire: PositiveDuration = 3600.0
    redis: str | None = Field(None, pattern=_REDIS_URL, repr=False)  # may have a password
    redis_file: str | None = Field(None, min_length=1)

    @property
    def has_store(self) -> bool:
        """Whether another system keeps the table, for several balancers."""
        return self.redis is not None


def open_store(
    backend: str, options: TableOptions, clock: Callable[[], float], tasks: Tasks
) -> SharedStore | None:
    """The store that the options select; None: the table is in memory."""
    if options.redis is not None:
        # Here, as a configuration is validated without redis-py.
        from hermes_lb.affinity.stores.redis import RedisStore

        return RedisStore(backend, options.redis, options.expire, clock, tasks)
    return None


def open_pins(backend: str, options: TableOptions) -> StoredPins | None:
    """The pins in the store that the options select, for an operator; None: there is no store."""
    if options.redis is not None:
        from hermes_lb.affinity.stores.redis_pins import RedisPins

        return RedisPins(backend, options.redis, options.expire)
    return None
