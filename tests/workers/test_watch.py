"""A change of the configuration is noticed once, when the file is complete."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from hermes_lb.tasks import Tasks
from hermes_lb.workers.watch import changes, changes_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

EVERY = 0.02


class Watched:
    """A file, and the number of changes noticed."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.noticed = 0
        self.used = file.read_text()

    async def watch(self) -> None:
        def is_used() -> bool:
            return self.file.read_text() == self.used

        async for _ in changes(self.file, is_used=is_used, every=EVERY):
            self.noticed += 1

    async def looks(self, times: int = 4) -> None:
        """Let it poll so often."""
        await asyncio.sleep(times * EVERY)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    file = tmp_path / "lb.toml"
    file.write_text("a")
    tasks, one = Tasks(), Watched(file)
    tasks.spawn(one.watch(), name="watch")
    await one.looks(1)
    yield one
    await tasks.cancel_all()


async def test_each_change_is_noticed_once(watched: Watched) -> None:
    for count in (1, 2, 3):
        watched.file.write_text("b" * count * 10)
        await eventually(lambda n=count: watched.noticed == n)
        await watched.looks()
        assert watched.noticed == count


async def test_a_change_before_the_first_look_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    file.write_text("as it was read")
    tasks, one = Tasks(), Watched(file)
    file.write_text("while it started")
    tasks.spawn(one.watch(), name="watch")
    await eventually(lambda: one.noticed == 1)
    await one.looks()
    assert one.noticed == 1
    await tasks.cancel_all()


async def test_a_file_that_is_as_it_was_is_no_change(watched: Watched) -> None:
    await watched.looks(8)
    assert watched.noticed == 0


async def test_a_file_that_is_replaced_by_another_is_a_change(watched: Watched) -> None:
    other = watched.file.with_suffix(".new")
    other.write_text("a")
    other.rename(watched.file)
    await eventually(lambda: watched.noticed == 1)


async def test_a_file_that_is_away_for_a_while_is_waited_for(watched: Watched) -> None:
    watched.file.unlink()
    await watched.looks()
    assert watched.noticed == 0
    watched.file.write_text("something else")
    await eventually(lambda: watched.noticed == 1)


async def test_changes_of_several_files_that_may_be_missing(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    files[0].write_text("as it was read")
    tasks, noticed = Tasks(), 0

    async def watch() -> None:
        nonlocal noticed
        async for _ in changes_of(lambda: list(files), every=EVERY):
            noticed += 1

    tasks.spawn(watch(), name="watch")
    await asyncio.sleep(EVERY)
    for count, change in enumerate(
        (
            lambda: files[1].write_text("made"),
            lambda: files[0].write_text("another length"),
            files[1].unlink,
        ),
        1,
    ):
        change()
        await eventually(lambda n=count: noticed == n)
    files.append(tmp_path / "c")  # a reload names another one, and has read it
    files[2].write_text("read")
    await asyncio.sleep(4 * EVERY)
    assert noticed == 3
    await tasks.cancel_all()
