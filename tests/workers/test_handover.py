"""What outlives an image of the program: memory that has room for all, and nothing if it stays."""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.backends import counters
from hermes_lb.workers import handover
from hermes_lb.workers.handover import Estate, execute_anew
from hermes_lb.workers.image import HANDOVER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Found = Callable[[int], Estate]


@pytest.fixture
def found() -> Iterator[Found]:
    """Make an estate for so many seats."""
    estates: list[Estate] = []

    def make(seats: int) -> Estate:
        estates.append(Estate.found(seats, "asyncio"))
        return estates[-1]

    yield make
    for estate in estates:
        estate.close()


def fleet(*numbers: int) -> Any:
    """Of workers with these numbers."""
    children = [
        SimpleNamespace(
            pid=4711, number=number, seat=0, is_retired=False, serves=True, is_alone=None,
            listens={}, channel=SimpleNamespace(fileno=lambda: os.eventfd(0), asked=0),
        )
        for number in numbers
    ]  # fmt: skip
    return SimpleNamespace(children=children)


class Executed(Exception):
    """By the next image, which has what it needs."""


def the_next(
    estate: Estate, fleet: Any, seats: int, monkeypatch: pytest.MonkeyPatch, **other: Any
) -> Estate:
    """What the next image has, with so many seats. `other`: what its code has in `handover`."""
    following: list[Estate | None] = []

    def execute(*command: Any) -> None:
        for name, value in other.items():
            monkeypatch.setattr(handover, name, value)
        following.append(Estate.inherit(seats, "asyncio"))
        raise Executed

    monkeypatch.setattr(os, "execv", execute)
    with suppress(Executed, OSError):  # it may have closed some of what it was given
        execute_anew(estate, fleet, {})
    assert following[0] is not None
    return following[0]


def close_children(estate: Estate) -> None:
    for child in estate.children:
        os.close(child["fd"])


@pytest.fixture
def estate(found: Found) -> Estate:
    return found(1)


def test_memory_that_is_too_small_for_more_workers_grows(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was counted is still there, and those that have mapped it go on in their parts."""
    estate.block.parts[3].loads[5] = 7
    following = the_next(estate, fleet(0, 3), 4, monkeypatch)
    assert len(following.block.parts) >= 3 * 4
    assert len(following.bells) == len(following.block.parts)
    assert following.bells[:4] == estate.bells
    assert following.block.parts[3].loads[5] == 7
    estate.block.parts[0].loads[5] = 8
    assert following.block.parts[0].loads[5] == 8
    following.block.parts[-1].loads[5] = 9
    assert [part.loads[5] for part in estate.block.parts] == [8, 0, 0, 7]
    close_children(following)
    for bell in following.bells[4:]:
        os.close(bell)


def test_memory_that_is_large_enough_stays_as_it_is(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate = found(8)
    following = the_next(estate, fleet(*range(8)), 1, monkeypatch)
    assert len(following.block.parts) == len(estate.block.parts)
    assert following.bells == estate.bells
    close_children(following)


@pytest.mark.parametrize("other", [{"ROWS": 100}, {"layout": lambda: [["another", 1]]}])
def test_new_memory_has_a_part_for_each_old_worker_and_room_beside_them(
    found: Found, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    """The new code counts other things, and there are fewer seats."""
    estate = found(8)
    estate._is_closed = True  # by the next image
    estate.block.parts[0].loads[5] = 7
    following = the_next(estate, fleet(*range(8)), 1, monkeypatch, **other)
    assert len(following.block.parts) > 8
    assert len(following.bells) == len(following.block.parts)
    assert following.block.parts[0].loads[5] == 0
    close_children(following)
    following.close()


def test_the_layout_of_code_that_does_not_say_it_is_taken_by_its_size(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of version 0.1."""
    monkeypatch.setattr(handover, "layout", lambda: None)
    estate.block.parts[0].loads[5] = 7
    following = the_next(estate, fleet(0), 1, monkeypatch, layout=counters.layout)
    assert following.block.parts[0].loads[5] == 7
    close_children(following)


def test_files_of_closed_sockets_are_known_to_the_next_image(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate.listening.take_over_closed(["/run/a.sock"])
    following = the_next(estate, fleet(), 1, monkeypatch)
    assert following.listening.closed == ["/run/a.sock"]


def test_an_image_that_cannot_be_executed_leaves_nothing_behind(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that are started later inherit none of it, and are not taken for successors."""
    children = fleet()
    gc.collect()  # what other tests have left is not closed meanwhile
    before = os.listdir("/proc/self/fd")
    seen: list[bool] = []

    def execute(*command: Any) -> None:
        seen.append(os.get_inheritable(estate.block.fd) and HANDOVER in os.environ)
        raise OSError("no")

    monkeypatch.setattr(os, "execv", execute)
    with pytest.raises(OSError, match="no"):
        execute_anew(estate, children, {})
    assert seen == [True]
    assert HANDOVER not in os.environ
    assert not any(map(os.get_inheritable, [estate.block.fd, *estate.bells]))
    assert os.listdir("/proc/self/fd") == before
