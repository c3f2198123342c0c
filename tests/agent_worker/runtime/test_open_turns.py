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
    child = OpenTurns(parent)
    child.add(task)
    child.add("a session")
    parent.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_drain_waits_for_a_session_whose_queue_is_looked_for() -> None:
    turns = OpenTurns()
    turns.add("a session")
    idle = spawn(turns.wait_idle(), name="drain")
    with turns.current():
        turns.discard("a session")
        assert "a session" not in turns
        await asyncio.sleep(0)
        assert not idle.done()
    await idle
