"""Sessions as closed loops, and workloads that are drawn from them."""

from __future__ import annotations

from math import isnan, nan
from random import Random

import pytest

from hermes_lb.lab.llm import Model
from hermes_lb.lab.recording import (
    IDLE,
    PRIVATE,
    START,
    Call,
    Recording,
    Session,
    Threads,
    as_recorded,
    drawn,
)
from tests.support.laboratory import make_run

OWN = (range(PRIVATE, PRIVATE + 4),)


def recording(*pauses: float, sessions: int = 1) -> Recording:
    """Sessions that start a second apart, of calls of 2 s each with these pauses before them."""
    calls = [Call(place - 1, pause, 2.0, 2.0) for place, pause in enumerate(pauses)]
    return Recording([Session(str(i), float(i), calls) for i in range(sessions)], "", is_llm=False)


def test_a_call_comes_after_the_latest_that_had_ended_and_others_are_threads() -> None:
    threads = Threads()
    for at, seconds in ((10.0, 5.0), (11.0, 1.0), (13.0, 1.0), (20.0, 0.0), (20.0, 1.0)):
        threads.add(at, seconds, Call(START, 0.0))
    expected = [(START, 0.0), (START, 1.0), (1, 1.0), (0, 5.0), (3, 0.0)]
    assert [(call.after, call.pause) for call in threads.calls] == expected
    assert threads.began == 10.0
    assert not threads.is_over(21.0 + IDLE)
    assert threads.is_over(21.1 + IDLE)


def test_a_next_call_waits_for_the_last_answer_and_a_pause() -> None:
    workload = as_recorded(recording(0.0, 3.0, 1.0), 1.0)
    assert workload.arrivals[0] == 0.0
    assert isnan(workload.arrivals[1])
    measures = make_run("round_robin", workload).play()
    assert list(measures.arrivals) == [0.0, 5.0, 8.0]


def test_a_slow_fleet_slows_its_sessions_and_nothing_piles_up() -> None:
    """Six sessions without pauses, one slot: six in flight at most, however slow it is."""
    workload = as_recorded(recording(0.0, *[0.0] * 9, sessions=6), 1.0)
    measures = make_run("round_robin", workload).play()
    assert measures.served == 60
    assert measures.peak == 6
    assert max(measures.latencies) == pytest.approx(12.0)


def test_speed_brings_starts_together_and_leaves_pauses() -> None:
    workload = as_recorded(recording(0.0, 3.0, sessions=3), 2.0)
    assert [workload.arrivals[i] for i in workload.heads] == [0.0, 0.5, 1.0]
    assert workload.followers is not None
    assert dict(workload.followers)[0] == [(1, 3.0)]


def test_sessions_are_drawn_at_the_rate() -> None:
    workload = drawn(recording(0.0, 3.0, sessions=2000), Random(1), rate=0.5)
    heads = [workload.arrivals[i] for i in workload.heads]
    # 2,000 exponential gaps: five standard deviations of the mean are 11 %.
    assert heads[-1] / 2000 == pytest.approx(2.0, rel=0.11)
    assert len(workload.addresses) == 2000


def test_copies_of_a_session_share_only_the_blocks_that_sessions_share() -> None:
    blocks = (range(3), *OWN)
    one = Recording([Session("a", nan, [Call(START, 0.0, input=9, output=1, blocks=blocks)])], "")
    one.sessions.append(one.sessions[0])
    tokens = drawn(one, Random(1), rate=1.0).tokens
    assert tokens is not None
    first, second = tokens.blocks
    assert first == blocks
    assert second[0] == blocks[0]
    assert second[1].start > blocks[1].stop


def test_a_recording_knows_the_work_of_a_session() -> None:
    """One slot, tokens that cost only their prefill: 2,048 new ones, and then 512 more."""
    grown = (range(PRIVATE, PRIVATE + 5),)
    calls = [
        Call(START, 0.0, input=2048, output=1, blocks=OWN),
        Call(0, 1.0, input=2560, output=1, blocks=grown),
    ]
    model = Model(base=1e-9, sequence=0.0, token=0.001, slots=1)
    work = Recording([Session("a", nan, calls)], "").work(model)
    assert work == pytest.approx(2.560)
