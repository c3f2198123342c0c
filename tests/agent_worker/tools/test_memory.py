from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent_worker.tools import Effect, ToolError
from agent_worker.tools.memory import MAX_TEXT, MemorySave, MemorySearch
from tests.support.agent.tools import Away, context

if TYPE_CHECKING:
    from agent_worker.storage.postgres import PostgresStorage


async def test_what_is_saved_is_found_by_its_principal_only(storage: PostgresStorage) -> None:
    assert storage.memory is not None
    save, search = MemorySave(storage.memory), MemorySearch(storage.memory)
    ann = context(principal="ann1")
    assert await save.run({"text": "Ann drinks green tea"}, ann) == "saved"
    assert await search.run({"query": "Ann drinks green tea"}, ann) == "1.00 Ann drinks green tea"
    ben = context(principal="ben1")
    assert await search.run({"query": "green tea"}, ben) == "nothing is remembered"


async def test_a_call_that_is_repeated_saves_once(storage: PostgresStorage) -> None:
    assert storage.memory is not None
    save, search = MemorySave(storage.memory), MemorySearch(storage.memory)
    for call in ("1.0", "1.0", "1.1"):
        await save.run({"text": f"call {call}"}, context(principal="ann2", call=call))
    found = await search.run({"query": "call"}, context(principal="ann2"))
    assert len(found.splitlines()) == 2


@pytest.mark.parametrize("text", [None, "", "  ", 7, "x" * (MAX_TEXT + 1)])
async def test_what_is_no_text_is_refused(text: object) -> None:
    with pytest.raises(ToolError, match="text"):
        await MemorySave(Away()).run({"text": text}, context())
    with pytest.raises(ToolError, match="query"):
        await MemorySearch(Away()).run({"query": text}, context())


async def test_the_model_is_notified_when_the_memory_is_away() -> None:
    with pytest.raises(ToolError, match="is unavailable; the text may not"):
        await MemorySave(Away()).run({"text": "a"}, context())
    with pytest.raises(ToolError, match="unavailable"):
        await MemorySearch(Away()).run({"query": "a"}, context())


def test_effects() -> None:
    assert MemorySave.spec.effect is Effect.IDEMPOTENT
    assert MemorySearch.spec.effect is Effect.READ
