"""Turns of a Starlette application, by httpx, at two balancers over one Valkey."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.outside.turn_fleet import ADA, BOB, Fleet, two_balancers
from tests.outside.word_server import WORDS, WordServer
from tests.support.needs import needs_package
from tests.support.waiting import PATIENCE, eventually, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage

httpx = needs_package("httpx")

BODY = b'{"prompt": "go on"}'


@pytest.fixture
def server() -> WordServer:
    return WordServer()


@pytest.fixture
async def port(server: WordServer) -> AsyncIterator[int]:
    from tests.outside.asgi import serving_asgi

    async with serving_asgi(server.app()) as port:
        yield port


@pytest.fixture
async def fleet(stage: Stage, tmp_path: Path, store_url: str, port: int) -> Fleet:
    return await two_balancers(stage, tmp_path, store_url, port, session="header:X-Session")


@pytest.fixture
async def http() -> AsyncIterator[Any]:
    async with httpx.AsyncClient(headers=ADA, timeout=PATIENCE) as client:
        yield client


class Words:
    """A stream that is read event by event."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.last_id = ""
        self._lines = response.aiter_lines()

    @classmethod
    @asynccontextmanager
    async def of(
        cls, http: Any, lb: LoadBalancer, *, method: str = "POST", path: str = "/words",
        body: bytes | None = BODY, **headers: str,
    ) -> AsyncIterator[Self]:  # fmt: skip
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{lb.url}{path}"
        async with http.stream(method, url, content=body, headers=named) as response:
            yield cls(response)

    async def next(self) -> str:
        """Its data; empty at the end. Only `id` and `data` are expected."""
        data = ""
        async for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "id":
                self.last_id = value
            elif name == "data":
                data = value
            elif data:
                return data
            else:
                assert not line or line.startswith(":")
        return ""

    async def rest(self) -> list[str]:
        words = []
        while word := await self.next():
            words.append(word)
        return words


def new_key() -> str:
    return f"k-{secrets.token_hex(8)}"


async def answer(ask: Callable[[], Awaitable[Any]], is_wanted: Callable[[Any], bool]) -> Any:
    """The first response that is wanted."""
    responses = []

    async def asks() -> bool:
        responses.append(await ask())
        return is_wanted(responses[-1])

    await until(asks)
    return responses[-1]


async def test_a_duplicate_joins_at_another_balancer(
    fleet: Fleet, server: WordServer, http: Any
) -> None:
    key = new_key()
    async with Words.of(http, fleet.one, Idempotency_Key=key) as first:
        server.say()
        assert await first.next() == WORDS[0]
        async with Words.of(http, fleet.two, Idempotency_Key=key) as second:
            assert second.response.status_code == 200
            assert second.response.headers["Content-Type"].startswith("text/event-stream")
            assert await second.next() == WORDS[0]
            server.say(2)
            assert await first.rest() == await second.rest() == list(WORDS[1:])
            assert first.last_id == second.last_id
    assert len(server.executed) == 1
    assert server.executed[0].headers["idempotency-key"] == key


async def test_an_answer_is_replayed(fleet: Fleet, server: WordServer, http: Any) -> None:
    key = new_key()
    server.say(3)
    url, headers = "/words", {"Idempotency-Key": key}
    first = await http.post(fleet.one.url + url, content=BODY, headers=headers)
    assert "Idempotency-Replayed" not in first.headers
    # A moment after its last byte it is still joined.
    again = await answer(
        lambda: http.post(fleet.two.url + url, content=BODY, headers=headers),
        lambda found: found.headers.get("Idempotency-Replayed") == "true",
    )
    assert (again.status_code, again.text) == (200, first.text)
    for name in ("Content-Type", "X-Hermes-Turn", "X-Hermes-Resume", "Date"):
        assert again.headers[name] == first.headers[name]
    assert len(server.executed) == 1


async def test_a_stream_is_resumed_at_another_balancer(
    fleet: Fleet, server: WordServer, http: Any
) -> None:
    """Without a key: by the path, and the last id."""
    async with Words.of(http, fleet.one) as lost:
        server.say()
        assert await lost.next() == WORDS[0]
        path = lost.response.headers["X-Hermes-Resume"]
    resumed = Words.of(
        http, fleet.two, method="GET", path=path, body=None, Last_Event_ID=lost.last_id
    )
    async with resumed as words:
        server.say(2)
        assert await words.rest() == list(WORDS[1:])
        assert words.response.headers["Cache-Control"] == "no-store"
    assert (len(server.executed), server.left) == (1, 0)


