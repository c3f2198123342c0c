from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.redis_server import RedisServer
from tests.support.turns import Gateway

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    with RedisServer.start() as server:
        yield server.url


@pytest.fixture(params=["memory", "valkey"])
def both_stores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs with both stores."""
    kind: str = request.param
    if kind == "valkey":
        monkeypatch.setattr(Gateway, "url", request.getfixturevalue("valkey"))
    return kind
