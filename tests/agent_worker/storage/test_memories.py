"""The contract of a long-term memory, on PostgreSQL and on Qdrant (its client's local mode)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.storage.base import StorageUnavailable
from agent_worker.storage.embedding import HashingEmbedder
from agent_worker.storage.qdrant import QdrantMemory, open_qdrant
from agent_worker.storage.setup import StorageSetupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent_worker.storage.base import LongTermMemory
    from agent_worker.storage.postgres import PostgresStorage


pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect")


async def local_qdrant() -> QdrantMemory:
    return await open_qdrant(":memory:", HashingEmbedder())


@pytest.fixture(params=["postgres", "qdrant"])
async def memory(
    request: pytest.FixtureRequest, storage: PostgresStorage
) -> AsyncIterator[LongTermMemory]:
    if request.param == "qdrant":
        memory = await local_qdrant()
        yield memory
        await memory.close()
    else:
        assert storage.memory is not None
        yield storage.memory


async def texts(memory: LongTermMemory, principal: str, query: str, **limit: int) -> list[str]:
    return [found.text for found in await memory.recall(principal, query, **limit)]


async def test_the_nearest_comes_first(memory: LongTermMemory) -> None:
    await memory.remember("ann", "1", "Ann lives in Graz")
    await memory.remember("ann", "2", "Ann drinks green tea in the morning")
    await memory.remember("ann", "3", "the build runs on two machines")
    first, second, third = await memory.recall("ann", "what tea does Ann drink?")
    assert (first.key, first.text) == ("2", "Ann drinks green tea in the morning")
    assert 1 >= first.score > second.score > third.score >= -1
    assert len(await memory.recall("ann", "tea", limit=1)) == 1


async def test_the_text_itself_scores_1(memory: LongTermMemory) -> None:
    await memory.remember("ann", "1", "green tea")
    (found,) = await memory.recall("ann", "green tea")
    assert found.score == pytest.approx(1, abs=1e-6)


async def test_the_same_key_again_replaces(memory: LongTermMemory) -> None:
    for text in ("green tea", "black coffee", "black coffee"):
        await memory.remember("ann", "1", text)
    assert await texts(memory, "ann", "green tea") == ["black coffee"]


async def test_principals_do_not_meet(memory: LongTermMemory) -> None:
    await memory.remember("ann", "same key", "green tea")
    await memory.remember("ben", "same key", "black coffee")
    assert await texts(memory, "ann", "black coffee") == ["green tea"]
    assert not await memory.forget("eve", "same key")
    assert await memory.forget("ann", "same key")
    assert not await memory.forget("ann", "same key")
    assert await texts(memory, "ann", "green tea") == []
    assert await texts(memory, "ben", "black coffee") == ["black coffee"]


async def test_a_crowd_that_is_nearer_hides_nobodys_own_memories(memory: LongTermMemory) -> None:
    await asyncio.gather(
        *(memory.remember("crowd", str(number), f"green tea {number}") for number in range(300))
    )
    for number in range(5):
        await memory.remember("ann", str(number), f"something else altogether {number}")
    assert len(await texts(memory, "ann", "green tea")) == 5


async def test_odd_texts_are_remembered(memory: LongTermMemory) -> None:
    await memory.remember("a\0", "k\0", "a\0b \ud800")
    assert await texts(memory, "a\0", "!!!") == ["a\ufffdb \ufffd"]
    assert await texts(memory, "a\ufffd", "!!!") == []
    await memory.remember("a\0", "long" * 1000, "")
    assert await memory.forget("a\0", "long" * 1000)
    assert await memory.forget("a\0", "k\0")


async def test_a_qdrant_that_cannot_be_reached_is_reported() -> None:
    with pytest.raises(StorageSetupError, match="cannot use Qdrant at http://"):
        await open_qdrant("http://127.0.0.1:1", HashingEmbedder())


async def test_while_qdrant_is_away_everything_says_so() -> None:
    from qdrant_client import AsyncQdrantClient

    client = AsyncQdrantClient(url="http://127.0.0.1:1", check_compatibility=False)
    memory = QdrantMemory(client, HashingEmbedder())
    calls: list[Any] = [
        memory.remember("ann", "1", "text"),
        memory.recall("ann", "text"),
        memory.forget("ann", "1"),
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [StorageUnavailable] * 3
    await memory.close()


async def test_a_qdrant_collection_of_another_dimension_is_refused() -> None:
    memory = await local_qdrant()
    other = HashingEmbedder(128)
    other.name = HashingEmbedder().name
    with pytest.raises(StorageSetupError, match="is not one of 128 dimensions"):
        await QdrantMemory(memory._client, other).prepare()
    await memory.close()
