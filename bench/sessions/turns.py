"""One turn after another: round trips to Redis, time, CPU."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.sessions.rig import Rig

_TURNS = 300
_TURNS_OF_A_SESSION = 20
_KINDS = {
    "a short answer": "hello",
    "one tool": "calculate 2 + 3",
    "two tools together": "what time is it? calculate 2 + 3",
    "100 words": "write 100 words",
}


async def measure(rig: Rig) -> dict[str, dict[str, float]]:
    rows = {}
    async with rig.worker() as worker:
        for label, content in _KINDS.items():
            times = []
            sessions = [await worker.new_session() for _ in range(_TURNS // _TURNS_OF_A_SESSION)]
            await worker.say(sessions[0], content)  # what is loaded only once
            before = await worker.count()
            for session_id in sessions:
                for _ in range(_TURNS_OF_A_SESSION):
                    start = time.perf_counter()
                    await worker.say(session_id, content)
                    times.append(time.perf_counter() - start)
            after = await worker.count()
            rows[label] = {
                "round trips": (after.scripts - before.scripts) / _TURNS,
                "ms, median": statistics.median(times) * 1000,
                "ms, p99": statistics.quantiles(times, n=100)[98] * 1000,
                "Redis, µs": (after.script_us - before.script_us) / _TURNS,
                "worker CPU, µs": (after.worker_us - before.worker_us) / _TURNS,
            }
    return rows
