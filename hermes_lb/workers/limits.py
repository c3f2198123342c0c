"""How many connections there can be: of open files there are only so many."""

from __future__ import annotations

import logging
import os
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes_lb.config import Config

logger = logging.getLogger("hermes_lb")

# Besides a client's and a server's connection each: listeners, logs, checks, the admin listener.
_OTHER_FILES = 100


def worker_count(config: Config) -> int:
    """`auto` is one for each core that this process may use."""
    workers = config.process.workers
    return len(os.sched_getaffinity(0)) if workers == "auto" else workers


def within_limits(config: Config, workers: int) -> Config:
    """For one of `workers` processes: its part of `max_connections`, and no more than there can be
    descriptors for.

    A client's connection needs one, and so does the one to its server.
    """
    asked = config.process.max_connections
    most = -(-asked // workers)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2 * most + _OTHER_FILES:
        most = max(soft // 4, (soft - _OTHER_FILES) // 2)
    process = config.process.model_copy(update={"max_connections": most})
    return config.model_copy(update={"process": process})


def raise_limit(config: Config, workers: int) -> None:
    """Ask the kernel for as many open files as each worker may need; say so if it has not as many.

    The workers inherit the limit.
    """
    asked = config.process.max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * -(-asked // workers) + _OTHER_FILES
    if soft < needed and soft < hard:
        soft = min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < needed:
        possible = within_limits(config, workers).process.max_connections * workers
        logger.warning(
            "the limit of open files (ulimit -n) is %d, which is enough for %d connections and not "
            "for process.max_connections = %d, which needs %d: further clients will wait",
            soft, possible, asked, needed,
        )  # fmt: skip
