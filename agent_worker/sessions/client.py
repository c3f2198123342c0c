"""The Redis client, with every setting chosen (redis-py's defaults differ by constructor)."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

# Every operation is short (about 0.2 ms), so this many connections serve thousands of turns.
_MAX_CONNECTIONS = 64
_POOL_WAIT_S = 2.0
_SOCKET_TIMEOUT_S = 2.0
_HEALTH_CHECK_S = 20
# Two retries ride out one dropped connection. `Redis(host=...)` would retry 10 times and
# `from_url` never; more than a few only delays the 503 that the client could act on.
_RETRIES = 2


def connect(url: str) -> Redis:
    """A client for `url` (redis://, rediss://, unix://). Connects on first use.

    Raises ValueError when `url` is not one. The retries are safe because every operation of
    the store may be repeated (`lua/_common.lua`, rule 5).
    """
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=_POOL_WAIT_S,
            socket_timeout=_SOCKET_TIMEOUT_S,
            socket_connect_timeout=_SOCKET_TIMEOUT_S,
            health_check_interval=_HEALTH_CHECK_S,
            retry=Retry(ExponentialWithJitterBackoff(cap=0.2, base=0.02), _RETRIES),
            decode_responses=True,
            # RESP2 gives the scripts' replies the same shape on every server.
            protocol=2,
        )
        pool.make_connection()  # type: ignore[no-untyped-call]
    except TypeError as error:
        raise ValueError(f"unknown option in the URL ({error})") from error
    return Redis.from_pool(pool)


def shown_url(url: str) -> str:
    """`url` without its password, for people and logs."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))
