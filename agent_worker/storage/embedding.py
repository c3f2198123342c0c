"""Texts as vectors of length 1: similar meanings are near each other."""

from __future__ import annotations

import logging
import math
import re
import zlib
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

from agent_worker.storage.base import StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = logging.getLogger(__name__)

_WORD = re.compile(r"\w+")
_GRAM = 3
# An equal word counts more than the trigrams that two words share.
_WORD_WEIGHT = 2.0


class Embedder(Protocol):
    #: The model and its version: vectors of different models cannot be compared.
    name: str
    #: The dimension of every vector.
    dimension: int

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector for each text, in order. Raises StorageUnavailable."""

    async def close(self) -> None: ...


class HashingEmbedder:
    """Words and their character trigrams, hashed to signed buckets. No model, no network.

    It finds equal and similar words, not synonyms. A text has the same vector in every process and
    version of Python. (Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask
    Learning", sections 2 and 3)
    """

    def __init__(self, dimension: int = 256) -> None:
        self.dimension = dimension
        self.name = f"hashing-1-{dimension}"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [self._vector(text) for text in texts]

    async def close(self) -> None:
        pass

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * self.dimension
        for feature, weight in _features(text):
            hashed = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
            vector[(hashed >> 1) % self.dimension] += weight if hashed & 1 else -weight
        return _unit(vector)


class OpenAIEmbedder:
    """The embeddings of an OpenAI-compatible API: `POST <base_url>/embeddings`.

    `dimension` is that of the model; vectors of another dimension are an error.
    """

    def __init__(
        self, base_url: str, model: str, dimension: int, *, api_key: str = "", timeout_s: float = 10
    ) -> None:
        self.dimension = dimension
        self.name = f"openai-{model}"
        self._url = f"{base_url.rstrip('/')}/embeddings"
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self._session is None:
            # Not in __init__: aiohttp needs a running loop.
            self._session = aiohttp.ClientSession(timeout=self._timeout, headers=self._headers)
        body = {"model": self._model, "input": [*texts], "encoding_format": "float"}
        try:
            async with self._session.post(self._url, json=body) as response:
                if response.status != 200:
                    raise ValueError(f"status {response.status}")
                return self._vectors(await response.json(content_type=None), len(texts))
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            log.warning("embeddings from %s failed: %s", self._url, reason)
            raise StorageUnavailable from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _vectors(self, answer: Any, count: int) -> list[list[float]]:
        """Raises ValueError for anything but `count` vectors of our dimension."""
        try:
            entries = sorted(answer["data"], key=lambda entry: entry["index"])
            vectors = [[float(number) for number in entry["embedding"]] for entry in entries]
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError("the answer is not a list of embeddings") from error
        if len(vectors) != count:
            raise ValueError(f"{len(vectors)} embeddings for {count} texts")
        for vector in vectors:
            if len(vector) != self.dimension:
                raise ValueError(f"vectors of {len(vector)} dimensions instead of {self.dimension}")
            if not all(map(math.isfinite, vector)):
                raise ValueError("a vector contains non-finite numbers")
        return [_unit(vector) for vector in vectors]


def _features(text: str) -> Iterator[tuple[str, float]]:
    for word in _WORD.findall(text.lower()):
        yield word, _WORD_WEIGHT
        padded = f"<{word}>"
        for start in range(len(padded) - _GRAM + 1):
            yield padded[start : start + _GRAM], 1.0


def _unit(vector: list[float]) -> list[float]:
    norm = math.sqrt(sum(number * number for number in vector))
    if not norm:
        # No words. The cosine of a zero vector is undefined, and indexes omit it.
        return [1.0, *vector[1:]]
    return [number / norm for number in vector]
