"""Turns of hermes-agent's API server: one message of a session each, sent by the OpenAI SDK."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.outside.test_hermes_agent import KEY, agents, openai
from tests.outside.test_turns import new_key
from tests.outside.test_turns_openai import words_of
from tests.outside.turn_fleet import two_balancers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.stage import Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def say(client: Any, message: str, session: str, key: str) -> tuple[str, bool]:
    """-> the answer, and whether it is a replay."""
    stream = await client.chat.completions.create(
        model="scripted",
        messages=[{"role": "user", "content": message}],
        stream=True,
        extra_headers={"Idempotency-Key": key, "X-Hermes-Session-Id": session},
    )
    replayed = stream.response.headers.get("Idempotency-Replayed") == "true"
    return "".join(await words_of(stream)), replayed


async def test_a_message_reaches_its_session_once(
    stage: Stage, tmp_path: Path, store_url: str
) -> None:
    """The model says how many messages of the user it has heard in the session."""
    async with agents(tmp_path) as [port, _]:
        fleet = await two_balancers(
            stage, tmp_path, store_url, port,
            path_prefix="/v1/", session="header:X-Hermes-Session-Id",
        )  # fmt: skip
        one, two = [
            openai.AsyncOpenAI(base_url=f"{lb.url}/v1", api_key=KEY, max_retries=0) for lb in fleet
        ]
        session, key = f"s-{new_key()}", new_key()
        async with one, two:
            twins = await asyncio.gather(*(say(each, "one", session, key) for each in (one, two)))
            assert {text for text, _ in twins} == {"heard 1: one"}
            # Two messages at the same time: one after the other, in either order.
            both = await asyncio.gather(
                say(one, "two", session, new_key()), say(two, "three", session, new_key())
            )
            assert sorted(text.partition(":")[0] for text, _ in both) == ["heard 2", "heard 3"]
            assert await say(two, "one", session, key) == ("heard 1: one", True)
