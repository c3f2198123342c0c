from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.agent_worker.models.fake_openai import FakeOpenAI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAI]:
    server = FakeOpenAI()
    await server.start()
    yield server
    await server.stop()
