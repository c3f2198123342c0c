"""`python -m bench.live.peers.embedded FILE`: hermes_lb in one process and one loop.

What a test or another program runs: no supervisor, no workers. The settings of the garbage
collector are those of a worker process, so that only the processes differ. SIGUSR1 makes it collect
everything once and print "collected in N ms".
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time

import uvloop

from hermes_lb.balancer import LoadBalancer


async def serve(file: str) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGUSR1, _collect)
    async with LoadBalancer(file):
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)  # as `workers.worker` has it: it is compared with that
        await ended.wait()


def _collect() -> None:
    began = time.perf_counter()
    gc.collect()
    print(f"collected in {(time.perf_counter() - began) * 1e3:.3f} ms", flush=True)


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
