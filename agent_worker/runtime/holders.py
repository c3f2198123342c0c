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

- A renewal is due each second. With `SILENT_S` two in a row are missing; with `GONE_S` one is a
  quarter of a second late.
- An outage ends all subscriptions and all renewals. A subscription that breaks is made again every
  0.3 s (`Subscriber`), a renewal that fails is repeated within 0.5 s; so each living holder has
  given both signs when Redis has answered for `_BACK_S`. Silence alone counts only from the end of
  the outage on (`TurnIndex.steady_s`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from agent_worker.sessions import Client
    from agent_worker.sessions.turn_index import TurnIndex

#: Seconds. What a client notices of a death stays below 4 s, with either.
SILENT_S, GONE_S = 2.5, 1.25
_BACK_S = 1.5  # on a busy machine a living worker's subscription was back after 1.06 s
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

    @property
    def least_s(self) -> float:
        """The silence of each holder that has lost its turn: one heard of meanwhile has not."""
        return min(SILENT_S, GONE_S)

    async def wait_s(self, name: str, silent_s: float) -> float:
        """Seconds until the holder `name`, not heard of for `silent_s`, may have lost its turn.

        0: it has. Else look at it again then.
        """
        steady_s = self._index.steady_s
        left_s = SILENT_S - min(silent_s, steady_s)
        if left_s > 0.0 and name:
            until_gone_s = max(GONE_S - silent_s, _BACK_S - steady_s)
            if until_gone_s > 0.0:
                left_s = min(left_s, until_gone_s)
            elif not await self._is_subscribed(name):
                left_s = 0.0
        return max(left_s, 0.0)

    async def _is_subscribed(self, name: str) -> bool:
        """True also if Redis does not say."""
        try:
            async with asyncio.timeout(_ASK_S):
                return await self._client.subscribers(worker_channel(name)) > 0
        except (RedisError, OSError, TimeoutError):
            return True
