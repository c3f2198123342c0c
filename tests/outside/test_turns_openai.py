"""Turns of the OpenAI SDK: it passes the key by `extra_headers`, and posts again to go on."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.outside.chat_server import WORDS, ChatServer
from tests.outside.test_turns import new_key
from tests.outside.turn_fleet import Fleet, two_balancers
from tests.support.needs import needs_package
from tests.support.programs import run, serving
from tests.support.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.stage import Stage

openai = needs_package("openai")

ASKED: dict[str, Any] = {
    "model": "scripted",
    "messages": [{"role": "user", "content": "Count, please"}],
    "stream": True,
}
SCRIPT = Path(__file__).with_name("openai_stream.js")


@pytest.fixture
async def server(stage: Stage) -> AsyncIterator[ChatServer]:
    server = ChatServer()
    async with serving(server.app()) as server.port:
        yield server


@pytest.fixture
async def fleet(stage: Stage, tmp_path: Path, store_url: str, server: ChatServer) -> Fleet:
    return await two_balancers(stage, tmp_path, store_url, server.port, path_prefix="/v1/")


@pytest.fixture
async def clients(fleet: Fleet) -> AsyncIterator[list[Any]]:
    """One for each balancer."""
    made = [
        openai.AsyncOpenAI(
            api_key="secret", base_url=f"{lb.url}/v1", timeout=PATIENCE, max_retries=2
        )
        for lb in fleet
    ]
    yield made
    for each in made:
        await each.close()


async def ask(client: Any, key: str, **headers: str) -> Any:
    fields = {"Idempotency-Key": key, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return await client.chat.completions.create(**ASKED, extra_headers=fields)


async def words_of(stream: Any) -> list[str]:
    deltas = [chunk.choices[0].delta.content async for chunk in stream]
    return [word for word in deltas if word]


async def refused(client: Any, key: str) -> Any:
    """The error. A moment after the cut, the turn is still joined, and cut again."""
    while True:
        try:
            await words_of(await ask(client, key))
        except openai.ConflictError as conflict:
            return conflict
        except openai.APIConnectionError:
            continue


@pytest.mark.parametrize("remarks", [False, True], ids=["", "with comments"])
async def test_the_same_call_again_gets_all_of_it(
    server: ChatServer, clients: list[Any], remarks: bool
) -> None:
    """In the midst of it, and afterwards. A comment block behind an id must not be an event to the
    SDK, which would fail to read it as JSON."""
    server.remarks = remarks
    key = new_key()
    lost = await ask(clients[0], key)
    server.say()
    chunk = await anext(aiter(lost))
    assert chunk.choices[0].delta.content == WORDS[0]
    await lost.close()
    joined = await ask(clients[1], key)
    server.say(2)
    assert await words_of(joined) == list(WORDS)
    replayed = await ask(clients[0], key)
    assert replayed.response.headers["Idempotency-Replayed"] == "true"
    assert await words_of(replayed) == list(WORDS)
    assert len(server.requests) == 1
    assert not server.client_left.is_set()


async def test_the_application_may_ask_for_the_rest(server: ChatServer, clients: list[Any]) -> None:
    """By the last id, which the SDK does not hand out: from the response's lines."""
    key = new_key()
    lost = await ask(clients[0], key)
    server.say()
    last_id = ""
    async for line in lost.response.aiter_lines():
        if line.startswith("id: "):
            last_id = line.removeprefix("id: ")
        elif line.startswith("data: "):
            break
    await lost.response.aclose()
    rest = await ask(clients[1], key, Last_Event_ID=last_id)
    server.say(2)
    assert await words_of(rest) == list(WORDS[1:])
    assert len(server.requests) == 1


async def test_a_refusal_of_the_server_frees_the_key_for_the_sdks_own_retry(
    server: ChatServer, clients: list[Any]
) -> None:
    server.refusals = [(503, {"Retry-After": "0"}), (429, {"Retry-After": "0"})]
    server.say(3)
    stream = await ask(clients[0], new_key())
    assert await words_of(stream) == list(WORDS)
    assert len(server.requests) == 3


async def test_an_unknown_outcome_is_told_once_and_not_retried(
    server: ChatServer, clients: list[Any]
) -> None:
    key = new_key()
    stream = await ask(clients[0], key)
    server.say()
    events = aiter(stream)
    await anext(events)
    server.breaks = True
    server.say()
    with pytest.raises(openai.APIConnectionError):
        await anext(events)
    for client in clients:
        conflict = await refused(client, key)
        assert conflict.body["code"] == "outcome_unknown"
        assert conflict.response.request.headers["x-stainless-retry-count"] == "0"
    assert len(server.requests) == 1


# The same with the SDK for Node: npm install --prefix DIRECTORY openai, and
# NODE_PATH=DIRECTORY/node_modules.


def has_openai_for_node() -> bool:
    if shutil.which("node") is None:
        return False
    found = subprocess.run(
        ["node", "-e", "require.resolve('openai')"], capture_output=True, check=False
    )
    return found.returncode == 0


@pytest.mark.skipif(not has_openai_for_node(), reason="NODE_PATH has no openai: npm install openai")
async def test_the_sdk_for_node(server: ChatServer, fleet: Fleet) -> None:
    server.remarks = True
    key = new_key()
    server.say(3)
    said = [
        await run("node", str(SCRIPT), f"{lb.url}/v1", key, str(most), within=30)
        for lb, most in zip((*fleet, fleet.one), (1, 3, 3), strict=True)
    ]
    assert [(each.status, json.loads(each.said or "null")) for each in said] == [
        (0, {"words": list(WORDS[:1]), "replayed": None}),
        (0, {"words": list(WORDS), "replayed": "true"}),
        (0, {"words": list(WORDS), "replayed": "true"}),
    ]
    assert len(server.requests) == 1
