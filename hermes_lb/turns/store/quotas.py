"""How much of the store principals may use."""

from __future__ import annotations

from typing import Final, NamedTuple


class Quotas(NamedTuple):
    """Of one principal: turns that have not ended, bytes of stored responses; and the waiters of a
    session. In the order of lua/begin.lua."""

    turns: int = 100
    stored: int = 64 * 1024 * 1024
    waiters: int = 16


QUOTAS: Final = Quotas()
