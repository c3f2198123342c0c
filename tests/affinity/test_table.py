"""When a session table uses its local entries, and when it asks the shared store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from hermes_lb.affinity.stores.base import CLEARED, SharedStore
from hermes_lb.affinity.stores.registry import TableOptions
from hermes_lb.affinity.table import SessionTable
from hermes_lb.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEY = b"session"


class Others(SharedStore):
    """A shared store with one entry, for `expire` seconds from the last use."""

    def __init__(self, clock: Callable[[], float], expire: float) -> None:
        self.reachable = self.hears = True
        self.told: list[str] = []
        self.before_answer: Callable[[], object] = lambda: None
        self._clock, self._expire = clock, expire
        self._known: tuple[str, float] | None = None

    @property
    def is_reachable(self) -> bool:
        return self.reachable

    async def look_up(self, key: bytes) -> str | None:
        name, until = self._known or ("", 0.0)
        self.before_answer()
        if not self.reachable or until <= self._clock():
            return None
        self._known = name, self._clock() + self._expire
        return name

    def announce(self, key: bytes, name: str) -> asyncio.Future[bool]:
        self.told.append(name)
        if self.hears:
            self._known = name, self._clock() + self._expire
        return _done(self.hears)

    def refresh(self, key: bytes, name: str) -> asyncio.Future[bool]:
        if self._known is not None and self._known[0] == CLEARED:
            return _done(False)
        self.announce(key, name)
        return _done(True)

    async def close(self) -> None: ...

    def lose(self) -> None:
        self._known = None

    def clear(self) -> None:
        """As an operator does at another balancer."""
        self._known = CLEARED, self._clock() + self._expire


def _done(result: bool) -> asyncio.Future[bool]:
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    done.set_result(result)
    return done


class Shown:
    """A table, its clock, and the store that it shares with others."""

    def __init__(self, expire: float) -> None:
        self.now = 100.0
        self.others = Others(lambda: self.now, expire)
        self.table = SessionTable(
            "agents",
            TableOptions(expire=expire),
            clock=lambda: self.now,
            tasks=Tasks(),
            shared=lambda backend: self.others,
        )

    async def asked(self) -> str | None:
        """As for a request: the local entry, else that of the store."""
        name = self.table.find(KEY, self.now)
        if name is None and self.table.is_shared:
            name = await self.table.look_up(KEY)
        return name

    async def learnt(self, name: str) -> bool:
        """As from a response -> whether its client waits for the store."""
        news = self.table.store([KEY], name, self.now)
        if news is not None:
            await news
        await asyncio.sleep(0)  # callbacks of the announcement, or of its failure
        return news is not None


@pytest.fixture
def shown() -> Shown:
    return Shown(expire=30.0)


async def test_only_what_is_new_is_waited_for(shown: Shown) -> None:
    assert await shown.learnt("one")
    assert not await shown.learnt("one")
    assert await shown.learnt("two")
    assert shown.others.told == ["one", "two"]


async def test_a_pin_in_use_here_lives_on_there(shown: Shown) -> None:
    await shown.learnt("one")
    for _ in range(100):
        shown.now += 2.0
        assert await shown.asked() == "one"
        assert await shown.others.look_up(KEY) == "one"


async def test_learning_the_same_again_is_a_use(shown: Shown) -> None:
    await shown.learnt("one")
    shown.now += 25.0
    assert not await shown.learnt("one")
    assert shown.others.told == ["one", "one"]


async def test_what_others_have_changed_is_seen_while_the_pin_is_in_use(shown: Shown) -> None:
    await shown.learnt("one")
    shown.others.announce(KEY, "two")
    seen = []
    for _ in range(12):
        shown.now += 1.0
        seen.append(await shown.asked())
    assert seen == ["one"] * 9 + ["two"] * 3  # a third of its life


async def test_what_the_others_have_lost_they_are_notified_again(shown: Shown) -> None:
    await shown.learnt("one")
    shown.others.lose()
    shown.now += 20.0
    assert await shown.asked() == "one"
    assert shown.others.told == ["one", "one"]


async def test_a_response_that_comes_meanwhile_knows_better(shown: Shown) -> None:
    await shown.learnt("one")
    shown.now += 20.0
    shown.others.before_answer = lambda: shown.table.store([KEY], "two", shown.now)
    assert await shown.asked() == "two"
    assert await shown.asked() == "two"


@pytest.mark.parametrize("what", ["reachable", "hears"])
async def test_what_did_not_reach_them_is_newer_than_what_they_know(
    shown: Shown, what: str
) -> None:
    await shown.learnt("one")
    setattr(shown.others, what, False)
    await shown.learnt("two")
    setattr(shown.others, what, True)
    shown.now += 20.0
    assert await shown.asked() == "two"
    assert await shown.others.look_up(KEY) == "two"
    shown.others.announce(KEY, "three")
    shown.now += 20.0
    assert await shown.asked() == "three"


async def test_what_an_operator_has_cleared_is_known_no_more(shown: Shown) -> None:
    await shown.learnt("one")
    shown.others.clear()
    seen = []
    for _ in range(12):
        shown.now += 1.0
        seen.append(await shown.asked())
    assert seen == ["one"] * 9 + [None] * 3
    assert shown.others.told == ["one"]
    shown.others.reachable = False
    assert await shown.asked() is None
    shown.others.reachable = True
    assert await shown.learnt("two")
    shown.now += 20.0
    assert await shown.asked() == "two"


@pytest.mark.parametrize("again", [Shown.asked, lambda shown: shown.learnt("two")])
async def test_what_the_store_has_not_heard_of_is_newer_than_that_it_was_cleared(
    shown: Shown, again: Callable[[Shown], Awaitable[object]]
) -> None:
    await shown.learnt("one")
    shown.others.hears = False
    await shown.learnt("two")
    shown.others.hears = True
    shown.others.clear()
    shown.now += 20.0
    await again(shown)
    assert await shown.others.look_up(KEY) == "two"


async def test_responses_of_a_busy_session_do_not_bring_back_what_was_cleared(
    shown: Shown,
) -> None:
    """Each request begins when its pin is fresh, and its response names the session much later."""
    await shown.learnt("one")
    shown.others.clear()
    assert await shown.asked() == "one"
    shown.now += 20.0
    assert not await shown.learnt("one")
    assert await shown.asked() is None


async def test_a_pin_that_is_cleared_while_it_is_looked_up_stays_so(shown: Shown) -> None:
    """A request finds that the store has lost the pin, and it is cleared before it can tell it."""
    await shown.learnt("one")
    shown.others.lose()
    shown.now += 20.0
    shown.others.before_answer = shown.others.clear
    assert await shown.asked() == "one"
    await asyncio.sleep(0)
    shown.others.before_answer = lambda: None
    assert await shown.asked() is None


async def test_a_response_that_assigns_it_while_it_is_cleared_knows_better(shown: Shown) -> None:
    await shown.learnt("one")
    shown.now += 20.0

    def cleared_and_learnt() -> None:
        shown.others.clear()
        shown.table.store([KEY], "two", shown.now)

    shown.others.before_answer = cleared_and_learnt
    assert await shown.asked() == "two"
    assert await shown.others.look_up(KEY) == "two"


async def test_while_nobody_answers_it_goes_by_what_it_knows(shown: Shown) -> None:
    await shown.learnt("one")
    shown.now += 20.0
    shown.others.before_answer = lambda: setattr(shown.others, "reachable", False)
    assert await shown.asked() == "one"
    assert await shown.asked() == "one"  # without asking
    assert shown.others.told == ["one"]
    assert not await shown.learnt("two")


async def test_alone_it_knows_best() -> None:
    table = SessionTable("agents", TableOptions(expire=30.0), clock=lambda: 0.0, tasks=Tasks())
    assert table.store([KEY], "one", 0.0) is None
    assert table.find(KEY, 29.0) == "one"
    assert table.find(KEY, 58.0) == "one"
    assert not table.is_shared
