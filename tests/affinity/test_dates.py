"""Cookies with `max_idle` and `max_life`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lb.affinity import Reading, dates
from tests.affinity.test_cookie import affinity

NOW = 1_795_600_000


@given(st.integers(0, 4 * (2**30 - 2)))
def test_a_date_is_kept_to_four_seconds(seconds: int) -> None:
    text = dates.to_text(seconds)
    assert len(text) == 5
    assert 0 <= dates.from_text(text) - seconds < 4


@given(st.binary(max_size=8))
def test_anything_is_a_date_or_none(text: bytes) -> None:
    assert dates.from_text(text) >= 0


@pytest.mark.parametrize(
    ("idle", "life", "letter"),
    [
        (0, 0, ""),
        (599, 3599, ""),
        (604, 604, "E"),
        (0, 3604, "O"),
        (700, 4000, "O"),
        (-90_000, 0, "E"),
    ],
)
def test_what_is_too_old_names_nobody(idle: int, life: int, letter: str) -> None:
    ours, servers = affinity(max_idle="10m", max_life="1h")
    value = b"agent1|%b|%b" % (dates.to_text(NOW - idle), dates.to_text(NOW - life))
    reading = ours.read(value, NOW)
    assert (reading.server, reading.letter) == (None if letter else servers[0], letter)


@pytest.mark.parametrize(
    "value", [b"agent1", b"agent1|", b"agent1|x|y", b"agent1|||", b"agent1|!!!!!"]
)
def test_a_cookie_without_dates_is_good_and_gets_some(value: bytes) -> None:
    ours, servers = affinity(max_idle="10m", max_life="1h")
    reading = ours.read(value, NOW)
    assert reading == Reading(servers[0])
    told = ours.dated(servers[0], reading, NOW)
    date = dates.to_text(NOW)
    assert told == b"SERVERID=agent1|%b|%b; path=/" % (date, date)


def test_the_first_date_stays_and_the_last_moves() -> None:
    ours, servers = affinity(max_idle="10m", max_life="1h")
    first = NOW - 2000
    value = b"agent1|%b|%b" % (dates.to_text(NOW - 100), dates.to_text(first))
    told = ours.dated(servers[0], ours.read(value, NOW), NOW)
    assert told == b"SERVERID=agent1|%b|%b; path=/" % (dates.to_text(NOW), dates.to_text(first))


def test_a_fresh_cookie_is_not_reported_again() -> None:
    ours, servers = affinity(max_idle="10m")
    value = b"agent1|%b" % dates.to_text(NOW)
    assert ours.dated(servers[0], ours.read(value, NOW), NOW) is None
    # Another server has answered: the cookie names that one.
    told = ours.dated(servers[1], ours.read(value, NOW), NOW)
    assert told == b"SERVERID=agent2|%b; path=/" % dates.to_text(NOW)
