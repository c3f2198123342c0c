"""The model of a server: its iterations by hand, its cache by a direct count, queues by theory."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest

from hermes_lb.lab import traces
from hermes_lb.lab.calibration import calibrate, read_model
from hermes_lb.lab.fleet import make_fleet
from hermes_lb.lab.llm import LlmMachine, Model
from hermes_lb.lab.prefix_cache import BLOCK, PrefixCache
from hermes_lb.lab.recording import as_recorded
from hermes_lb.lab.workloads import Tokens, Workload
from tests.lab.test_theory import ERRORS, erlang_c
from tests.lab.test_traces import EXCERPTS
from tests.support.laboratory import make_run, mean_and_error

if TYPE_CHECKING:
    from pathlib import Path

    from hermes_lb.lab.measures import Measures
    from hermes_lb.lab.workloads import Blocks

#: A second an iteration, a tenth for each other, half a second for a chunk of 100 tokens.
BY_HAND = Model(base=1.0, sequence=0.1, token=0.005, chunk=100, slots=2, cache=10 * BLOCK, move=7.0)


def calls(*rows: tuple[float, int, int], blocks: tuple[Blocks, ...] = ()) -> Workload:
    """(arrival, input, output) of each; each of a user of its own."""
    zeros = array("d", [0.0] * len(rows))
    return Workload(
        array("d", [at for at, _, _ in rows]), zeros, zeros, array("L", range(len(rows))),
        [f"10.0.0.{i}" for i in range(len(rows))],
        tokens=Tokens(
            array("L", [tokens for _, tokens, _ in rows]),
            array("L", [output for _, _, output in rows]),
            blocks or [()] * len(rows),
        ),
    )  # fmt: skip


def play(model: Model, workload: Workload, servers: int = 1) -> Measures:
    machine = partial(LlmMachine, model=model)
    fleet = make_fleet(servers, model.slots, machine=machine)
    return make_run("round_robin", workload, fleet=fleet).play()


def test_a_call_alone_takes_its_prefill_and_an_iteration_for_each_further_token() -> None:
    measures = play(BY_HAND, calls((0.0, 200, 4)))
    assert list(measures.firsts) == pytest.approx([3.0])  # two chunks of 1.5 s
    assert list(measures.latencies) == pytest.approx([3.0 + 3 * 1.1])
    assert BY_HAND.alone(200, 4) == pytest.approx(measures.latencies[0])


def test_a_prefill_slows_those_that_decode_and_they_slow_it() -> None:
    """The second comes when the first decodes: its iteration takes 1 + 0.1 + 0.5, in which the
    first gets one token; then both decode, 1.2 s a token."""
    measures = play(BY_HAND, calls((0.0, 100, 3), (1.5, 100, 2)))
    assert list(measures.firsts) == pytest.approx([1.5, 1.6])
    assert list(measures.latencies) == pytest.approx([1.5 + 1.6 + 1.2, 1.6 + 1.2])


def test_the_third_waits_for_a_slot() -> None:
    measures = play(BY_HAND, calls((0.0, 100, 1), (0.0, 100, 1), (0.0, 100, 1)))
    assert list(measures.firsts) == pytest.approx([1.5, 3.0, 4.5])
    assert list(measures.waits) == pytest.approx([0.0, 0.0, 1.5])


def test_a_known_prefix_is_not_computed_again() -> None:
    prefix = (range(4),)
    rows = ((0.0, 4 * BLOCK, 1), (1000.0, 5 * BLOCK, 1))
    measures = play(BY_HAND, calls(*rows, blocks=(prefix, (range(5),))))
    assert list(measures.cached) == [0, 4 * BLOCK]
    assert measures.firsts[1] == pytest.approx(BLOCK / 100 * 1.5)


def test_all_of_it_in_the_cache_costs_a_token() -> None:
    rows = ((0.0, 2 * BLOCK, 1), (1000.0, 2 * BLOCK, 1))
    measures = play(BY_HAND, calls(*rows, blocks=((range(2),), (range(2),))))
    assert measures.cached[1] == 2 * BLOCK - 1
    assert measures.firsts[1] == pytest.approx(0.015)


def test_a_session_that_moves_has_to_be_loaded() -> None:
    """One user's calls go to one server and then to the other: seven seconds more, once."""
    workload = calls((0.0, 100, 1), (100.0, 100, 1), (200.0, 100, 1))
    workload = workload._replace(users=array("L", [0, 0, 0]), addresses=["10.0.0.1"])
    assert list(play(BY_HAND, workload, servers=2).firsts) == pytest.approx([1.5, 8.5, 8.5])
    assert list(play(BY_HAND, workload).firsts) == pytest.approx([1.5] * 3)


