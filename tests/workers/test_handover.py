"""Handover to the next generation: memory grows as needed; a failed exec leaves nothing behind."""

from __future__ import annotations

import gc
import json
import os
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.backends import counters
from hermes_lb.workers import handover as handover_module
from hermes_lb.workers.generation import HANDOVER
from hermes_lb.workers.handover import Handover
from hermes_lb.workers.upgrade import execute_new_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Create = Callable[[int], Handover]


@pytest.fixture
def create() -> Iterator[Create]:
    """Make a handover for a number of slots."""
    gc.collect()  # so that sockets of other tests are not closed during this one
    made: list[Handover] = []

    def make(slots: int) -> Handover:
        made.append(Handover.create(slots, "asyncio"))
        return made[-1]

    yield make
    for handover in made:
        handover.close()


def children(*numbers: int) -> list[Any]:
    """Workers with these numbers."""
    return [
        SimpleNamespace(
            pid=4711, number=number, slot=0, is_retired=False, serves=True, is_alone=None,
            incarnation="", listens={},
            channel=SimpleNamespace(fileno=lambda: os.eventfd(0), asked=0),
        )
        for number in numbers
    ]  # fmt: skip


class Executed(Exception):
    """The next generation has taken over."""


def the_next(
    handover: Handover, old: list[Any], slots: int, monkeypatch: pytest.MonkeyPatch, **other: Any
) -> Handover:
    """Execute the next generation, with `slots` slots; `other`: attributes of its `handover`."""
    following: list[Handover | None] = []

    def execute(*command: Any) -> None:
        for name, value in other.items():
            monkeypatch.setattr(handover_module, name, value)
        following.append(Handover.inherit(slots, "asyncio"))
        raise Executed

    monkeypatch.setattr(os, "execv", execute)
    with suppress(Executed, OSError):  # it may have closed inherited descriptors
        execute_new_code(handover, old, {})
    assert following[0] is not None
    for inbox in handover.inboxes:  # they are the next one's
        inbox._receiving.detach()
        inbox._sending.detach()
    handover.inboxes.clear()
    return following[0]


def close_inherited(handover: Handover) -> None:
    for child in handover.children:
        os.close(child["fd"])
    for inbox in handover.inboxes:
        inbox.close()


@pytest.fixture
def handover(create: Create) -> Handover:
    return create(1)


def test_memory_that_is_too_small_for_more_workers_grows(
    handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters are kept, and processes that have mapped it still use their regions."""
    handover.memory.regions[3].loads[5] = 7
    following = the_next(handover, children(0, 3), 4, monkeypatch)
    assert len(following.memory.regions) >= 3 * 4
    assert len(following.wakeups) == len(following.memory.regions)
    assert following.wakeups[:4] == handover.wakeups
    assert following.memory.regions[3].loads[5] == 7
    handover.memory.regions[0].loads[5] = 8
    assert following.memory.regions[0].loads[5] == 8
    following.memory.regions[-1].loads[5] = 9
    assert [region.loads[5] for region in handover.memory.regions] == [8, 0, 0, 7]
    close_inherited(following)
    for wakeup in following.wakeups[4:]:
        os.close(wakeup)


def test_memory_that_is_large_enough_stays_as_it_is(
    create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    handover = create(8)
    following = the_next(handover, children(*range(8)), 1, monkeypatch)
    assert len(following.memory.regions) == len(handover.memory.regions)
    assert following.wakeups == handover.wakeups
    close_inherited(following)


@pytest.mark.parametrize(
    "other", [{"ROWS": 100}, {"counters": SimpleNamespace(layout=lambda: [["another", 1]])}]
)
def test_new_memory_has_a_region_for_each_old_worker_and_room_beside_them(
    create: Create, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    """The new code has other counters and fewer slots."""
    handover = create(8)
    handover._is_closed = True  # by the next generation
    handover.memory.regions[0].loads[5] = 7
    following = the_next(handover, children(*range(8)), 1, monkeypatch, **other)
    assert len(following.memory.regions) > 8
    assert len(following.wakeups) == len(following.memory.regions)
    assert following.memory.regions[0].loads[5] == 0
    close_inherited(following)
    following.close()


def test_the_layout_of_code_that_does_not_say_it_is_taken_by_its_size(
    handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of version 0.1."""
    silent = SimpleNamespace(layout=lambda: None)
    monkeypatch.setattr(handover_module, "counters", silent)
    handover.memory.regions[0].loads[5] = 7
    following = the_next(handover, children(0), 1, monkeypatch, counters=counters)
    assert following.memory.regions[0].loads[5] == 7
    close_inherited(following)


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [(1, 1, 0), (1, 2, 2), (2, 2, 2), (2, 4, 4), (4, 2, 4), (2, 1, 2)],
)
def test_connections_on_their_way_stay_in_the_inboxes(
    create: Create, monkeypatch: pytest.MonkeyPatch, before: int, after: int, wanted: int
) -> None:
    handover = create(before)
    for inbox in handover.inboxes:
        assert inbox.send(b"listener", 0)
    following = the_next(handover, children(), after, monkeypatch)
    waiting = [inbox.waiting() for inbox in following.inboxes]
    assert waiting == [1] * (before if before > 1 else 0) + [0] * (wanted - sum(waiting))
    assert len(waiting) == wanted
    close_inherited(following)


def test_files_of_closed_sockets_are_known_to_the_next_generation(
    handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    handover.listening.take_over_closed(["/run/a.sock"])
    following = the_next(handover, children(), 1, monkeypatch)
    assert following.listening.closed == ["/run/a.sock"]


def test_the_format_is_that_of_other_versions(
    handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older and newer code have to read it, so these keys must not follow names in the code."""
    read: list[dict[str, Any]] = []

    def execute(*command: Any) -> None:
        with open(int(os.environ[HANDOVER]), closefd=False) as file:
            file.seek(0)
            read.append(json.load(file))
        raise Executed

    monkeypatch.setattr(os, "execv", execute)
    with suppress(Executed):
        execute_new_code(handover, children(0), {})
    assert sorted(read[0]) == [
        "admin", "bells", "block", "children", "closed", "gathered", "inboxes", "inherited", "key",
        "layout", "listening", "part", "rows", "store", "tickets",
    ]  # fmt: skip
    assert sorted(read[0]["children"][0]) == [
        "asked", "fd", "incarnation", "is_retired", "listens", "number", "pid", "seat", "serves",
    ]  # fmt: skip
    assert sorted(read[0]["rows"]) == ["free", "next", "rows"]
    os.close(read[0]["children"][0]["fd"])


def test_a_generation_that_cannot_be_executed_leaves_nothing_behind(
    handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs started later inherit no descriptor and are not taken for a generation."""
    old = children()
    gc.collect()
    before = os.listdir("/proc/self/fd")
    seen: list[bool] = []

    def execute(*command: Any) -> None:
        seen.append(os.get_inheritable(handover.memory.fd) and HANDOVER in os.environ)
        raise OSError("no")

    monkeypatch.setattr(os, "execv", execute)
    with pytest.raises(OSError, match="no"):
        execute_new_code(handover, old, {})
    assert seen == [True]
    assert HANDOVER not in os.environ
    assert not any(map(os.get_inheritable, [handover.memory.fd, *handover.wakeups]))
    assert os.listdir("/proc/self/fd") == before
