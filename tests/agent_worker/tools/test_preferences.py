from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.tools import Effect, ToolError
from agent_worker.tools.preferences import (
    MAX_NAME,
    MAX_PREFERENCES,
    MAX_VALUE,
    PreferenceGet,
    PreferenceSet,
)
from tests.support.agent.tools import Away, context

if TYPE_CHECKING:
    from agent_worker.storage.postgres import PostgresStorage


async def test_a_preference_is_the_principals_in_all_sessions(storage: PostgresStorage) -> None:
    keep, get = PreferenceSet(storage.preferences), PreferenceGet(storage.preferences)
    ann = context(principal="ann3")
    assert await keep.run({"name": "colour", "value": "green"}, ann) == "green"
    later = context(principal="ann3", session_id="session-number-two")
    assert await get.run({"name": "colour"}, later) == "green"
    with pytest.raises(ToolError, match="there is no preference 'colour'"):
        await get.run({"name": "colour"}, context(principal="ben3"))


async def test_without_a_name_all_preferences_are_reported(storage: PostgresStorage) -> None:
    keep, get = PreferenceSet(storage.preferences), PreferenceGet(storage.preferences)
    ann = context(principal="ann5")
    assert await get.run({}, ann) == "there are no preferences yet"
    await keep.run({"name": "tone", "value": "brief"}, ann)
    await keep.run({"name": "colour", "value": "green"}, ann)
    assert await get.run({}, ann) == "colour = green\ntone = brief"


async def test_there_is_room_for_so_many_and_the_known_can_still_change(
    storage: PostgresStorage,
) -> None:
    keep = PreferenceSet(storage.preferences)
    ann = context(principal="ann4")
    for number in range(MAX_PREFERENCES):
        await keep.run({"name": str(number), "value": "a"}, ann)
    with pytest.raises(ToolError, match="64 preferences already"):
        await keep.run({"name": "one more", "value": "a"}, ann)
    assert await keep.run({"name": "0", "value": "b"}, ann) == "b"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"name": "a"},
        {"value": "a"},
        {"name": 1, "value": "a"},
        {"name": "x" * (MAX_NAME + 1), "value": "a"},
        {"name": "a", "value": "x" * (MAX_VALUE + 1)},
    ],
)
async def test_wrong_arguments_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ToolError, match=r"name|value"):
        await PreferenceSet(Away()).run(arguments, context())


async def test_the_model_is_notified_when_the_preferences_are_away() -> None:
    with pytest.raises(ToolError, match="unavailable; the setting may not"):
        await PreferenceSet(Away()).run({"name": "a", "value": "b"}, context())
    with pytest.raises(ToolError, match="unavailable"):
        await PreferenceGet(Away()).run({"name": "a"}, context())


def test_effects() -> None:
    assert PreferenceSet.spec.effect is Effect.IDEMPOTENT
    assert PreferenceGet.spec.effect is Effect.READ
