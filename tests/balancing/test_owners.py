"""`owner`: a key that sticks by hashing always has a server, the same on every balancer."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.backends import Pool
from hermes_lb.balancing import ConsistentHash
from hermes_lb.balancing.hashing import HashOptions
from hermes_lb.balancing.maglev import Maglev
from hermes_lb.config import Backend
from tests.support.examples import examples
from tests.support.pools import make_pool
from tests.support.strategies import assert_shares

if TYPE_CHECKING:
    from hermes_lb.backends import Server

both = pytest.mark.parametrize("strategy_type", [ConsistentHash, Maglev])
few_steps = pytest.mark.usefixtures("_few_steps")

KEYS = [b"k%d" % number for number in range(40)]
MANY_KEYS = [b"k%d" % number for number in range(3000)]
SLOW = 7.0

SERVERS = st.lists(
    st.fixed_dictionaries(
        {
            "weight": st.sampled_from([1, 1, 2, 9]),
            "backup": st.sampled_from([False, False, True]),
            "slow_start": st.sampled_from([0.0, SLOW]),
        }
    ),
    min_size=2,
    max_size=6,
).map(
    # Named, since in another order they are others by default.
    lambda servers: [
        {**one, "name": f"s{n}", "backup": one["backup"] and n > 0} for n, one in enumerate(servers)
    ]
)
PLACES = st.integers(0, 5)


@pytest.fixture(autouse=True)
def _a_small_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one takes a tenth of a second to build."""
    monkeypatch.setattr(Maglev, "size", 1009)