def test_blocks_leave_the_least_recently_used_first_and_the_last_of_a_prefix_before_it() -> None:
    cache = PrefixCache(4)
    cache.use([range(3)])
    cache.use([range(10, 12)])
    assert cache.found([range(3)]) == 2  # block 2 made room
    assert cache.found([range(10, 12)]) == 2
    cache.use([range(2)])
    cache.use([range(20, 22)])
    assert (cache.found([range(2)]), cache.found([range(10, 12)])) == (2, 0)
    assert len(cache) == 4


@pytest.mark.parametrize("capacity", [1_000_000, 300, 60])
def test_the_cache_finds_what_a_direct_count_of_mooncakes_hashes_finds(capacity: int) -> None:
    """The count keeps a list in order of use and knows nothing of ranges or of the server."""
    lines = (EXCERPTS / "mooncake.jsonl").read_text().splitlines()
    order: list[int] = []
    expected = 0
    for row in map(json.loads, lines):
        for block in row["hash_ids"]:
            if block not in order:
                break
            expected += 1
        for block in reversed(row["hash_ids"]):
            if block in order:
                order.remove(block)
            order.append(block)
        del order[: max(0, len(order) - capacity)]
    cache, found = PrefixCache(capacity), 0
    recording = traces.read(EXCERPTS / "mooncake.jsonl")
    timed = [
        (session.start + sum(one.pause for one in session.calls[: place + 1]), call)
        for session in recording.sessions
        for place, call in enumerate(session.calls)
    ]
    for _, call in sorted(timed, key=lambda row: row[0]):
        found += cache.found(call.blocks)
        cache.use(call.blocks)
    assert found == expected > 0
    assert len(cache) <= capacity


def test_a_server_finds_as_much_as_the_cache_by_itself() -> None:
    """One server, a request after the other: the machine's count is that of the trace's hashes."""
    recording = traces.read(EXCERPTS / "mooncake.jsonl")
    alone = replace(Model(), base=1e-6, sequence=0.0, token=1e-9, move=0.0, cache=10**9)
    measures = play(alone, as_recorded(recording, 1.0))
    lines = (EXCERPTS / "mooncake.jsonl").read_text().splitlines()
    seen: set[int] = set()
    total = 0
    for row in map(json.loads, lines):
        hashes = row["hash_ids"]
        hits = next((i for i, block in enumerate(hashes) if block not in seen), len(hashes))
        total += min(hits * BLOCK, row["input_length"] - 1)
        seen.update(hashes)
    assert sum(measures.cached) == total


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("slots", [1, 4])
def test_with_equal_iterations_it_waits_as_erlang_c_says(slots: int) -> None:
    """Outputs of exponential length, a prefill that takes nothing, occupied slots that slow
    nothing: M/M/c with one machine of c slots."""
    rng = Random(3)
    model = Model(base=0.01, sequence=0.0, token=0.0, chunk=10**9, slots=slots, move=0.0)
    rows, now = [], 0.0
    for _ in range(150_000):
        now += rng.expovariate(0.8 * slots)
        rows.append((now, 1, 1 + round(rng.expovariate(0.01))))
    mean, error = mean_and_error(play(model, calls(*rows)).waits)
    expected = erlang_c(slots, 0.8 * slots) / (slots - 0.8 * slots)
    assert error < 0.06 * expected
    assert abs(mean - expected) <= ERRORS * error


