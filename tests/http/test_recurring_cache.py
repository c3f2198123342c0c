"""A cache of keys that recur: others displace nothing, and cost next to nothing."""

from __future__ import annotations

from hermes_lb.http.recurring_cache import PATIENCE, RecurringCache


def _cache() -> RecurringCache[int]:
    return RecurringCache(most=4, room=25)


def _offer(cache: RecurringCache[int], key: bytes, value: int = 1) -> None:
    for _ in range(2):
        if cache.recurs(key):
            cache.store(key, value)


def _knows(cache: RecurringCache[int], key: bytes) -> bool:
    return key in cache.recent or cache.find(key) is not None


def test_a_key_recurs_the_second_time() -> None:
    cache = _cache()
    assert [cache.recurs(b"a"), cache.recurs(b"b"), cache.recurs(b"a")] == [False, False, True]


def test_keys_that_never_recur_displace_nothing() -> None:
    cache = _cache()
    _offer(cache, b"kept")
    for number in range(10_000):
        assert not cache.recurs(b"%d" % number)
    assert _knows(cache, b"kept")
    assert len(cache) == 1


def test_what_is_used_stays_and_the_rest_goes() -> None:
    cache = _cache()
    for key in (b"used", b"unused"):
        _offer(cache, key)
    for number in range(20):
        _offer(cache, b"%d" % number)
        assert _knows(cache, b"used")
        assert len(cache) <= 8
    assert not _knows(cache, b"unused")


def test_the_bytes_of_a_generation_are_bounded() -> None:
    cache = _cache()
    for number in range(5):
        _offer(cache, b"%010d" % number)
        assert sum(map(len, cache.recent)) <= 25
    assert len(cache) == 3


def test_an_old_key_keeps_its_value() -> None:
    cache = _cache()
    _offer(cache, b"a", 7)
    for number in range(4):
        _offer(cache, b"%d" % number)
    assert b"a" not in cache.recent
    assert cache.find(b"a") == 7
    assert cache.recent[b"a"] == 7


def test_look_ups_become_rare_after_misses_until_one_has_a_hit() -> None:
    cache = _cache()
    _offer(cache, b"a")
    cache.recent.clear()
    cache._old[b"a"] = 1
    for _ in range(PATIENCE + 1):
        assert cache.find(b"b") is None
    assert cache.misses > PATIENCE
    assert sum(not cache.is_skipped() for _ in range(80)) == 10
    assert cache.find(b"a") == 1
    assert cache.misses == 0
