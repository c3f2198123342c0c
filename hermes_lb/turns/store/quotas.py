"""How much of the store principals may use, each and together.

Bogus credentials make principals for nothing, so there are limits for all of them as well. Each
process writes what it has every 2 s, and reads the sums: these limits are approximate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hermes_lb.turns.store.keys import GLOBAL_USE
from hermes_lb.turns.store.scripts import script

if TYPE_CHECKING:
    from hermes_lb.turns.store.client import StoreClient

_TOTALS: Final = script("totals")
#: Bytes of a record beside its head, with its keys, as in lua/turn.lua.
RECORD_SIZE: Final = 6144
# Seconds, the precision of the expiry of stored bytes.
_BUCKET: Final = 60


class Quotas(NamedTuple):
    """Turns that have not ended, bytes of stored responses; and waiters: of a session here, of all
    sessions in `TOTAL_QUOTAS`. In the order of lua/begin.lua."""

    turns: int = 100
    stored: int = 64 * 1024 * 1024
    waiters: int = 16


QUOTAS: Final = Quotas()
TOTAL_QUOTAS: Final = Quotas(turns=20_000, stored=8 * 1024**3, waiters=5_000)


class Totals:
    """What this process uses, and all of them together."""

    def __init__(self, client: StoreClient, quotas: Quotas, limits: Quotas) -> None:
        self._client = client
        self._quotas = quotas
        self._limits = limits
        self._stored: dict[int, int] = {}  # bytes by the bucket in which they expire
        self._stored_now = 0  # all of them
        self._others = Quotas(0, 0, 0)

    def store(self, size: int, life: float, now: float) -> None:
        """A turn of this process has ended; this is kept of it for `life` seconds."""
        bucket = int((now + life) // _BUCKET) + 1
        self._stored[bucket] = self._stored.get(bucket, 0) + size
        self._stored_now += size

    def quotas(
        self, turns: int, waiters: int, client_turns: int = 0, client_waiters: int = 0
    ) -> Quotas:
        """For a claim, while this process has these, and its client these of them. Without room a
        turn can be joined only.

        A client may have as many as are free (`limits.FairShare`).
        """
        quotas, others, limits = self._quotas, self._others, self._limits
        stored = others.stored + self._stored_now
        free = limits.turns - others.turns - turns
        if client_turns >= free or stored >= limits.stored:
            quotas = quotas._replace(turns=0)
        if client_waiters >= limits.waiters - others.waiters - waiters:
            quotas = quotas._replace(waiters=0)
        return quotas

    async def update(self, incarnation: str, turns: int, waiters: int, now: float) -> None:
        """Raises StoreAway."""
        for bucket in [each for each in self._stored if each * _BUCKET <= now]:
            self._stored_now -= self._stored.pop(bucket)
        stored = self._stored_now
        total = await self._client.run(_TOTALS, [GLOBAL_USE], (incarnation, turns, waiters, stored))
        self._others = Quotas(
            turns=int(total[0]) - turns,
            stored=int(total[2]) - stored,
            waiters=int(total[1]) - waiters,
        )
