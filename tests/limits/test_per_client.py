"""What one address may take, against plain models of the same."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.limits.per_client import ConnectionCounter, RateLimiter, client_key
from tests.support.examples import examples
from tests.support.http_peer import request

if TYPE_CHECKING:
    from tests.support.stage import Stage

ADDRESSES = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("::1", "192.0.2.1", False),
    ],
)
def test_who_counts_as_one_client(one: str, other: str, are_one: bool) -> None:
    assert (client_key(one) == client_key(other)) is are_one


@examples(100)
@given(st.integers(1, 3), st.lists(st.sampled_from(ADDRESSES), max_size=20), st.randoms())
def test_connections_are_counted(most: int, coming: list[str], random: object) -> None:
    counts, model, here = ConnectionCounter(most), Counter[str](), []
    for address in coming:
        may_stay = model[client_key(address)] < most
        assert counts.acquire(address) is may_stay
        if may_stay:
            model[client_key(address)] += 1
            here.append(address)
        if len(here) > 2:
            leaving = here.pop(random.randrange(len(here)))  # type: ignore[attr-defined]
            counts.release(leaving)
            model[client_key(leaving)] -= 1
    for address in here:
        counts.release(address)
    assert counts._open == {}


def test_a_limit_that_comes_later_counts_those_who_are_there() -> None:
    counts = ConnectionCounter(0)
    assert all(counts.acquire("192.0.2.1") for _ in range(100))
    counts.reconfigure(101)
    assert counts.acquire("192.0.2.1")
    assert not counts.acquire("192.0.2.1")
    for _ in range(101):
        counts.release("192.0.2.1")
    assert counts._open == {}


def test_a_limit_that_is_taken_away_and_comes_back_knows_who_has_left() -> None:
    counts = ConnectionCounter(1)
    counts.acquire("192.0.2.1")
    counts.reconfigure(0)
    counts.release("192.0.2.1")
    counts.reconfigure(1)
    assert counts.acquire("192.0.2.1")


class _Elsewhere:
    """Other processes, which accept requests of the same client."""

    def __init__(self) -> None:
        self.total = 0

    def count(self, client: str, change: int) -> int:
        self.total += change
        return self.total


def test_what_other_processes_accept_counts_too() -> None:
    elsewhere = _Elsewhere()
    rates = RateLimiter(10.0, 5, elsewhere)
    assert rates.acquire("192.0.2.1", 0.0) == 0
    elsewhere.total += 3
    assert rates.acquire("192.0.2.1", 0.0) == 0  # the fifth
    assert rates.acquire("192.0.2.1", 0.0) == 1
    assert rates.acquire("192.0.2.1", 0.1) == 0


def test_a_connection_that_is_refused_counts_in_no_process() -> None:
    elsewhere = _Elsewhere()
    counts = ConnectionCounter(1)
    counts.shared = elsewhere
    elsewhere.total = 1
    assert not counts.acquire("192.0.2.1")
    assert elsewhere.total == 1
    elsewhere.total = 0
    assert counts.acquire("192.0.2.1")


def test_what_others_accepted_is_not_forgotten_with_a_request_that_is_refused() -> None:
    elsewhere = _Elsewhere()
    rates = RateLimiter(1.0, 1, elsewhere)
    assert rates.acquire("192.0.2.1", 0.0) == 0
    elsewhere.total += 3
    assert rates.acquire("192.0.2.1", 0.5) > 0
    assert rates.acquire("192.0.2.1", 2.0) > 0
    assert rates.acquire("192.0.2.1", 4.0) == 0


@examples(200)
@given(
    st.sampled_from([1, 4, 16]),
    st.integers(1, 8),
    st.integers(2, 3),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), min_size=20, max_size=300),
)
def test_processes_accept_no_more_together_than_one_would(
    rate: int, burst: int, processes: int, asked: list[tuple[int, int]]
) -> None:
    """But for what they can't know: what others accepted before the first look, and when they did.

    A process that has not looked for a while assumes that they did right after it looked.
    """
    elsewhere, now, accepted = _Elsewhere(), 100.0, 0
    all_rates = [RateLimiter(float(rate), burst, elsewhere) for _ in range(processes)]
    looked = [now] * processes
    blind = 0.0
    for rates in all_rates:
        accepted += rates.acquire("192.0.2.1", now) == 0
    unseen = accepted - 1
    for pause, number in asked:
        now += pause / 16
        who = number % processes
        blind, looked[who] = max(blind, now - looked[who]), now
        accepted += all_rates[who].acquire("192.0.2.1", now) == 0
        assert accepted <= burst + rate * (now - 100.0 + blind) + unseen + 1e-3


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_who_asks_all_the_time_gets_the_rate_however_many_processes_there_are(
    processes: int,
) -> None:
    elsewhere, accepted = _Elsewhere(), 0
    all_rates = [RateLimiter(10.0, 5, elsewhere) for _ in range(processes)]
    for hundredth in range(6000):
        rates = all_rates[hundredth % processes]
        accepted += rates.acquire("192.0.2.1", hundredth / 100) == 0
    assert 600 <= accepted <= 605 + processes


class _Bucket:
    """A token bucket as textbooks have it, in exact numbers."""

    def __init__(self, rate: int, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self.tokens, self.at = Fraction(burst), Fraction(0)

    def acquire(self, now: Fraction) -> bool:
        self.tokens = min(Fraction(self.burst), self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def resize(self, rate: int, burst: int, now: Fraction) -> None:
        """Used tokens stay used, but never more than the bucket holds."""
        tokens = min(Fraction(self.burst), self.tokens + (now - self.at) * self.rate)
        used = self.burst - tokens
        self.rate, self.burst, self.at = rate, burst, now
        self.tokens = max(Fraction(0), burst - used)


@pytest.mark.pure_only("a limiter is copied by its dict")
@examples(200)
@given(
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 64), st.sampled_from(ADDRESSES[:3])), max_size=60),
)
def test_rates_are_those_of_a_token_bucket(
    rate: int, burst: int, coming: list[tuple[int, str]]
) -> None:
    """In eighths of a second, which floats have exactly, the two agree request by request."""
    rates = RateLimiter(rate, burst)
    buckets = {address: _Bucket(rate, burst) for address in ADDRESSES}
    eighths = 800
    for pause, address in coming:
        eighths += pause
        wait = rates.acquire(address, eighths / 8)
        assert (wait == 0) == buckets[address].acquire(Fraction(eighths, 8))
        if wait:  # what Retry-After says is true
            later = _copy(rates).acquire(address, eighths / 8 + wait)
            assert later == 0
            assert wait == 1 or _copy(rates).acquire(address, eighths / 8 + wait - 1.01) > 0


def _copy(rates: RateLimiter) -> RateLimiter:
    copy = RateLimiter(1.0, 1)
    copy.__dict__.update(rates.__dict__, _full_at=dict(rates._full_at))
    return copy


@pytest.mark.parametrize("shared", [None, _Elsewhere()])
def test_strangers_do_not_fill_the_memory(shared: _Elsewhere | None) -> None:
    with patch("hermes_lb.limits.per_client._MOST_BUCKETS", 100):
        rates = RateLimiter(1.0, 10, shared)
        for n in range(1000):
            assert rates.acquire(f"10.0.{n // 250}.{n % 250}", 5.0) == 0
            assert len(rates._full_at) <= 100
            assert len(rates._seen) <= 100
        for n in range(1000):  # after a while those that are full again go first
            rates.acquire(f"10.1.{n // 250}.{n % 250}", 1000.0 + 2 * n)
            assert len(rates._full_at) <= 100


def _accepted(rates: RateLimiter, address: str, now: float, of: int = 100) -> int:
    return sum(rates.acquire(address, now) == 0 for _ in range(of))


class _ByClient(Counter[str]):
    """What processes count together, if there is but one of them."""

    def count(self, client: str, change: int) -> int:
        self[client] += change
        return self[client]


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize(
    ("rate", "burst", "at_once", "later"),
    [
        (10.0, 8, 3, 8),  # as before
        (10.0, 20, 15, 10),
        (1.0, 8, 3, 1),
        (1.0, 20, 15, 1),
        (100.0, 8, 3, 8),
        (10.0, 5, 0, 5),
        (10.0, 2, 0, 2),
        (1.0, 1, 0, 1),
    ],
)
def test_other_limits_are_for_what_clients_have_used(
    rate: float, burst: int, at_once: int, later: int, is_shared: bool
) -> None:
    """Of a client that has used 5 of 8. `later`: a second after that."""
    rates = RateLimiter(10.0, 8, _ByClient() if is_shared else None)
    assert _accepted(rates, "192.0.2.2", 90.0) == 8  # and that is long ago
    assert _accepted(rates, "192.0.2.1", 100.0, of=5) == 5
    rates.reconfigure(rate, burst, 100.0)
    assert _accepted(rates, "192.0.2.1", 100.0) == at_once
    assert _accepted(rates, "192.0.2.1", 101.0) == later
    assert _accepted(rates, "192.0.2.2", 101.0) == burst
    assert _accepted(rates, "192.0.2.3", 101.0) == burst


def test_other_limits_forget_nothing_that_others_have_accepted() -> None:
    elsewhere = _Elsewhere()
    rates = RateLimiter(10.0, 8, elsewhere)
    assert rates.acquire("192.0.2.1", 100.0) == 0
    elsewhere.total += 4
    rates.reconfigure(1.0, 8, 100.0)
    assert _accepted(rates, "192.0.2.1", 100.0) == 3


@examples(200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 64),
            st.sampled_from(ADDRESSES[:3]),
            st.none() | st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(1, 5)),
        ),
        max_size=60,
    )
)
def test_rates_that_change_are_those_of_a_token_bucket_that_is_cut_to_size(
    coming: list[tuple[int, str, tuple[int, int] | None]],
) -> None:
    """A rate of a power of two, and times in eighths, are exact in floats."""
    rates = RateLimiter(8, 5)
    buckets = {address: _Bucket(8, 5) for address in ADDRESSES}
    eighths = 800
    for pause, address, limits in coming:
        eighths += pause
        if limits is not None:
            rates.reconfigure(float(limits[0]), limits[1], eighths / 8)
            for bucket in buckets.values():
                bucket.resize(*limits, Fraction(eighths, 8))
        accepted = rates.acquire(address, eighths / 8) == 0
        assert accepted == buckets[address].acquire(Fraction(eighths, 8))


@pytest.mark.parametrize("limits", [(0.1, 3), (0.1, 4)], ids=["the same", "others"])
async def test_a_reload_fills_no_bucket(stage: Stage, limits: tuple[float, int]) -> None:
    lb, client, _ = await stage.served(limits={"request_rate": 0.1, "request_burst": 3})
    for _ in range(3):
        assert (await client.ask()).status == 200
    rate, burst = limits
    changed = lb.config.limits.model_copy(update={"request_rate": rate, "request_burst": burst})
    await lb.reconfigure(lb.config.model_copy(update={"limits": changed}))
    for _ in range(burst - 3):
        assert (await client.ask()).status == 200
    assert (await client.ask()).status == 429


async def test_a_limit_that_a_reload_takes_away_or_brings_holds_from_then_on(stage: Stage) -> None:
    lb, client, _ = await stage.served()
    for rate, status in ((0.1, 429), (0.0, 200), (0.1, 429)):
        limits = lb.config.limits.model_copy(update={"request_rate": rate, "request_burst": 1})
        await lb.reconfigure(lb.config.model_copy(update={"limits": limits}))
        assert (await client.ask()).status == 200
        assert (await client.ask()).status == status


async def test_too_many_requests_get_a_time_to_retry(stage: Stage) -> None:
    lb, client, origin = await stage.served(limits={"request_rate": 0.1, "request_burst": 2})
    for _ in range(2):
        assert (await client.ask()).status == 200
    answer = await client.answer_to(request("GET", "/3") + request("HEAD", "/4"))
    assert (answer.status, answer.get("Connection")) == (429, client.keeps)
    assert answer.get("Retry-After") in ("9", "10")
    assert (await client.read_response(method="HEAD")).status == 429
    other = await stage.client(lb)
    await other.post(b"a body that nobody reads")
    answer = await other.read_response()
    assert (answer.status, answer.get("Connection")) == (429, client.closes)
    assert await other.read_to_end() == b""
    assert len(origin.requests) == 2
    lines = await stage.logged(lb, 5)
    assert [line.status for line in lines] == [200, 200, 429, 429, 429]
    assert lines[2].reason == "too many requests from this address"
    assert lines[2].request == f"GET /3 {stage.protocol}"


async def test_a_trusted_proxy_is_counted_by_its_clients(stage: Stage) -> None:
    _, client, _ = await stage.served(
        limits={"request_rate": 0.1, "request_burst": 1},
        frontend={"trusted_proxies": ["127.0.0.0/8"]},
    )
    for address, status in (
        ("192.0.2.1", 200),
        ("192.0.2.2", 200),
        ("::ffff:192.0.2.3", 200),
        ("::ffff:192.0.2.4", 200),
        ("192.0.2.1", 429),
        ("::ffff:192.0.2.2", 429),
    ):
        assert (await client.ask("/", f"X-Forwarded-For: {address}")).status == status


@pytest.mark.http1_only("connections are refused before their preface")
@pytest.mark.parametrize(
    ("trusted", "statuses"),
    [(["127.0.0.1"], [200, 200, 200]), (["10.0.0.0/8"], [200, 429, 429])],
    ids=["a trusted proxy", "a client"],
)
async def test_a_trusted_proxy_may_have_any_number_of_connections(
    stage: Stage, trusted: list[str], statuses: list[int]
) -> None:
    lb = await stage.balancer(
        await stage.serving(),
        frontend={"trusted_proxies": trusted},
        limits={"connections_per_client": 1},
    )
    clients = await stage.clients(lb, 3)
    assert [(await client.ask()).status for client in clients] == statuses
