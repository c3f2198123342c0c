"""Whether the worker that holds a turn's lease has died, judged by two signs of life.

    silence        each write of a holder renews its lease; without one it renews it each second
    subscription   each worker subscribes to a channel of its own; when its process ends, the
                   kernel closes the connection, and Redis ends the subscription

A holder that is silent for `SILENT_S` has lost its turn, whatever the reason: a stopped process and
a network that drops packets keep the connection open. If its subscription is gone as well, `GONE_S`
is enough.

Neither is a proof of death, and none is needed: a turn is taken over by a script that refuses if
the holder was heard of meanwhile, and the new fence refuses every later write of the old holder. A
wrong guess costs a step that begins again, so the two bounds are chosen such that a living holder
meets neither:

- A renewal is due each second. With `SILENT_S` two in a row are missing; with `GONE_S` one is half
  a second late.
- A subscription that breaks is back within 1.1 s (`Subscriber`), a renewal that fails is repeated
  within 0.5 s. So after an outage, which ends all subscriptions and all renewals, each living
  holder has given both signs within `GONE_S`.
- A worker judges others only by time in which Redis has answered itself (`TurnIndex.steady_s`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from agent_worker.sessions import Client
    from agent_worker.sessions.turn_index import TurnIndex

#: Seconds. What a client notices of a death stays below 4 s, with either.
SILENT_S, GONE_S = 2.5, 1.5
# Seconds for the question whether a subscription is there.
_ASK_S = 0.5


def worker_channel(name: str) -> str:
    """The channel that the worker of that name subscribes to for as long as it lives."""
    return f"hermes:worker:{name}"


class Holders:
    def __init__(self, client: Client, index: TurnIndex) -> None:
        self._client = client
        self._index = index

    @property
    def sure_s(self) -> float | None:
        """The silence that costs any holder its turn; None while none is known to be so long."""
        return SILENT_S if self._index.steady_s >= SILENT_S else None

    def silence(self, silent_s: float) -> float:
        """Of the `silent_s` for which a holder was not heard of, the seconds that count."""
        return min(silent_s, self._index.steady_s)

    async def bound_s(self, name: str, silent_s: float) -> float:
        """Seconds of silence that cost the holder `name` its turn; it is silent for `silent_s`.

        Ask again when it is silent for as long: the bound may be `SILENT_S` by then.
        """
        if not name or silent_s >= SILENT_S:
            return SILENT_S
        if silent_s >= GONE_S and await self._is_subscribed(name):
            return SILENT_S
        return GONE_S

    async def _is_subscribed(self, name: str) -> bool:
        """True also if Redis does not say."""
        try:
            async with asyncio.timeout(_ASK_S):
                return await self._client.subscribers(worker_channel(name)) > 0
        except (RedisError, OSError, TimeoutError):
            return True
