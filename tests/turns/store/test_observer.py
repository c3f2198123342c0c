"""When a process counts as dead: observed, on the observer's clock, for a whole lease."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.turns.ports import StoreAway
from hermes_lb.turns.store.incarnation import RETIRED, Incarnation, retire
from hermes_lb.turns.store.keys import alive_key
from hermes_lb.turns.store.observer import Observer
from hermes_lb.turns.store.timing import TIMING

if TYPE_CHECKING:
    from collections.abc import Callable

ALIVE = alive_key("o1")


class FakeClient:
    """GET and SET of a store that can be away, on a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.values: dict[str, bytes] = {}
        self.is_away = False
        self.asked = 0

    async def ask(self, key: str, *command: Any) -> Any:
        self.asked += 1
        if self.is_away:
            raise StoreAway("away")
        if command[0] == "GET":
            return self.values.get(key)
        if "XX" in command and key not in self.values:
            return None
        value = command[2]
        self.values[key] = value if isinstance(value, bytes) else b"%d" % value
        return b"OK"

    def observer(self) -> Observer:
        return Observer(self, TIMING, lambda: self.now)  # type: ignore[arg-type]


async def _watch(
    client: FakeClient, observer: Observer, seconds: int, each: Callable[[int], None]
) -> bool:
    """Whether it is dead at the end; a sample and a question each 2 s, `each` before them."""
    for second in range(0, seconds + 1, 2):
        each(second)
        await observer.sample()
        dead = observer.is_dead("o1")
        client.now += 2
    return dead


@pytest.mark.parametrize("value", [b"7", None])
async def test_the_same_value_for_a_whole_lease_is_a_death(value: bytes | None) -> None:
    client = FakeClient()
    observer = client.observer()
    if value is not None:
        client.values[ALIVE] = value
    assert not observer.is_dead("o1")
    assert not await _watch(client, observer, 14, lambda second: None)
    assert await _watch(client, observer, 0, lambda second: None)


async def test_a_key_that_expires_does_not_prolong_a_life() -> None:
    client = FakeClient()
    observer = client.observer()
    client.values[ALIVE] = b"7"
    observer.is_dead("o1")

    def expire(second: int) -> None:
        if second == 10:
            del client.values[ALIVE]

    assert await _watch(client, observer, 16, expire)


async def test_a_beat_within_the_lease_is_a_life() -> None:
    client = FakeClient()
    observer = client.observer()
    observer.is_dead("o1")

    def beat(second: int) -> None:
        client.values[ALIVE] = b"%d" % (second // 14)

    assert not await _watch(client, observer, 100, beat)


async def test_an_outage_begins_the_observation_again() -> None:
    client = FakeClient()
    observer = client.observer()
    observer.is_dead("o1")

    def fail(second: int) -> None:
        client.is_away = second == 10

    assert not await _watch(client, observer, 24, fail)
    assert not await _watch(client, observer, 0, lambda second: None)
    assert await _watch(client, observer, 0, lambda second: None)


async def test_all_are_observed_again_after_an_outage() -> None:
    """None dies of an outage that is longer than any TTL."""
    client = FakeClient()
    observer = client.observer()
    names = ["o1", "o2", "o3"]
    for name in names:
        client.values[alive_key(name)] = b"1"
        observer.is_dead(name)
    await observer.sample()
    client.is_away = True
    for _ in range(30):
        client.now += 2
        await observer.sample()
        assert not any(observer.is_dead(name) for name in names)
    client.is_away = False
    client.values.clear()  # all have expired meanwhile, before their owners could beat
    await observer.sample()
    assert not any(observer.is_dead(name) for name in names)


async def test_a_process_that_was_stopped_has_not_observed_the_store() -> None:
    client = FakeClient()
    observer = client.observer()
    observer.is_dead("o1")
    await observer.sample()
    client.now += 60
    assert not observer.is_dead("o1")
    await observer.sample()
    assert not observer.is_dead("o1")


async def test_time_without_a_sample_does_not_count() -> None:
    client = FakeClient()
    observer = client.observer()
    observer.is_dead("o1")
    await _watch(client, observer, 14, lambda second: None)
    client.now += 100
    assert not observer.is_dead("o1")


async def test_a_retired_incarnation_is_dead_at_once() -> None:
    client = FakeClient()
    observer = client.observer()
    await retire(client, "o1")  # type: ignore[arg-type]
    assert client.values[ALIVE] == RETIRED
    assert not observer.is_dead("o1")
    await observer.sample()
    assert observer.is_dead("o1")
    assert await client.observer().has_died("o1")
    assert not await client.observer().has_died("o2")


async def test_an_incarnation_of_no_interest_is_not_observed() -> None:
    client = FakeClient()
    observer = client.observer()
    observer.is_dead("o1")
    client.now += 31
    await observer.sample()
    assert client.asked == 0
    observer.is_dead("o1")
    await observer.sample()
    assert client.asked == 1


async def test_a_key_that_is_gone_makes_a_new_incarnation() -> None:
    client = FakeClient()
    verified: list[str] = []
    own = Incarnation(client, TIMING, lambda: verified.append(own.id))  # type: ignore[arg-type]
    first = await own.known()
    assert client.values == {alive_key(first): b"1"}
    await own.beat()
    assert client.values == {alive_key(first): b"2"}
    assert not verified
    client.values.clear()
    await own.beat()
    assert own.id != first
    assert verified == [own.id]
    assert list(client.values) == [alive_key(own.id)]


async def test_a_process_is_not_known_before_its_first_beat() -> None:
    client = FakeClient()
    own = Incarnation(client, TIMING, lambda: None)  # type: ignore[arg-type]
    client.is_away = True
    with pytest.raises(StoreAway):
        await own.known()
    client.is_away = False
    assert alive_key(await own.known()) in client.values
