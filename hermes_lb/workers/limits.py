"""The limit of open files, and how many connections it allows."""

from __future__ import annotations

import logging
import os
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes_lb.config import Config

logger = logging.getLogger("hermes_lb")

# Beside two per client (its own and its server's): listeners, logs, checks, the admin listener.
_OTHER_FILES = 100


def worker_count(config: Config) -> int:
    """`auto` is the number of cores that this process may use."""
    workers = config.process.workers
    return len(os.sched_getaffinity(0)) if workers == "auto" else workers


def within_limits(config: Config, workers: int) -> Config:
    """The configuration of one of `workers` processes: its share of `max_connections`, as far as
    descriptors allow. A client takes two: its own connection and the one to its server.
    """
    asked = config.process.max_connections
    most = -(-asked // workers)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2 * most + _OTHER_FILES:
        most = max(soft // 4, (soft - _OTHER_FILES) // 2)
    process = config.process.model_copy(update={"max_connections": most})
    return config.model_copy(update={"process": process})


def raise_limit(config: Config, workers: int) -> None:
    """Raise the limit of open files to what each worker may need, or log what it allows.

    Workers inherit the limit. No warning if it is too low for the default only.
    """
    asked = config.process.max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * -(-asked // workers) + _OTHER_FILES
    if soft < needed and soft < hard:
        soft = min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < needed and "max_connections" in config.process.model_fields_set:
        possible = within_limits(config, workers).process.max_connections * workers
        logger.warning(
            "the limit of open files (ulimit -n) is %d, which is enough for %d connections and not "
            "for process.max_connections = %d, which needs %d: further clients will wait",
            soft, possible, asked, needed,
        )  # fmt: skip
