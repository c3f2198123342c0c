from __future__ import annotations

import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st

from agent_worker.storage.base import StorageUnavailable
from agent_worker.storage.embedding import HashingEmbedder, OpenAIEmbedder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def vector_of(text: str) -> list[float]:
    (vector,) = await HashingEmbedder().embed([text])
    return vector


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_the_same_words_are_nearer_than_others() -> None:
    likes = await vector_of("Ann likes green tea")
    asked = await vector_of("does Ann like tea?")
    other = await vector_of("the server listens on port 8080")
    assert cosine(likes, asked) > cosine(likes, other) + 0.2


async def test_upper_case_and_punctuation_do_not_count() -> None:
    assert await vector_of("Green Tea!") == await vector_of("green, tea")


@given(st.text(st.characters(codec=None, categories=None)))
@example("")
@example("!!!")
@example("\ud800")
async def test_every_text_has_a_vector_of_length_1(text: str) -> None:
    vector = await vector_of(text)
    assert len(vector) == 256
    assert math.isclose(cosine(vector, vector), 1)


async def test_another_process_gives_the_same_vector() -> None:
    script = (
        "import asyncio; from agent_worker.storage.embedding import HashingEmbedder as E;"
        "print(asyncio.run(E().embed(['green tea']))[0])"
    )
    done = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(await vector_of("green tea"))


class Service:
    """An embeddings API with a given answer."""

    def __init__(self) -> None:
        self.requests: list[tuple[Any, str | None]] = []
        self.status = 200
        self.answer: Any = None
        self.url = ""

    async def embeddings(self, request: web.Request) -> web.Response:
        self.requests.append((await request.json(), request.headers.get("Authorization")))
        return web.json_response(self.answer, status=self.status)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    app = web.Application()
    app.router.add_post("/v1/embeddings", service.embeddings)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield service
    await runner.cleanup()


@pytest.fixture
async def embedder(service: Service) -> AsyncIterator[OpenAIEmbedder]:
    embedder = OpenAIEmbedder(service.url, "small", 2, api_key="k")
    yield embedder
    await embedder.close()


async def test_openai_vectors_come_in_the_order_of_the_texts(
    service: Service, embedder: OpenAIEmbedder
) -> None:
    service.answer = {
        "data": [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 4]}]
    }
    assert await embedder.embed(["one", "two"]) == [[0.6, 0.8], [0.0, 1.0]]
    body = {"model": "small", "input": ["one", "two"], "encoding_format": "float"}
    assert service.requests == [(body, "Bearer k")]


@pytest.mark.parametrize(
    ("status", "answer", "logged"),
    [
        (500, {}, "status 500"),
        (200, {}, "not a list of embeddings"),
        (200, [], "not a list of embeddings"),
        (200, {"data": [{"index": 0, "embedding": None}]}, "not a list of embeddings"),
        (200, {"data": [{"index": 0, "embedding": ["a", 1]}]}, "could not convert"),
        (200, {"data": [{"index": 0, "embedding": [10**400, 1]}]}, "not a list of embeddings"),
        (200, {"data": []}, "0 embeddings for 1 texts"),
        (200, {"data": [{"index": 0, "embedding": [1, 2, 3]}]}, "3 dimensions instead of 2"),
        (200, {"data": [{"index": 0, "embedding": [1, math.inf]}]}, "non-finite"),
    ],
)
async def test_an_answer_that_is_no_embedding_means_unavailable(
    service: Service,
    embedder: OpenAIEmbedder,
    status: int,
    answer: Any,
    logged: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service.status, service.answer = status, answer
    with pytest.raises(StorageUnavailable):
        await embedder.embed(["one"])
    assert logged in caplog.text


async def test_nobody_there_means_unavailable() -> None:
    embedder = OpenAIEmbedder("http://127.0.0.1:1/v1", "small", 2)
    with pytest.raises(StorageUnavailable):
        await embedder.embed(["one"])
    await embedder.close()