@pytest.fixture
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps for each key, which otherwise happens only beside a server of a great weight."""
    for module in ("consistent_hash", "maglev"):
        monkeypatch.setattr(f"hermes_lb.balancing.{module}.STEPS", 2)


def owner(pool: Pool, ring: Any, key: bytes, **more: Any) -> str | None:
    server = ring.owner(pool, key, 0.0, **more)
    return server.name if server is not None else None


def owners(pool: Pool, ring: Any, keys: list[bytes] = KEYS, **more: Any) -> list[str | None]:
    return [owner(pool, ring, key, **more) for key in keys]


def toggle(server: Server, how: str) -> None:
    """Out, or back."""
    if how == "checks":
        server.set_up(not server.is_healthy, "for a test")
    elif how == "maintenance":
        server.set_admin("ready" if server.admin == "maint" else "maint")
    elif server.is_ejected:
        server.readmit()
    elif server.is_up:
        server.eject(1000.0, "for a test")


WAYS = st.sampled_from(["checks", "maintenance", "outlier"])


@few_steps
@both
def test_where_all_that_may_serve_were_tried_those_that_failed_own_the_keys(strategy_type: Any):
    """As if they had not failed, and never one that is out for another reason."""
    pool = make_pool({}, *({"max_fails": 1} for _ in range(3)))
    well, *failed, down = pool.servers
    ring = strategy_type()
    untouched = owners(pool, ring, MANY_KEYS, tried=[well, down])
    for server in (*failed, down):
        pool.failed(server, 0.0, "for a test")
    down.set_up(False, "for a test")
    assert set(owners(pool, ring)) == {well.name}
    assert owners(pool, ring, MANY_KEYS, tried=[well]) == untouched
    assert set(untouched) == {server.name for server in failed}
    down.set_up(True, "for a test")
    assert set(owners(pool, ring, tried=[well])) == {down.name}


@few_steps
@both
@examples(100)
@given(servers=SERVERS, out=st.sets(PLACES), tried=st.sets(PLACES), rng=st.randoms())
def test_a_key_has_an_owner_while_anybody_may_serve_and_on_every_balancer_the_same(
    strategy_type: Any, servers: Any, out: set[int], tried: set[int], rng: Random
):
    found = []
    for _ in range(2):
        pool = make_pool(*servers)
        named = {server.name: server for server in pool.servers}
        for place in out:
            if f"s{place}" in named:
                named[f"s{place}"].set_up(False, "for a test")
        gone = [named[f"s{place}"] for place in tried if f"s{place}" in named]
        able = [s for s in pool.servers if s.may_serve(0.0) and s not in gone]
        first = [s for s in able if not s.config.backup] or able
        present = owners(pool, strategy_type(), tried=gone)
        assert set(present) <= {s.name for s in first} if able else present == [None] * len(KEYS)
        found.append(present)
        rng.shuffle(servers)  # with other addresses, too
    assert found[0] == found[1]


@few_steps
@both
@examples(100)
@given(
    servers=SERVERS,
    events=st.lists(st.tuples(PLACES, WAYS) | st.sampled_from([1.0, SLOW]), max_size=20),
)
def test_a_key_moves_only_if_its_owner_left_or_came_back(
    strategy_type: Any, servers: Any, events: Any
):
    pool, ring = make_pool(*servers), strategy_type()
    before, now = owners(pool, ring), 0.0
    by_state = {_able(pool): before}
    for event in events:
        was_able = _able(pool)
        if isinstance(event, float):  # slow starts go on
            now += event
            pool.tick(now)
        elif event[0] < len(pool.servers):
            toggle(pool.servers[event[0]], event[1])
        after = owners(pool, ring)
        changed = was_able ^ _able(pool)
        for old, new in zip(before, after, strict=True):
            assert old == new or old in changed or new in changed
        # History is of no matter: a balancer that has just been started agrees.
        assert by_state.setdefault(_able(pool), after) == after
        before = after


def _able(pool: Pool) -> frozenset[str]:
    return frozenset(server.name for server in pool.servers if server.may_serve(0.0))


@few_steps
@both
@examples(30)
@given(servers=SERVERS, out=st.sets(PLACES))
def test_a_strict_key_has_the_owner_that_it_has_when_all_are_up(
    strategy_type: Any, servers: Any, out: set[int]
):
    pool, ring = make_pool(*servers), strategy_type()
    before = owners(pool, ring)
    for place in out:
        if place < len(pool.servers):
            pool.servers[place].set_up(False, "for a test")
    assert owners(pool, ring, is_strict=True) == before
    assert None not in before


@both
def test_beside_a_server_of_a_great_weight_no_key_is_without_an_owner(strategy_type: Any):
    pool, ring = make_pool({"weight": 100}, {}, {}), strategy_type()
    before = owners(pool, ring, MANY_KEYS)
    pool.servers[0].set_up(False, "for a test")
    after = owners(pool, ring, MANY_KEYS)
    moved = Counter(name for old, name in zip(before, after, strict=True) if old == "a")
    assert set(moved) == {"b", "c"}
    assert all(new == old for old, new in zip(before, after, strict=True) if old != "a")
    assert owners(pool, strategy_type(), MANY_KEYS) == after


@both
def test_backups_have_keys_by_their_weights_while_all_primaries_are_out(strategy_type: Any):
    pool, ring = make_pool({}, {"backup": True, "weight": 3}, {"backup": True}), strategy_type()
    assert owners(pool, ring) == ["a"] * len(KEYS)
    pool.servers[0].set_up(False, "for a test")
    found = owners(pool, ring, MANY_KEYS)
    assert_shares(Counter(map(str, found)), {"b": 3, "c": 1})


@both
def test_keys_on_backups_stay_through_a_slow_start_and_a_drain(strategy_type: Any):
    pool = make_pool({}, {"backup": True, "slow_start": SLOW}, {"backup": True})
    ring, [primary, backup, _] = strategy_type(), pool.servers
    primary.set_up(False, "for a test")
    before = owners(pool, ring)
    backup.set_admin("drain")
    assert owners(pool, ring) == before
    backup.set_admin("ready")
    assert backup.warmth < 1.0
    assert owners(pool, ring) == before
    assert set(before) == {"b", "c"}


@both
def test_a_weight_of_nought_owns_nothing_be_it_the_last(strategy_type: Any):
    pool, ring = make_pool({}, {}, {"backup": True}), strategy_type()
    pool.servers[0].set_weight(0)
    pool.servers[1].set_up(False, "for a test")
    assert owners(pool, ring) == ["c"] * len(KEYS)
    pool.servers[2].set_weight(0)
    assert owners(pool, ring) == [None] * len(KEYS)
    assert owners(pool, ring, is_strict=True) == ["b"] * len(KEYS)


@both
def test_a_strict_key_of_a_backup_stays_with_it(strategy_type: Any):
    pool, ring = make_pool({}, {"backup": True}, {"backup": True}), strategy_type()
    pool.servers[0].set_weight(0)
    before = owners(pool, ring)
    assert set(before) == {"b", "c"}
    pool.servers[1].set_up(False, "for a test")
    assert owners(pool, ring, is_strict=True) == before
    assert owners(pool, ring) == ["c"] * len(KEYS)


def test_the_file_catches_up_with_a_weight_that_was_set_and_all_balancers_agree() -> None:
    def backend(weight: int) -> Backend:
        servers = [
            {"name": name, "address": f"{name}.internal:80", "weight": weight} for name in "abc"
        ]
        return Backend.model_validate({"servers": servers})

    def owners(pool: Pool, ring: ConsistentHash) -> list[str | None]:
        found = [ring.owner(pool, b"%d" % n, 0.0) for n in range(500)]
        return [server.name if server is not None else None for server in found]

    running, ring = (
        Pool("agents", backend(1), rng=Random(0)),
        ConsistentHash(HashOptions(load_factor=0.0)),
    )
    owners(running, ring)
    for server in running.servers:
        server.set_weight(10)
    owners(running, ring)
    running.reconfigure(backend(10))
    fresh = Pool("agents", backend(10), rng=Random(0))
    assert owners(running, ring) == owners(fresh, ConsistentHash(HashOptions(load_factor=0.0)))
