"""`python -m hermes_lb --config ...`: one balancer as a process, with its signals and limits."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import sys
from typing import TYPE_CHECKING

from hermes_lb.balancer import LoadBalancer
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.config import Config

logger = logging.getLogger("hermes_lb")

# Besides a client's and a server's connection each: listeners, logs, checks, the admin listener.
_OTHER_FILES = 100

# The data path leaves few cycles behind; the default of 700 objects makes Python look for some
# several times in every 100 requests.
_GC_THRESHOLDS = (50_000, 20, 50)


def serve(config: Config, *, loop: str = "uvloop") -> int:
    """Run a balancer until a signal ends it -> the exit status of the process.

    SIGTERM or SIGINT: accept no more, finish what runs for up to `drain_timeout`, end. A second
    one ends at once. Raises OSError or ValueError, with one line for a person, if it can't start.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    with asyncio.Runner(loop_factory=_loop_factory(loop)) as runner:
        return runner.run(_serve(config))


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name != "uvloop":
        return None
    try:
        import uvloop
    except ModuleNotFoundError:
        logger.warning("uvloop is not installed: asyncio's own loop is about 20 % slower")
        return None
    return uvloop.new_event_loop


async def _serve(config: Config) -> int:
    config = _within_limits(config)
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with LoadBalancer(config) as balancer:
        for url in balancer.urls:
            logger.info("listening on %s", url)
        if balancer.admin_url:
            logger.info("admin on %s", balancer.admin_url)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        await signals.get()
        timeout = config.process.drain_timeout
        logger.info("draining for up to %g s; a second signal ends at once", timeout)
        tasks = Tasks()
        draining = tasks.spawn(balancer.drain(timeout), name="drain")
        second = tasks.spawn(signals.get(), name="second signal")
        await asyncio.wait((draining, second), return_when=asyncio.FIRST_COMPLETED)
        finished = draining.done() and draining.result()
        await tasks.cancel_all()
    logger.info("ended%s", "" if finished else "; what still ran was cut")
    return 0


def _within_limits(config: Config) -> Config:
    """With no more connections than there can be descriptors for.

    A client's connection needs one, and so does the one to its server.
    """
    most = config.process.max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * most + _OTHER_FILES
    if soft < needed and soft < hard:
        soft = min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= needed:
        return config
    possible = max(soft // 4, (soft - _OTHER_FILES) // 2)
    logger.warning(
        "the limit of open files (ulimit -n) is %d, which is enough for %d connections and not for "
        "process.max_connections = %d, which needs %d: further clients will wait",
        soft, possible, most, needed,
    )  # fmt: skip
    process = config.process.model_copy(update={"max_connections": possible})
    return config.model_copy(update={"process": process})
