"""Interrupted answers: which may be requested again, and how a server continues a text."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.errors import CannotContinue, EngineCut, EngineFailed
from agent_worker.models import (
    CONTINUATIONS,
    EngineOptions,
    HermesEngine,
    OpenAIEngine,
    ScriptedEngine,
    create_engine,
)
from tests.agent_worker.models.fake_openai import (
    Cut,
    FakeOpenAI,
    Part,
    asks,
    event,
    fails,
    finish,
    run,
    says,
)

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET: dict[str, Any] = {"idle_timeout_s": 0.1, "tries": 1}


@pytest.mark.parametrize("engine_class", [OpenAIEngine, HermesEngine])
@pytest.mark.parametrize(
    ("end", "may_be_asked_again"),
    [
        ((Cut(),), True),
        ((), True),
        ((asyncio.Event(),), True),
        ((finish("error"),), True),
        ((event({"error": {"type": "server_error", "code": None}}),), True),
        ((event({"error": {"type": "InternalServerError", "code": 500}}),), True),
        ((event({"error": {"code": "503"}}),), True),
        ((event({"error": {"type": "BadRequestError", "code": 400}}),), False),
        ((event({"error": "boom"}),), False),
        ((finish("content_filter"),), False),
        ((b"data: what?\n\n",), False),
    ],
    ids=[
        "dropped", "ended", "silent", "failed", "server_error", "500", "503 as text", "400",
        "no object", "filter", "no JSON",
    ],
)  # fmt: skip
async def test_an_answer_that_broke_off_may_be_asked_for_again(
    server: FakeOpenAI,
    engine_class: type[OpenAIEngine | HermesEngine],
    end: tuple[Part, ...],
    may_be_asked_again: bool,
) -> None:
    """Except hermes, whose tools may have had effects."""
    engine = engine_class(server.options(**QUIET))
    server.will_say(says("one "), *end)
    said, error = await fails(engine, asks("hello"))
    assert said == "one "
    assert isinstance(error, EngineCut) == (may_be_asked_again and engine_class is OpenAIEngine)
    assert len(server.asked) == 1
    await engine.close()


async def test_a_server_that_is_away_may_be_asked_again() -> None:
    engine = OpenAIEngine(EngineOptions(base_url="http://127.0.0.1:9/v1", tries=1))
    assert isinstance((await fails(engine, asks("hello")))[1], EngineCut)
    await engine.close()


async def test_silence_before_the_first_piece_has_taken_long_enough(server: FakeOpenAI) -> None:
    engine = OpenAIEngine(server.options(first_token_timeout_s=0.1, tries=1))
    server.will_say(asyncio.Event())
    assert type((await fails(engine, asks("hello")))[1]) is EngineFailed
    await engine.close()


async def test_a_seeded_fault_of_the_script_is_a_cut() -> None:
    assert isinstance((await fails(ScriptedEngine(fault_rate=1), asks("hi")))[1], EngineCut)


@pytest.mark.parametrize(
    ("continuation", "message", "request_fields"),
    [
        (
            "continue_final_message",
            {},
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
        ("prefix", {"prefix": True}, {}),
        ("prefill", {}, {}),
    ],
)
async def test_a_server_goes_on_behind_a_text(
    server: FakeOpenAI,
    continuation: str,
    message: dict[str, Any],
    request_fields: dict[str, Any],
) -> None:
    engine = OpenAIEngine(server.options(continuation=continuation))
    assert engine.can_continue
    server.will_say(says("one"), finish())
    server.will_say(says(" two"), finish())
    assert await run(engine, asks("count")) == ("one", [])
    assert await run(engine, asks("count", prefix="one")) == (" two", [])
    plain, continued = [asked.body for asked in server.asked]
    said = {"role": "assistant", "content": "one", **message}
    assert continued == {**plain, **request_fields, "messages": [*plain["messages"], said]}
    await engine.close()


@pytest.mark.parametrize(
    ("status", "is_error"),
    [
        (400, lambda error: isinstance(error, CannotContinue)),
        (422, lambda error: isinstance(error, CannotContinue)),
        (401, lambda error: type(error) is EngineFailed),
        (503, lambda error: isinstance(error, EngineCut)),
    ],
)
async def test_a_server_that_takes_no_such_request_cannot_continue(
    server: FakeOpenAI, status: int, is_error: Callable[[EngineFailed], bool]
) -> None:
    engine = OpenAIEngine(server.options(continuation="prefill", tries=1))
    server.will_say(status=status)
    server.will_say(status=status)
    assert is_error((await fails(engine, asks("count", prefix="one")))[1])
    # Without a text to continue, a refusal is an ordinary one.
    assert not isinstance((await fails(engine, asks("count")))[1], CannotContinue)
    await engine.close()


def test_by_default_no_server_is_trusted_to_go_on() -> None:
    engine = create_engine("openai", EngineOptions(base_url="http://127.0.0.1:9/v1"))
    assert not engine.can_continue
    known = ", ".join(CONTINUATIONS)
    with pytest.raises(ValueError, match=f"no continuation 'guess'; known: {known}"):
        OpenAIEngine(EngineOptions(base_url="http://127.0.0.1:9/v1", continuation="guess"))
