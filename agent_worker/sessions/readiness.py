"""Whether Redis accepts writes, for `/ready`; cached, so that frequent checks are cheap.

A server that answers PING may refuse every write: a replica, a server at its `maxmemory`, a master
with too few replicas, one whose last snapshot failed. So a small key is written to each master,
once per `_FRESH_S` at most.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Literal

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

if TYPE_CHECKING:
    from agent_worker.sessions.client import Client

log = logging.getLogger(__name__)

Problem = Literal[
    "unreachable",
    "loading",
    "read_only",
    "full",
    "too_few_replicas",
    "not_persisting",
    "cluster_down",
    "refused",
]

# Seconds for which a result is valid: several balancers check every few seconds.
_FRESH_S = 1.0
# Seconds of one probe; less than the usual timeout of a health check.
_TIMEOUT_S = 2.0

_BY_CLASS: tuple[tuple[type[Exception], Problem], ...] = (
    (BusyLoadingError, "loading"),
    (ReadOnlyError, "read_only"),
    (OutOfMemoryError, "full"),
    (ClusterDownError, "cluster_down"),
    (AuthenticationError, "refused"),
)
_BY_CODE: dict[str, Problem] = {"NOREPLICAS": "too_few_replicas", "MISCONF": "not_persisting"}


class Readiness:
    """`problem` may be called concurrently: one of the callers probes."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asking = asyncio.Lock()
        self._good_until = float("-inf")
        self._problem: Problem | None = None

    def __repr__(self) -> str:
        return f"Readiness({self._problem or 'ready'})"

    async def problem(self) -> Problem | None:
        """Why Redis refuses writes; None if it accepts them."""
        clock = asyncio.get_running_loop().time
        async with self._asking:
            if clock() >= self._good_until:
                problem, why = await self._probe()
                if problem != self._problem:
                    if problem is None:
                        log.warning("Redis accepts writes again")
                    else:
                        log.warning("Redis refuses writes: %s: %s", problem, why)
                self._problem, self._good_until = problem, clock() + _FRESH_S
            return self._problem

    async def _probe(self) -> tuple[Problem | None, str]:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._client.probe_writes()
        except (RedisError, OSError, TimeoutError) as error:
            return _problem_of(error), str(error) or type(error).__name__
        return None, ""


def _problem_of(error: Exception) -> Problem:
    for kind, problem in _BY_CLASS:
        if isinstance(error, kind):
            return problem
    if isinstance(error, ResponseError):
        return _BY_CODE.get(str(error).partition(" ")[0], "refused")
    return "unreachable"