def test_a_model_is_read_as_calibrate_prints_it(tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_text(json.dumps({"model": {"base": 0.5, "slots": 3}, "fitted": []}))
    assert read_model(file) == Model(base=0.5, slots=3)
    assert read_model(None) == Model()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"bas": 1}', "has no bas; it has base, sequence"),
        ('{"base": -1}', "can't have base = -1.0"),
        ('{"chunk": 0}', "can't have chunk = 0"),
        ('{"base": null}', "argument must be"),
        ("[1]", "it is not an object"),
        ("{", "Expecting"),
    ],
)
def test_a_wrong_model_is_reported(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_model(file)


def test_calibration_finds_the_parameters_of_calls_that_follow_the_model(tmp_path: Path) -> None:
    rng = Random(1)
    rows = ["session,agent,t,input_tokens,output_tokens,prefix_tokens,api_s,think_s"]
    for session in range(200):
        tokens, output = rng.randrange(1000, 50_000), rng.randrange(10, 1000)
        seconds = 0.5 + 0.0002 * tokens + 0.02 * output
        rows.append(f"{session},,0.0,{tokens},{output},0,{seconds:.4f},0.0")
    trace = tmp_path / "agents.csv"
    trace.write_text("\n".join(rows))
    found = calibrate(trace)
    assert found["fixed_seconds"] == pytest.approx(0.5, rel=0.01)
    assert found["seconds_per_uncached_token"] == pytest.approx(0.0002, rel=0.01)
    assert found["seconds_per_output_token"] == pytest.approx(0.02, rel=0.01)
    model = Model.of(found["model"])
    # 10,000 tokens of prefill, and 99 more of output.
    assert model.alone(10_000, 100) == pytest.approx(0.0002 * 10_000 + 0.02 * 99, rel=0.01)


def test_calibration_finds_how_much_others_in_flight_slow_a_response(tmp_path: Path) -> None:
    """A log in which a token of four bytes takes 20 ms, and 5 ms for each request in flight."""
    lines = []
    for number in range(60):
        load = number % 6
        tokens = 1000
        stream = round(tokens * (20 + 5 * (load + 1)))
        lines.append(
            f"10.0.0.1:1000 [24/Nov/2026:12:{number // 60:02}:{number % 60:02}.000] fe be/s1 "
            f"0/0/0/100/{100 + stream} 200 {tokens * 4} - - ---- 1/1/1/{load}/0 0/0 "
            '"GET / HTTP/1.1"'
        )
    log = tmp_path / "access.log"
    log.write_text("\n".join(lines))
    found = calibrate(log)
    assert found["model"]["base"] == pytest.approx(0.02, rel=0.01)
    assert found["model"]["sequence"] == pytest.approx(0.005, rel=0.01)
    assert found["most_in_flight"] == found["model"]["slots"] == 6


def test_a_recording_without_durations_can_not_be_fitted() -> None:
    with pytest.raises(ValueError, match="0 calls with their durations; 20 are needed"):
        calibrate(EXCERPTS / "azure_llm.csv")


def test_the_default_model_has_splitwises_times() -> None:
    """Milliseconds a token by batch size, and seconds of a prefill, as published; see `Model`."""
    model = Model()
    published = {1: 29.7, 2: 30.1, 4: 31.8, 8: 32.4, 16: 34.2, 32: 38.9, 64: 50.0}
    for batch, milliseconds in published.items():
        iteration = model.iteration(batch, is_prefilling=False)
        assert iteration * 1000 == pytest.approx(milliseconds, rel=0.04)
    for tokens, seconds in {8192: 1.05, 16_384: 2.02, 32_768: 3.83}.items():
        assert model.token * tokens == pytest.approx(seconds, rel=0.1)
