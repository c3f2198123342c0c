"""Tests with a balancer run on uvloop, like those of the data path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis import Redis

from tests.support.loops import uvloop_for_balancers as pytest_asyncio_loop_factories

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["pytest_asyncio_loop_factories"]


@pytest.fixture(scope="module")
def _redis_url() -> Iterator[str]:
    redis_server = pytest.importorskip("agent_worker.redis_server")
    with redis_server.RedisServer.start() as server:
        yield server.url


@pytest.fixture
def redis_url(_redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a Redis that is empty, and that counts as reachable on a busy machine."""
    monkeypatch.setattr("hermes_lb.affinity.stores.redis._PATIENCE", 20.0)
    with Redis.from_url(_redis_url) as redis:
        redis.flushall()
    return _redis_url
