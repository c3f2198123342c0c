"""Suites and clients by other people, through the balancer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.loops import pytest_asyncio_loop_factories

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["no_proxies", "pytest_asyncio_loop_factories"]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """These clients obey the environment's proxies, which know nothing of our ports."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    """Of one Valkey for each xdist worker. Idempotency keys are unique to a test."""
    redis_server = pytest.importorskip("agent_worker.redis_server")
    with redis_server.RedisServer.start() as server:
        yield server.url
