"""Rounds: slices in random order, one proxy at a time; failures are reported and do not spread."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from bench.live import runner
from bench.live.bench import Bench
from bench.live.cases.base import Metric, Sample, SlicedCase
from bench.live.errors import BenchError
from bench.live.peers.base import Peer, Running, Setup
from bench.live.peers.hermes_lb import HermesLbCompiled
from bench.live.runner import Plan, run
from bench.live.upstreams import Upstreams

if TYPE_CHECKING:
    from collections.abc import Iterator

BENCH = Bench(Path(), 2.0, 0, 1, (), Upstreams((), (), (), "none", "", None, ()), 0, None)


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_REST", 0.0)


@dataclass
class FakeProcess:
    name: str
    is_running: bool = True

    def pause(self) -> None:
        self.is_running = False

    def resume(self) -> None:
        self.is_running = True


class FakePeer(Peer):
    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]

    def is_installed(self) -> bool:
        return True

    def version(self) -> str:
        return "0"

    def command(self, setup: Setup) -> list[str]:
        return []


class Sliced(SlicedCase):
    name = "sliced"
    title = "slices"
    metrics = (Metric("value", "value", "", "lower"),)

    def __init__(self, *, not_starting: str = "", dying: str = "") -> None:
        self.processes: list[FakeProcess] = []
        self.measured: list[str] = []
        self._not_starting = not_starting
        self._dying = dying

    @contextmanager
    def started(self, peer: Peer, bench: Bench) -> Iterator[Running]:
        assert not self.running()
        if peer.name == self._not_starting:
            raise BenchError("does not start")
        process = FakeProcess(peer.name)
        self.processes.append(process)
        yield Running(0, cast("Any", process), None)
        if peer.name == self._dying:
            raise BenchError("died")

    def measure_slice(self, proxy: Running, bench: Bench, seconds: int) -> Sample:
        assert proxy.process is not None
        assert self.running() == [cast("FakeProcess", proxy.process).name]
        self.measured += self.running()
        return Sample({"value": 1.0})

    def running(self) -> list[str]:
        return [process.name for process in self.processes if process.is_running]


PEERS = [FakePeer(name) for name in "abcd"]


def play(case: Sliced, seed: int = 1) -> list[str]:
    """Two rounds of two seconds -> the problems."""
    return run(Plan([case], PEERS, 2, (), seed), BENCH, lambda _: None).problems


def test_a_round_has_a_slice_of_each_and_only_the_measured_one_runs() -> None:
    case = Sliced()
    assert play(case) == []
    rounds = [case.measured[first : first + 4] for first in range(0, 16, 4)]
    assert len(case.measured) == 16  # four slices of a second of each
    assert all(sorted(each) == list("abcd") for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1


def test_the_seed_repeats_the_order() -> None:
    first, second, other = Sliced(), Sliced(), Sliced()
    play(first), play(second), play(other, seed=2)
    assert first.measured == second.measured != other.measured


def test_a_proxy_that_does_not_start_is_left_out() -> None:
    case = Sliced(not_starting="b")
    assert play(case) == ["sliced, b: FAILED: does not start"]
    assert sorted(set(case.measured)) == ["a", "c", "d"]


def test_a_proxy_that_has_died_is_reported() -> None:
    assert play(Sliced(dying="c")) == ["sliced, c: FAILED: died"]


def test_seconds_and_rounds_make_slices() -> None:
    assert Sliced().rounds(5, 3.0) == 15
    assert Sliced().rounds(1, 0.5) == 1


def test_a_compiled_build_is_one_with_extension_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HermesLbCompiled, "python", str(tmp_path / "bin" / "python"))
    package = tmp_path / "lib" / "python3.11" / "site-packages" / "hermes_lb"
    (package / "http").mkdir(parents=True)
    (package / "http" / "head.py").touch()
    assert not HermesLbCompiled().is_installed()

    (package / "http" / "head.cpython-311-x86_64-linux-gnu.so").touch()
    assert HermesLbCompiled().is_installed()
