"""Scripts for the tests, and the callbacks of a subscriber."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from agent_worker.sessions.scripts import Script

if TYPE_CHECKING:
    from agent_worker.sessions import RedisBackend
    from agent_worker.sessions.subscriber import Subscriber

#: Each run is counted, so that a repetition shows.
COUNT = Script.of("count", "return redis.call('INCR', KEYS[1])")
#: Like the store's scripts: a repetition finds its work done, and writes nothing.
ONCE = Script.of(
    "once",
    "if redis.call('SET', KEYS[1], ARGV[1], 'NX') then return 'written' end\n"
    "return 'as before: ' .. redis.call('GET', KEYS[1])",
)
READ = Script.of("read", "return redis.call('GET', KEYS[1])")
#: -> number of receivers on the server that ran it
PUBLISH = Script.of("publish", "return redis.call('PUBLISH', ARGV[1], ARGV[2])")
FAIL = Script.of("fail", "return redis.error_reply('ODD out of luck')")


@dataclass
class Heard:
    """The callbacks of a subscriber."""

    messages: list[tuple[str, str]] = field(default_factory=list)
    reconnections: int = 0

    def subscribe_with(self, client: RedisBackend) -> Subscriber:
        return client.subscriber(on_message=self.message, on_reconnected=self.reconnected)

    def message(self, channel: str, data: str) -> None:
        self.messages.append((channel, data))

    def reconnected(self) -> None:
        self.reconnections += 1


async def publish(client: RedisBackend, channel: str, data: str) -> None:
    await client.run(PUBLISH, ["{any}"], [channel, data])


async def soon(client: RedisBackend, script: Script, key: str, *args: str) -> object:
    """Retry it while Redis is away, as a turn does; the test's timeout bounds it."""
    while True:
        try:
            async with asyncio.timeout(5):
                return await client.run(script, [key], args)
        except (RedisError, OSError):
            await asyncio.sleep(0.05)
