"""Whether the worker that holds a turn's lease has died or stands still: its liveness in Redis.

    silence        each write of a holder renews its lease; without writes it renews it each second
    heartbeat      each worker sends one of its own every quarter of a second
    subscription   each worker subscribes to a channel of its own; when its process ends, the
                   kernel closes the connection, and Redis ends the subscription

A holder loses its turn when it is silent for

    `SILENT_S`     for any reason
    `LATE_S`       and its worker's last heartbeat is as old: a stopped process, a lost network
    `GONE_S`       and its subscription and heartbeats have been missing for as long: a process
                   that has ended

None proves its death, and no proof is needed: a turn is taken over by a script that refuses if the
holder has written meanwhile, and the new fence refuses every later write of the old holder. A wrong
guess costs the restart of a step (a `once` call in progress becomes UNKNOWN), so the bounds are
chosen such that a living holder meets none:

- With `SILENT_S` two renewals in a row are missing, with `LATE_S` four heartbeats.
- A living worker replaces a lost subscription at once (`Subscriber`: the first attempt follows
  within 0.07 s, each further one within 0.12 s).
- A subscription alone may be missing because it is not counted: at a node that a failover has
  made a replica.
- An outage ends all heartbeats and subscriptions, including those of the worker that judges. So
  both count only when it has had its own subscription back, and answered heartbeats, for
  `_BACK_S`: a heartbeat and the wait for the answer to one that was sent in the outage. Silence
  alone counts only from the end of the outage (`TurnIndex.steady_s`).

A worker of an earlier version has no heartbeat of its own; then the others count.
"""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from redis.exceptions import RedisError

from agent_worker.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent_worker.runtime.notifier import Notifier
    from agent_worker.sessions import SessionBackend
    from agent_worker.sessions.turn_index import TurnIndex

T = TypeVar("T")

#: Seconds. With any, the pause that a client sees when a worker dies is below 4 s.
SILENT_S, LATE_S, GONE_S = 2.5, 1.25, 0.5
_BACK_S = 0.75
# Seconds between two heartbeats, and to wait for the answer to one, or to a question.
_BEAT_S, _ASK_S = 0.25, 0.5
# Seconds after which an observation is too old to be continued: the subscription may have been
# there meanwhile.
_OBSERVED_S = 2.0


class _Missing(NamedTuple):
    """A subscription that did not exist at both times, in monotonic seconds."""

    first: float
    last: float


class _Liveness(NamedTuple):
    """Of a worker, in seconds. `missing_s` is 0.0 if Redis did not say."""

    missing_s: float
    #: None if it has sent none, or Redis did not say.
    beat_age_s: float | None


def worker_channel(name: str) -> str:
    """The channel to which the worker of that name is subscribed while it runs."""
    return f"hermes:worker:{name}"


class Holders:
    def __init__(self, backend: SessionBackend, index: TurnIndex, notifier: Notifier) -> None:
        self._backend = backend
        self._index = index
        self._notifier = notifier
        # By the worker's name.
        self._missing: dict[str, _Missing] = {}
        self._asking: dict[str, asyncio.Task[_Liveness]] = {}

    async def run(self, name: str) -> None:
        """Send the heartbeats of the worker `name` until cancelled."""
        task = asyncio.current_task()
        assert task is not None
        # redis-py may swallow a cancellation while it connects.
        while not task.cancelling():
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(_ASK_S):
                    await self._backend.beat(name)
            await asyncio.sleep(_BEAT_S)

    @property
    def sure_s(self) -> float | None:
        """The silence after which any holder loses its turn; None while no silence is certain."""
        return SILENT_S if self._index.steady_s >= SILENT_S else None

    @property
    def least_s(self) -> float:
        """The least silence of a holder that loses its turn."""
        return min(SILENT_S, LATE_S, GONE_S)

    async def wait_s(self, name: str, silent_s: float) -> float:
        """Seconds until the holder `name`, silent for `silent_s`, may have lost its turn.

        0: it has. Otherwise ask again then.
        """
        steady_s = self._index.steady_s
        left_s = SILENT_S - min(silent_s, steady_s)
        if left_s > 0.0 and name:
            left_s = min(left_s, await self._until_dead_s(name, silent_s, steady_s))
        return max(left_s, 0.0)

    async def _until_dead_s(self, name: str, silent_s: float, steady_s: float) -> float:
        """The same by heartbeat and subscription, which an outage ends."""
        until_judged_s = _BACK_S - min(steady_s, self._notifier.live_s)
        if until_judged_s > GONE_S:
            return until_judged_s - GONE_S
        # Shared by all that follow a turn of this worker.
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = spawn(self._ask(name), name="liveness")
            asking.add_done_callback(lambda _: self._asking.pop(name))
        liveness = await asyncio.shield(asking)
        beat_age_s = liveness.beat_age_s
        until_late_s = LATE_S - min(beat_age_s or 0.0, silent_s)
        if beat_age_s is None:
            beat_age_s = silent_s
        until_gone_s = GONE_S - min(liveness.missing_s, beat_age_s, silent_s)
        return max(min(until_gone_s, until_late_s), until_judged_s)

    async def _ask(self, name: str) -> _Liveness:
        asked_at = monotonic()
        subscribers, beat_age_s = await asyncio.gather(
            _answered(self._backend.subscribers, worker_channel(name)),
            _answered(self._backend.beat_age_s, name),
        )
        missing_s = self._missing_for_s(name, asked_at, is_missing=subscribers == 0)
        return _Liveness(missing_s, beat_age_s)

    def _missing_for_s(self, name: str, asked_at: float, *, is_missing: bool) -> float:
        """Seconds between the first observation of these in a row and the last."""
        oldest = asked_at - _OBSERVED_S
        kept = {key: missing for key, missing in self._missing.items() if missing.last >= oldest}
        before = kept.pop(name, None)
        self._missing = kept
        if not is_missing:
            return 0.0
        # From the end of the first question to the begin of the last.
        first = before.first if before is not None else monotonic()
        kept[name] = _Missing(first, max(first, asked_at))
        return kept[name].last - first


async def _answered(question: Callable[[str], Awaitable[T]], about: str) -> T | None:
    """None if Redis does not say, which is no sign of death."""
    try:
        async with asyncio.timeout(_ASK_S):
            return await question(about)
    except (RedisError, OSError, TimeoutError):
        return None
