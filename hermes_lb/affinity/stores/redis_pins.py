"""The pins of a backend in Redis, as operators see and clear them."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from hermes_lb.affinity.stores.base import CLEARED
from hermes_lb.affinity.stores.redis import connected, redis_key
from hermes_lb.affinity.stores.stored_pins import StoreAway, StoredPins

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from redis.typing import EncodableT

# Seconds for one command.
_PATIENCE: Final = 2.0
# Keys that one SCAN looks at, and about as many that one script changes: they block the server for
# 0.2 and for 1.2 ms, and their replies this process for less.
_COUNT: Final = 500
_ID: Final = re.compile("[0-9a-f]{32}")  # `pin_id`

# A pin whose server has changed since it was read is judged by the new one.
_CLEAR: Final = """
local cleared = 0
for _, key in ipairs(KEYS) do
  local name = redis.call('GET', key)
  if name and name ~= '' and (ARGV[2] == nil or name == ARGV[2]) then
    redis.call('SET', key, '', 'PX', ARGV[1])
    cleared = cleared + 1
  end
end
return cleared
"""


class RedisPins(StoredPins):
    """Of the backend `name`, with `expire` in seconds."""

    def __init__(self, name: str, url: str, expire: float) -> None:
        self._name = name
        self._expire_ms = max(1, int(expire * 1000))
        self._redis = connected(url, _PATIENCE, retry=Retry(NoBackoff(), 0))

    async def pins(
        self, server: str | None, pin: str | None
    ) -> AsyncGenerator[list[tuple[str, str]]]:
        seen: set[str] = set()  # SCAN may return a key twice
        async for keys in self._keys(pin):
            new = [key for key in keys if key not in seen]
            seen.update(new)
            names = await self._ask("MGET", *new) if new else []
            yield [
                (key.rpartition(":")[2], name)
                for key, name in zip(new, names, strict=True)
                if name not in (None, CLEARED) and server in (None, name)
            ]

    async def clear(self, server: str | None, pin: str | None) -> AsyncGenerator[int]:
        of_server = () if server is None else (server,)
        async for keys in self._keys(pin):
            yield await self._ask("EVAL", _CLEAR, len(keys), *keys, self._expire_ms, *of_server)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _keys(self, pin: str | None) -> AsyncIterator[list[str]]:
        """In parts: the one key of that id, or all of the backend."""
        if pin is not None:
            if _ID.fullmatch(pin):
                yield [redis_key(self._name, pin)]
            return
        cursor, pattern = 0, redis_key(self._name, "?" * 32)
        while True:
            cursor, keys = await self._ask("SCAN", cursor, "MATCH", pattern, "COUNT", _COUNT)
            if keys:
                yield keys
            if cursor == 0:
                return

    async def _ask(self, *command: EncodableT) -> Any:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
        except TimeoutError:
            raise StoreAway(f"it does not answer within {_PATIENCE:g} s") from None
        except (RedisError, OSError) as error:
            raise StoreAway(str(error) or "it does not answer") from None
