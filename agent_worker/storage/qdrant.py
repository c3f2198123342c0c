"""The long-term memory on a Qdrant server: one collection, a point for each memory."""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
from typing import TYPE_CHECKING

from agent_worker.storage.base import Memory, StorageUnavailable
from agent_worker.storage.setup import StorageSetupError, identity, missing_extra, shown, storable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qdrant_client import AsyncQdrantClient
    from qdrant_client.models import Filter

    from agent_worker.storage.embedding import Embedder

log = logging.getLogger(__name__)

# Seconds, of one request.
_TIMEOUT_S = 5
# Point ids are UUIDs in this namespace; it must never change.
_POINTS = uuid.UUID("5f0f2f4c-6f0d-4c8e-9d4b-0c5c3a6e2a11")


async def open_qdrant(url: str, embedder: Embedder, *, api_key: str = "") -> QdrantMemory:
    """The memory on the server at `url` (http://127.0.0.1:6333). Raises StorageSetupError.

    ":memory:" keeps it in this process only.
    """
    try:
        from qdrant_client import AsyncQdrantClient
    except ImportError as error:
        raise missing_extra("Qdrant", "qdrant") from error
    if url == ":memory:":
        client = AsyncQdrantClient(":memory:")
    else:
        # The version check is a blocking request.
        client = AsyncQdrantClient(
            url=url, api_key=api_key or None, timeout=_TIMEOUT_S, check_compatibility=False
        )
    memory = QdrantMemory(client, embedder)
    try:
        await memory.prepare()
    except StorageUnavailable as error:
        await client.close()
        raise StorageSetupError(f"cannot use Qdrant at {shown(url)}: {error.__cause__}") from error
    except BaseException:
        await client.close()
        raise
    return memory


class QdrantMemory:
    """A LongTermMemory. Each embedder has a collection of its own, named after it."""

    def __init__(self, client: AsyncQdrantClient, embedder: Embedder) -> None:
        self.collection = f"hermes-memory-{re.sub(r'[^A-Za-z0-9_.-]', '-', embedder.name)}"
        self._client = client
        self._embedder = embedder

    async def prepare(self) -> None:
        """Create the collection if it is missing. Raises StorageSetupError if it differs."""
        from qdrant_client import models
        from qdrant_client.http.exceptions import UnexpectedResponse

        size = self._embedder.dimension
        with _reported("prepare"):
            if not await self._client.collection_exists(self.collection):
                vectors = models.VectorParams(size=size, distance=models.Distance.COSINE)
                try:
                    await self._client.create_collection(self.collection, vectors_config=vectors)
                except UnexpectedResponse as error:
                    # 409: another worker has created it.
                    if error.status_code != 409:
                        raise
            await self._client.create_payload_index(
                self.collection,
                "principal",
                # Stores the points of a principal together on disk.
                models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
            )
            found = (await self._client.get_collection(self.collection)).config.params.vectors
        if not isinstance(found, models.VectorParams) or found.size != size:
            raise StorageSetupError(
                f"Qdrant's collection {self.collection} is not one of {size} dimensions: "
                "delete it, or use another server"
            )

    async def remember(self, principal: str, key: str, text: str) -> None:
        from qdrant_client.models import PointStruct

        (vector,) = await self._embedder.embed([text])
        payload = {"principal": identity(principal), "key": identity(key), "text": storable(text)}
        point = PointStruct(id=_point_id(principal, key), vector=vector, payload=payload)
        with _reported("remember"):
            await self._client.upsert(self.collection, [point], wait=True)

    async def recall(self, principal: str, query: str, *, limit: int = 5) -> list[Memory]:
        (vector,) = await self._embedder.embed([query])
        with _reported("recall"):
            found = await self._client.query_points(
                self.collection, query=vector, query_filter=_only(principal), limit=limit
            )
        return [
            Memory(point.payload["key"], point.payload["text"], point.score)
            for point in found.points
            if point.payload is not None
        ]

    async def forget(self, principal: str, key: str) -> bool:
        """Two concurrent calls may both return True."""
        point_id = _point_id(principal, key)
        with _reported("forget"):
            known = await self._client.retrieve(self.collection, [point_id], with_payload=False)
            await self._client.delete(self.collection, [point_id], wait=True)
        return bool(known)

    async def close(self) -> None:
        await self._client.close()
        await self._embedder.close()


def _point_id(principal: str, key: str) -> str:
    """No key of a principal yields the id of another principal's point."""
    # identity() removes NUL from both.
    return str(uuid.uuid5(_POINTS, f"{identity(principal)}\0{identity(key)}"))


def _only(principal: str) -> Filter:
    from qdrant_client.models import FieldCondition, Filter, MatchValue

    return Filter(
        must=[FieldCondition(key="principal", match=MatchValue(value=identity(principal)))]
    )


@contextlib.contextmanager
def _reported(operation: str) -> Iterator[None]:
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except (ApiException, OSError) as error:
        log.warning("Qdrant: %s failed: %s", operation, str(error).partition("\n")[0])
        raise StorageUnavailable from error
