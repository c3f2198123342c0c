"""The tasks that a drain waits for."""

from __future__ import annotations

import asyncio

from agent_worker.runtime.open_turns import OpenTurns
from agent_worker.tasks import spawn


async def test_a_turn_is_open_inside_of_its_block() -> None:
    turns = OpenTurns()
    with turns.current():
        assert len(turns) == 1
    assert len(turns) == 0
    await turns.wait_idle()


async def test_the_turns_of_a_child_are_its_parents_as_well() -> None:
    parent = OpenTurns()
    child = OpenTurns(parent)
    with child.current():
        assert (len(parent), len(child)) == (1, 1)
    assert (len(parent), len(child)) == (0, 0)


async def test_a_parent_cancels_the_turns_of_its_children() -> None:
    parent = OpenTurns()
    task = spawn(asyncio.Event().wait(), name="turn")
    OpenTurns(parent).add(task)
    parent.cancel()
    await parent.wait_idle()
    assert task.cancelled()
