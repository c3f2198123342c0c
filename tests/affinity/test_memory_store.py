"""The table of learned keys keeps the ones that were used last."""

from __future__ import annotations

from hermes_lb.affinity.stores.memory import MemoryStore


def test_the_pin_that_was_used_least_lately_goes_first() -> None:
    pins = MemoryStore(most=2, expire=100.0)
    pins.store(b"a", "one", 1.0)
    pins.store(b"b", "two", 2.0)
    assert pins.find(b"a", 3.0) == "one"
    pins.store(b"c", "three", 4.0)
    assert len(pins) == 2
    assert [pins.find(key, 5.0) for key in (b"a", b"b", b"c")] == ["one", None, "three"]


def test_another_table_is_taken_over_as_far_as_there_is_room() -> None:
    pins, other = MemoryStore(most=2, expire=100.0), MemoryStore(most=4, expire=100.0)
    for number in range(4):
        other.store(b"%d" % number, f"s{number}", float(number))
    pins.take_over(other)
    assert list(pins.items()) == [(b"2", "s2"), (b"3", "s3")]