async def test_the_same_by_the_key(fleet: Fleet, server: WordServer, http: Any) -> None:
    key = new_key()
    async with Words.of(http, fleet.one, Idempotency_Key=key) as lost:
        server.say(2)
        assert await lost.next() == WORDS[0]
        assert await lost.next() == WORDS[1]
    back = Words.of(http, fleet.two, Idempotency_Key=key, Last_Event_ID=lost.last_id)
    async with back as words:
        server.say()
        assert await words.rest() == [WORDS[2]]
    assert (len(server.executed), server.left) == (1, 0)


async def test_nothing_is_left_of_a_stream_that_was_read(
    fleet: Fleet, server: WordServer, http: Any
) -> None:
    server.say(3)
    async with Words.of(http, fleet.one) as words:
        assert await words.rest() == list(WORDS)
        path = words.response.headers["X-Hermes-Resume"]
    url = fleet.two.url + path
    rest = await answer(
        lambda: http.get(url, headers={"Last-Event-ID": words.last_id}),
        lambda found: found.status_code == 204,
    )
    assert rest.content == b""
    assert (await http.get(url)).text.count("data: ") == 3


async def test_two_requests_at_the_same_time_are_one(
    fleet: Fleet, server: WordServer, http: Any
) -> None:
    """An answer as JSON: neither balancer has it when the other one asks."""
    headers = {"Idempotency-Key": new_key()}
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(http.post(f"{lb.url}/sum", content=b"[1, 2]", headers=headers))
            for lb in (*fleet, *fleet)
        ]
        await eventually(lambda: server.executed)
        server.say()
    assert [each.result().json() for each in asked] == [{"sum": 3, "of": 1}] * 4
    assert len(server.executed) == 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/words", b"another"), ("POST", "/words?x", BODY), ("PUT", "/words", BODY)],
)
async def test_another_request_with_the_same_key(
    fleet: Fleet, server: WordServer, http: Any, method: str, path: str, body: bytes
) -> None:
    headers = {"Idempotency-Key": new_key()}
    server.say(3)
    await http.post(f"{fleet.one.url}/words", content=BODY, headers=headers)
    other = await http.request(method, fleet.two.url + path, content=body, headers=headers)
    assert other.status_code == 422
    assert other.headers["Content-Type"] == "application/problem+json"
    assert other.headers["x-should-retry"] == "false"
    assert len(server.executed) == 1


async def test_another_principal_finds_nothing(fleet: Fleet, server: WordServer, http: Any) -> None:
    key = new_key()
    server.say(3)
    async with Words.of(http, fleet.one, Idempotency_Key=key) as words:
        assert await words.rest() == list(WORDS)
        path = words.response.headers["X-Hermes-Resume"]
    unknown = path[:-4] + ("aaaa" if path[-4:] != "aaaa" else "bbbb")
    for method in ("GET", "DELETE"):
        theirs = await http.request(method, fleet.two.url + path, headers=BOB)
        nobodys = await http.request(method, fleet.two.url + unknown, headers=BOB)
        assert theirs.status_code == nobodys.status_code == 404
        assert theirs.content.replace(path.encode(), b"") == nobodys.content.replace(
            unknown.encode(), b""
        )
    server.say(3)
    own = await http.post(
        f"{fleet.two.url}/words", content=BODY, headers={**BOB, "Idempotency-Key": key}
    )
    assert "Idempotency-Replayed" not in own.headers
    assert len(server.executed) == 2


async def test_without_a_credential_a_key_is_refused(fleet: Fleet, server: WordServer) -> None:
    async with httpx.AsyncClient(timeout=PATIENCE) as nobody:
        refused = await nobody.post(
            f"{fleet.one.url}/words", content=BODY, headers={"Idempotency-Key": new_key()}
        )
        assert (refused.status_code, "principal_required" in refused.text) == (400, True)
        server.say(3)
        passed = await nobody.post(f"{fleet.one.url}/words", content=BODY)
    assert (passed.status_code, passed.text.count("id:")) == (200, 0)
    assert "X-Hermes-Turn" not in passed.headers
    assert len(server.executed) == 1


