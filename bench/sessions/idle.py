"""The cost of an idle session: bytes in Redis, and in the worker."""

from __future__ import annotations

import asyncio
import statistics
from typing import TYPE_CHECKING

from agent_worker.sessions import session_keys

if TYPE_CHECKING:
    from bench.sessions.rig import Rig, Worker

_SESSIONS = 1000
_AT_ONCE = 50
_TURNS = {"no message": 0, "1 turn": 1, "10 turns": 10}


async def measure(rig: Rig) -> dict[str, dict[str, float]]:
    rows = {}
    async with rig.worker() as worker:
        for label, turns in _TURNS.items():
            await _fill(worker, turns)  # what the worker's own allocator takes for good
            memory = (await worker.redis.info("memory"))["used_memory"]
            resident = worker.process.resident_kb()
            sessions = await _fill(worker, turns)
            after = (await worker.redis.info("memory"))["used_memory"]
            rows[label] = {
                "Redis, bytes a session": (after - memory) / _SESSIONS,
                "of its keys, median": statistics.median(
                    [await _size(worker, session_id) for session_id in sessions[:100]]
                ),
                "worker, bytes a session": max(worker.process.resident_kb() - resident, 0)
                * 1024
                / _SESSIONS,
            }
    return rows


async def _fill(worker: Worker, turns: int) -> list[str]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one() -> str:
        async with gate:
            session_id = await worker.new_session()
            for number in range(turns):
                await worker.say(session_id, f"message {number}: how is the weather in Oslo?")
            return session_id

    return await asyncio.gather(*(one() for _ in range(_SESSIONS)))


async def _size(worker: Worker, session_id: str) -> int:
    sizes = [await worker.redis.memory_usage(key) for key in session_keys(session_id)]
    return sum(size or 0 for size in sizes)
