"""Turns in the store as operators see them: ids are shortened, and nothing of a body is read."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import hiredis

from hermes_lb.turns import states
from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.states import ENDED
from hermes_lb.turns.store.client import StoreClient
from hermes_lb.turns.store.control import Control
from hermes_lb.turns.store.keys import (
    incarnation_channel,
    is_principal_prefix,
    journal_keys,
    principal_keys,
    turn_key_pattern,
)
from hermes_lb.turns.store.scripts import script
from hermes_lb.turns.store.stored import StoredTurn, read_stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_FENCE_OFF: Final = script("fence_off")
# Keys that one SCAN looks at; it blocks the server for less than a millisecond.
_COUNT: Final = 500
#: Characters of a turn's id that are shown: the principal's part, and 40 of 130 bits. Nothing can
#: be resumed or found by it.
SHOWN: Final = 24


class Inventory:
    """`close` it. All methods raise StoreAway."""

    def __init__(self, url: str) -> None:
        self._client = StoreClient(url)
        self._woken: list[tuple[str, str]] = []
        self._control = Control(self._client, lambda *woken: self._woken.append(woken))

    async def close(self) -> None:
        await self._client.close()

    async def turns(self, prefix: str, limit: int) -> list[dict[str, Any]]:
        """Those whose id begins with `prefix` (a principal, or a shortened id), newest first."""
        found = [_described(stored) async for stored in self._stored(prefix)]
        found.sort(key=lambda row: row["begun_at"], reverse=True)
        return found[:limit]

    async def cancel(self, shown: str) -> int:
        """Ask for the cancellation of the turns with this shortened id -> their number."""
        count = 0
        async for stored in self._stored(shown):
            await self._control.cancel(stored.name)
            count += 1
        await self._notify()
        return count

    async def purge(self, principal: str) -> int:
        """Delete all that is stored of a principal -> the number of its turns. Those that run are
        cancelled first; their owners then find that they are gone, and stop."""
        if not is_principal_prefix(principal):
            return 0
        turns = [stored async for stored in self._stored(principal)]
        for stored in turns:
            await self._control.cancel(stored.name)
        await self._notify()
        for stored in turns:
            own, events = journal_keys(stored.record.id)
            if stored.record.state in ENDED:
                await self._client.ask(own, "DEL", own)
            else:  # its owner would write it again
                publish = "SPUBLISH" if self._client.topology.is_sharded else "PUBLISH"
                await self._client.run(_FENCE_OFF, (own, events), ("purged", publish, ""))
            await self._client.ask(events, "DEL", events)
        async for key in self._keys(principal_keys(principal)):
            await self._client.ask(key, "DEL", key)
        return len(turns)

    async def _stored(self, prefix: str) -> AsyncIterator[StoredTurn]:
        if prefix and not prefix.isalnum():
            return
        async for key in self._keys(turn_key_pattern(prefix)):
            turn = key.rpartition(":")[2]
            stored = read_stored(turn, await self._control.find(turn))
            if stored is not None:
                yield stored

    async def _keys(self, pattern: str) -> AsyncIterator[str]:
        seen: set[bytes] = set()  # SCAN may return a key twice
        try:
            async with asyncio.timeout(self._client.patience):
                masters = await self._client.topology.masters()
        except (OSError, TimeoutError) as error:
            raise StoreAway(str(error)) from None
        for master in masters:
            cursor = b"0"
            while True:
                try:
                    async with asyncio.timeout(self._client.patience):
                        [reply] = await (await master.link()).ask(
                            [("SCAN", cursor, "MATCH", pattern, "COUNT", _COUNT)]
                        )
                except (OSError, TimeoutError) as error:
                    raise StoreAway(str(error)) from None
                if isinstance(reply, hiredis.ReplyError):
                    raise StoreAway(str(reply))
                cursor, keys = reply
                for key in keys:
                    if key not in seen:
                        seen.add(key)
                        yield key.decode()
                if cursor == b"0":
                    break

    async def _notify(self) -> None:
        woken, self._woken = self._woken, []
        with contextlib.suppress(StoreAway):  # owners look by themselves
            for incarnation, turn in woken:
                await self._client.publish(incarnation_channel(incarnation), turn)


def _described(stored: StoredTurn) -> dict[str, Any]:
    record = stored.record
    return {
        "id": record.id[:SHOWN],
        "principal": record.id[:16],
        "state": states.NAMES[record.state],
        "reason": record.reason,
        "server": record.server,
        "has_key": record.has_key,
        "has_session": bool(stored.session),
        "attempt": record.attempt,
        "begun_at": record.begun_at,
        "ended_at": record.ended_at or None,
    }