async def test_delete_ends_it_at_any_balancer(fleet: Fleet, server: WordServer, http: Any) -> None:
    headers = {"Idempotency-Key": new_key()}
    async with Words.of(http, fleet.one, **headers) as words:
        server.say()
        assert await words.next() == WORDS[0]
        path = words.response.headers["X-Hermes-Resume"]
        deleted = await http.delete(fleet.two.url + path)
        assert deleted.status_code == 202
        with pytest.raises(httpx.TransportError):  # a visible cut
            await words.rest()
    await eventually(lambda: server.left == 1)
    await answer(lambda: http.delete(fleet.one.url + path), lambda found: found.status_code == 204)
    again = await http.post(f"{fleet.two.url}/words", content=BODY, headers=headers)
    assert (again.status_code, "turn_cancelled" in again.text) == (409, True)
    assert again.headers["x-should-retry"] == "false"
    assert "Retry-After" not in again.headers
    assert len(server.executed) == 1


async def test_turns_of_a_session_run_one_after_another(
    fleet: Fleet, server: WordServer, http: Any
) -> None:
    session = new_key()
    async with Words.of(http, fleet.one, X_Session=session) as first:
        server.say()
        assert await first.next() == WORDS[0]
        async with asyncio.TaskGroup() as group:
            url, headers = f"{fleet.two.url}/words", {"X-Session": session}
            second = group.create_task(http.post(url, content=BODY, headers=headers))
            # One of another session passes it.
            page = f"{fleet.two.url}/page"
            assert (await http.get(page, headers={"X-Session": new_key()})).status_code == 200
            assert len(server.executed) == 1
            server.say(2)
            assert await first.rest() == list(WORDS[1:])
            server.say(3)
    assert second.result().text.count("data: ") == 3
    fences = [int(each.headers["x-hermes-fence"]) for each in server.executed]
    assert fences[0] < fences[1]


async def test_a_fence_of_the_clients_is_dropped(
    fleet: Fleet, server: WordServer, http: Any
) -> None:
    server.say(6)
    for headers in ({}, {"X-Session": new_key()}):
        forged = {**headers, "X-Hermes-Fence": "999999999999999999"}
        await http.post(f"{fleet.one.url}/words", content=BODY, headers=forged)
    keyless, fenced = server.executed
    assert "x-hermes-fence" not in keyless.headers
    assert fenced.headers["x-hermes-fence"] != "999999999999999999"


async def test_a_field_of_hermes_agent_is_not_ours(
    fleet: Fleet, server: WordServer, http: Any
) -> None:
    """Its API server reads X-Hermes-Session-Id and X-Hermes-Session-Key."""
    server.say(3)
    theirs = {"X-Hermes-Session-Id": "s-1", "X-Hermes-Session-Key": "user:ada"}
    await http.post(f"{fleet.one.url}/words", content=BODY, headers=theirs)
    for name, value in theirs.items():
        assert server.executed[0].headers[name.lower()] == value


async def test_without_the_store_only_what_needs_it_is_refused(
    stage: Stage, tmp_path: Path, server: WordServer, port: int, http: Any
) -> None:
    redis_server = pytest.importorskip("agent_worker.redis_server")
    headers = {"Idempotency-Key": new_key()}
    with redis_server.RedisServer.start() as store:
        fleet = await two_balancers(stage, tmp_path, store.url, port)
        server.say(9)
        url = f"{fleet.one.url}/words"
        assert (await http.post(url, content=BODY)).status_code == 200
        store.kill()
        refused = await http.post(url, content=BODY, headers=headers)
        passed = await http.post(url, content=BODY)
    assert (refused.status_code, passed.status_code) == (503, 200)
    assert "Retry-After" in refused.headers
    assert [each.headers["X-Hermes-Degraded"] for each in (refused, passed)] == ["store"] * 2
    assert passed.text.count("data: ") == 3
    assert len(server.executed) == 2

    with redis_server.RedisServer.start(store.port):
        back = await answer(
            lambda: http.post(url, content=BODY, headers=headers),
            lambda found: found.status_code != 503,
        )
        assert (back.status_code, len(server.executed)) == (200, 3)
        await fleet.one.stop()
        await fleet.two.stop()
    assert stage.problems
    assert all("the store of turns" in problem for problem in stage.problems)
    stage.problems.clear()
