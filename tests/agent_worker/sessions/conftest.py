from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.agent_worker.sessions.memory import MemoryBackend

if TYPE_CHECKING:
    from agent_worker.sessions import SessionStore
    from tests.support.agent.sessions import Backend

# A test with one of these inspects Redis, or replaces a part of its client.
_ON_REDIS = {"redis", "client", "own_redis_server", "redis_server"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All other tests are the contract of the store, and run on every implementation."""
    if "backend" in metafunc.fixturenames:
        names = ["redis"] if _ON_REDIS & set(metafunc.fixturenames) else ["redis", "memory"]
        metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    return MemoryBackend() if request.param == "memory" else request.getfixturevalue("client")


@pytest.fixture
def store(backend: Backend) -> SessionStore:
    return backend.session_store()
