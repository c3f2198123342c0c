"""Which changes take effect, and when: empty answers, flapping servers, too many, large answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.discovery.damping import BATCH, Damper
from hermes_lb.discovery.sources.base import Answer, Endpoint
from hermes_lb.options.units import Address

if TYPE_CHECKING:
    import pytest


def servers(*names: str, port: int = 80, leaves: bool = False) -> dict[str, Endpoint]:
    return {name: Endpoint(Address("10.0.0.1", port), leaves=leaves) for name in names}


def damper(**rules: Any) -> Damper:
    return Damper(
        "agents", **{"empty_after": 30.0, "flap_hold": 10.0, "max_servers": 1000, **rules}
    )


def say(one: Damper, now: float, *names: str) -> None:
    one.answered(Answer(servers(*names)), now)
    one.take(now)


def test_a_change_takes_effect_at_once() -> None:
    one = damper()
    one.answered(Answer(servers("a", "b")), 0.0)
    changes = one.take(0.0)
    assert (set(changes.present), changes.gone, changes.due) == ({"a", "b"}, [], None)
    one.answered(Answer(servers("c"), gone=["a"], is_complete=False), 1.0)
    changes = one.take(1.0)
    assert (set(changes.present), changes.gone) == ({"c"}, ["a"])
    assert set(one.applied) == {"b", "c"}


def test_an_empty_answer_empties_nothing_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    one = damper()
    say(one, 0.0, "a", "b")
    one.answered(Answer({}), 10.0)
    assert one.take(10.0).due == 40.0
    assert one.take(39.9).gone == []
    assert set(one.applied) == {"a", "b"}
    assert caplog.text.count("the discovery has no servers; the last 2 stay for 30s") == 1
    one.answered(Answer({}), 39.95)  # again: the time goes on
    assert set(one.take(40.0).gone) == {"a", "b"}
    assert caplog.text.count("none is left") == 1


def test_servers_that_return_in_time_never_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    one = damper()
    say(one, 0.0, "a", "b")
    say(one, 10.0)
    one.answered(Answer(servers("a", "b")), 20.0)
    changes = one.take(20.0)
    assert (changes.present, changes.gone, changes.due) == ({}, [], None)
    assert "there are servers again" in caplog.text


def test_others_replace_those_that_were_held() -> None:
    one = damper()
    say(one, 0.0, "a", "b")
    say(one, 10.0)
    one.answered(Answer(servers("c")), 20.0)
    changes = one.take(20.0)
    assert (set(changes.present), set(changes.gone)) == ({"c"}, {"a", "b"})


def flap(one: Damper, times: int) -> float:
    """b comes and leaves -> the time."""
    now = 0.0
    for _ in range(times):
        say(one, now, "a", "b")
        say(one, now + 1, "a")
        now += 2
    return now


def test_a_server_that_flaps_comes_back_when_it_has_stayed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = damper()
    now = flap(one, 3)
    one.answered(Answer(servers("a", "b")), now)
    assert one.take(now).due == now + 10
    assert set(one.applied) == {"a"}
    assert caplog.text.count("b has left 3 times in a short time") == 1
    one.answered(Answer(servers("a")), now + 5)  # once more: it begins again
    one.take(now + 5)
    one.answered(Answer(servers("a", "b")), now + 6)
    one.take(now + 6)
    assert one.take(now + 10).due == now + 16
    assert set(one.take(now + 16).present) == {"b"}
    assert caplog.text.count("b has left") == 1


def test_two_departures_are_none() -> None:
    one = damper()
    now = flap(one, 2)
    say(one, now, "a", "b")
    assert set(one.applied) == {"a", "b"}


def test_the_only_server_is_not_held_back() -> None:
    one = damper()
    now = flap(one, 3)
    one.answered(Answer(servers("b"), gone=["a"], is_complete=True), now)
    assert set(one.take(now).present) == {"b"}


def test_a_flap_hold_of_0_is_off() -> None:
    one = damper(flap_hold=0.0)
    say(one, flap(one, 9), "a", "b")
    assert set(one.applied) == {"a", "b"}


def test_of_too_many_the_rest_comes_in_as_others_leave(caplog: pytest.LogCaptureFixture) -> None:
    one = damper(max_servers=2)
    say(one, 0.0, "a", "b", "c")
    assert len(one.applied) == 2
    assert caplog.text.count("more than 2 servers") == 1
    one.answered(Answer(servers("b", "c")), 1.0)
    while one.take(1.0).due is not None:
        pass
    assert set(one.applied) == {"b", "c"}


def test_a_large_answer_takes_several_steps() -> None:
    one = damper()
    names = [f"s{number}" for number in range(2 * BATCH + 1)]
    one.answered(Answer(servers(*names)), 0.0)
    steps = [one.take(0.0) for _ in range(3)]
    assert [len(step.present) for step in steps] == [BATCH, BATCH, 1]
    assert [step.due for step in steps] == [0.0, 0.0, None]


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 40.0),
            st.booleans(),
            st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 3), st.booleans())),
            st.sets(st.sampled_from("abcdef")),
        ),
        max_size=30,
    )
)
def test_in_the_end_what_the_source_says_holds(steps: list[Any]) -> None:
    """Whatever came before; and nothing is reported that is not so."""
    one = damper(max_servers=4)
    now, seen, wanted = 0.0, {}, {}
    for pause, is_complete, given_servers, gone in steps:
        now += pause
        present = {
            name: Endpoint(Address("10.0.0.1", port), leaves=leaves)
            for name, (port, leaves) in given_servers.items()
        }
        wanted = present if is_complete else {
            **{name: one for name, one in wanted.items() if name not in gone - present.keys()},
            **present,
        }  # fmt: skip
        one.answered(Answer(present, gone - present.keys(), is_complete), now)
        changes = one.take(now)
        for name in changes.gone:
            del seen[name]
        seen.update(changes.present)
        assert seen == one.applied
        assert len(seen) <= 4
    for _ in range(20):
        now += 50.0
        changes = one.take(now)
        for name in changes.gone:
            del seen[name]
        seen.update(changes.present)
    assert seen == one.applied
    assert seen.items() <= wanted.items()
    assert len(seen) == min(len(wanted), 4)
