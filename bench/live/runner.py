"""Rounds of measurements, interleaved, so that a noisy minute hits every peer alike."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.live import certificate
from bench.live.bench import Bench, choose_cores
from bench.live.errors import BenchError
from bench.live.loads import tls, wrk
from bench.live.results import Results
from bench.live.upstreams import SyslogSink, running_upstreams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.live.cases.base import Case
    from bench.live.certificate import Certificate
    from bench.live.peers.base import Peer


@dataclass(frozen=True)
class Step:
    """One measurement of a run."""

    round: int
    case: Case
    peer: Peer


@dataclass(frozen=True)
class Plan:
    """The measurements of a run, and those left out, with the reason."""

    cases: Sequence[Case]
    peers: Sequence[Peer]
    rounds: int
    missing: Sequence[str]  # "wrk: apt-get install wrk"

    def steps(self) -> list[Step]:
        """Case by case, so that what is compared was measured close together in time."""
        return [
            Step(number, case, peer)
            for case in self.cases
            for number in range(1, self.rounds + 1)
            for peer in self.peers
            if case.accepts(peer)
        ]


def make_plan(cases: Sequence[Case], peers: Sequence[Peer], rounds: int) -> Plan:
    """Leave out what this machine lacks, and say how it is installed."""
    missing = [f"{peer.name}: {peer.install}" for peer in peers if not peer.is_installed()]
    if not wrk.is_installed() and any(case.needs_wrk for case in cases):
        missing.append(f"wrk: {wrk.INSTALL}")
        cases = [case for case in cases if not case.needs_wrk]
    present = [peer for peer in peers if peer.is_installed()]
    return Plan(cases, present, rounds, missing)


@contextmanager
def running_bench(seconds: int) -> Iterator[Bench]:
    """Move this process to the load's core and start the upstreams there; end them after."""
    allowed = os.sched_getaffinity(0)
    proxy_core, load_core, spare_cores = choose_cores()
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, allowed)
        os.sched_setaffinity(0, {load_core})
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="hermes-bench-"))
        directory = Path(name)
        sink = stack.enter_context(SyslogSink())
        upstreams = stack.enter_context(running_upstreams(directory, load_core))
        yield Bench(
            directory=directory,
            seconds=seconds,
            proxy_core=proxy_core,
            load_core=load_core,
            spare_cores=spare_cores,
            upstreams=upstreams,
            syslog_port=sink.port,
            certificate=certificate.make_certificate(directory),
        )


def run(plan: Plan, bench: Bench, progress: Callable[[Step], None]) -> Results:
    """Measure all steps. A peer that fails a step is reported; the others go on."""
    results = Results()
    if any(case.needs_certificate for case in plan.cases):
        if bench.certificate is None:
            plan = replace(plan, cases=[case for case in plan.cases if not case.needs_certificate])
            results.problems.append(
                f"TLS: not measured, for want of trustme: {certificate.INSTALL}"
            )
        else:
            results.problems += _doubts_of_tls(bench.certificate, bench.directory)
    for case in plan.cases:
        if left_out := case.left_out(bench):
            results.problems.append(f"{case.name}: {left_out}")
    for step in plan.steps():
        progress(step)
        try:
            results.add(step.case.name, step.peer.name, step.case.measure(step.peer, bench))
        except (BenchError, OSError) as error:
            results.fail(step.case.name, step.peer.name, error)
    return results


def _doubts_of_tls(made: Certificate, directory: Path) -> list[str]:
    wanted = f"{tls.VERSION} {tls.CIPHER}"
    try:
        spoken = tls.what_wrk_speaks(made, directory)
    except OSError as error:
        return [f"TLS: {error}"]
    if spoken == wanted:
        return []
    return [f"TLS: wrk speaks {spoken}, not only {wanted}: each peer may have another"]
