"""Whether the worker that holds a turn's lease has died, by its heartbeats and its subscription.

    silence        each write of a holder renews its lease; without writes it renews it each second
    subscription   each worker subscribes to a channel of its own; when its process ends, the
                   kernel closes the connection, and Redis ends the subscription

A holder that is silent for `SILENT_S` loses its turn, for any reason: a stopped process and a
network that drops packets keep the connection open. If its subscription is gone as well, `GONE_S`
is enough.

Neither proves its death, and no proof is needed: a turn is taken over by a script that refuses if
the holder has sent a heartbeat meanwhile, and the new fence refuses every later write of the old
holder. A wrong guess costs the restart of a step, so the bounds are chosen such that a living
holder meets neither:

- A renewal is due each second. With `SILENT_S` two in a row are missing; with `GONE_S` one is a
  quarter of a second late.
- An outage ends all subscriptions and all renewals. A lost subscription is retried every 0.3 s
  (`Subscriber`), a failed renewal within 0.5 s; so each living holder has both again when Redis has
  answered for `_BACK_S`. Silence alone counts only from the end of the outage
  (`TurnIndex.steady_s`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from agent_worker.sessions import PubSub
    from agent_worker.sessions.turn_index import TurnIndex

#: Seconds. With either, the pause that a client sees when a worker dies is below 4 s.
SILENT_S, GONE_S = 2.5, 1.25
_BACK_S = 1.5  # on a busy machine the subscription of a living worker was back after 1.06 s
# Seconds to ask for a subscription.
_ASK_S = 0.5


def worker_channel(name: str) -> str:
    """The channel to which the worker of that name is subscribed while it runs."""
    return f"hermes:worker:{name}"


class Holders:
    def __init__(self, pubsub: PubSub, index: TurnIndex) -> None:
        self._pubsub = pubsub
        self._index = index

    @property
    def sure_s(self) -> float | None:
        """The silence after which any holder loses its turn; None while no silence is certain."""
        return SILENT_S if self._index.steady_s >= SILENT_S else None

    @property
    def least_s(self) -> float:
        """The least silence of a holder that loses its turn."""
        return min(SILENT_S, GONE_S)

    async def wait_s(self, name: str, silent_s: float) -> float:
        """Seconds until the holder `name`, silent for `silent_s`, may have lost its turn.

        0: it has. Otherwise ask again then.
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
        """Also true if Redis does not answer."""
        try:
            async with asyncio.timeout(_ASK_S):
                return await self._pubsub.subscribers(worker_channel(name)) > 0
        except (RedisError, OSError, TimeoutError):
            return True
