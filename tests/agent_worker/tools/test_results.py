from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agent_worker.storage.blobs import open_blobs
from agent_worker.tools import Effect, ToolError
from agent_worker.tools.produce import MAX_KILOBYTES, Produce
from agent_worker.tools.results import MAX_LENGTH, ReadResult
from tests.support.agent.tools import SESSION, Away, context

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_large_result_is_read_piece_by_piece(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    text = "".join(f"{number} Grüße\n" for number in range(3000))
    key = await blobs.put(SESSION, text.encode())
    read = ReadResult(blobs)

    first = await read.run({"blob": key}, context())
    assert first == f"[characters 0 to 4000 of {len(text)}]\n{text[:4000]}"

    pieces = []
    for offset in range(0, len(text), 5000):
        arguments = {"blob": key, "offset": offset, "length": 5000}
        pieces.append((await read.run(arguments, context())).partition("\n")[2])
    assert "".join(pieces) == text

    with pytest.raises(ToolError, match=f"the result has {len(text)} characters"):
        await read.run({"blob": key, "offset": len(text)}, context())


async def test_no_piece_is_large_enough_to_become_a_blob_itself(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    key = await blobs.put(SESSION, ("😀" * 100_000).encode())
    piece = await ReadResult(blobs).run({"blob": key, "length": 10**9}, context())
    assert piece.count("😀") == MAX_LENGTH
    assert len(piece.encode()) < 32 * 1024


async def test_a_foreign_result_is_as_good_as_none(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path)
    other = "session-number-two"
    key = await blobs.put(other, b"a secret")
    mine = f"{SESSION}/{key.partition('/')[2]}"
    read = ReadResult(blobs)
    for tried in (key, mine, f"{SESSION}/../{key}", f"{SESSION}/", SESSION):
        with pytest.raises(ToolError, match=r"there is no result|over 129 characters"):
            await read.run({"blob": tried}, context())
    assert "a secret" in await read.run({"blob": key}, context(session_id=other))


@pytest.mark.parametrize(
    "arguments",
    [{"offset": -1}, {"offset": "0"}, {"offset": True}, {"length": 0}, {"length": 1.5}],
)
async def test_offsets_and_lengths_are_whole_numbers(arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolError, match="must be an integer"):
        await ReadResult(Away()).run({"blob": f"{SESSION}/x", **arguments}, context())


async def test_the_model_is_notified_when_the_store_is_away() -> None:
    with pytest.raises(ToolError, match="unavailable"):
        await ReadResult(Away()).run({"blob": f"{SESSION}/x"}, context())


@pytest.mark.parametrize("kilobytes", [1, 33, MAX_KILOBYTES])
async def test_produce_makes_so_many_kilobytes_the_same_each_time(kilobytes: int) -> None:
    text = await Produce().run({"kilobytes": kilobytes}, context())
    assert len(text.encode()) == kilobytes * 1024
    assert text == await Produce().run({"kilobytes": kilobytes}, context(call="2.0"))
    assert text.startswith("line 00000 of ")


@pytest.mark.parametrize("kilobytes", [None, 0, -1, MAX_KILOBYTES + 1, "1", 1.0, True])
async def test_produce_refuses_other_sizes(kilobytes: object) -> None:
    with pytest.raises(ToolError, match="integer from 1 to 1024"):
        await Produce().run({"kilobytes": kilobytes}, context())


def test_effects() -> None:
    assert ReadResult.spec.effect is Effect.READ
    assert Produce.spec.effect is Effect.READ
