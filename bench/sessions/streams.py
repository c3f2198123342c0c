"""Many turns at once: tokens a second that a worker relays, and sessions that it carries."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.sessions.rig import Rig, Worker

_FAST_STREAMS = 50
_FAST_WORDS = 1000
# What people read at, and what a model of today gives.
_PACES = {"20 tokens/s": ("50ms", 20.0), "50 tokens/s": ("20ms", 50.0)}
_PACED_SECONDS = 8
_STREAMS = (50, 100, 200, 400)


async def measure(rig: Rig) -> dict[str, dict[str, float]]:
    rows = {}
    async with rig.worker() as worker:
        rows[f"{_FAST_STREAMS} streams, as fast as it goes"] = await _run(
            worker, _FAST_STREAMS, _FAST_WORDS, 0.0
        )
    for label, (interval, rate) in _PACES.items():
        async with rig.worker("--token-interval", interval) as worker:
            for streams in _STREAMS:
                words = round(rate * _PACED_SECONDS)
                rows[f"{streams} streams at {label}"] = await _run(worker, streams, words, rate)
    return rows


async def _run(worker: Worker, streams: int, words: int, rate: float) -> dict[str, float]:
    """`rate` 0: no pace is asked, and none is judged."""
    sessions = [await worker.new_session() for _ in range(streams)]
    await worker.stream(sessions[0], "write 3 words")
    before = await worker.count()
    start = time.perf_counter()
    tokens = sum(
        await asyncio.gather(*(worker.stream(each, f"write {words} words") for each in sessions))
    )
    seconds = time.perf_counter() - start
    after = await worker.count()
    return {
        "tokens/s": tokens / seconds,
        "of the pace": tokens / seconds / (rate * streams) if rate else 1.0,
        "worker CPU, µs a token": (after.worker_us - before.worker_us) / tokens,
        "worker's core": (after.worker_us - before.worker_us) / 1e6 / seconds,
        "round trips a token": (after.scripts - before.scripts) / tokens,
    }
