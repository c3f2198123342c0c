"""Rounds of measurements, interleaved and in random order: what disturbs hits every peer alike."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from bench.live import certificate
from bench.live.bench import Bench, choose_cores
from bench.live.cases.base import SlicedCase
from bench.live.errors import BenchError
from bench.live.loads import tls, wrk
from bench.live.results import Results
from bench.live.upstreams import SyslogSink, running_upstreams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.live.cases.base import Case, Sample
    from bench.live.certificate import Certificate
    from bench.live.peers.base import Peer, Running

_REST = 0.05  # s, for a proxy to close the connections of a slice before it is stopped


@dataclass(frozen=True)
class Plan:
    """The measurements of a run, and those left out, with the reason."""

    cases: Sequence[Case]
    peers: Sequence[Peer]
    rounds: int
    missing: Sequence[str]  # "wrk: apt-get install wrk"
    seed: int  # of the order of peers in each round

    def peers_of(self, case: Case) -> list[Peer]:
        return [peer for peer in self.peers if case.accepts(peer)]

    def is_empty(self) -> bool:
        return not any(map(self.peers_of, self.cases))


def make_plan(cases: Sequence[Case], peers: Sequence[Peer], rounds: int, seed: int) -> Plan:
    """Leave out what this machine lacks, and say how it is installed."""
    missing = [f"{peer.name}: {peer.install}" for peer in peers if not peer.is_installed()]
    if not wrk.is_installed() and any(case.needs_wrk for case in cases):
        missing.append(f"wrk: {wrk.INSTALL}")
        cases = [case for case in cases if not case.needs_wrk]
    present = [peer for peer in peers if peer.is_installed()]
    return Plan(cases, present, rounds, missing, seed)


@contextmanager
def running_bench(seconds: float) -> Iterator[Bench]:
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


def run(plan: Plan, bench: Bench, progress: Callable[[str], None]) -> Results:
    """Measure everything. A peer that fails a case is reported; the others go on."""
    results = Results([peer.name for peer in plan.peers])
    if any(case.needs_certificate for case in plan.cases):
        if bench.certificate is None:
            plan = replace(plan, cases=[case for case in plan.cases if not case.needs_certificate])
            results.problems.append(
                f"TLS: not measured, for want of trustme: {certificate.INSTALL}"
            )
        else:
            results.problems += _doubts_of_tls(bench.certificate, bench.directory)
    rng = Random(plan.seed)
    for case in plan.cases:
        if left_out := case.left_out(bench):
            results.problems.append(f"{case.name}: {left_out}")
        with _measuring(case, plan.peers_of(case), bench, results) as measure:
            rounds = case.rounds(plan.rounds, bench.seconds)
            for number in range(1, rounds + 1):
                progress(f"{case.name:12} {number:3}/{rounds}")
                peers = plan.peers_of(case)
                for peer in rng.sample(peers, len(peers)):
                    with _reporting(results, case, peer):
                        if (sample := measure(peer)) is not None:
                            results.add(case.name, peer.name, sample, number)
    return results


@contextmanager
def _measuring(
    case: Case, peers: Sequence[Peer], bench: Bench, results: Results
) -> Iterator[Callable[[Peer], Sample | None]]:
    """A function that measures a peer of the case once; None: it did not start."""
    if not isinstance(case, SlicedCase):
        yield partial(case.measure, bench=bench)
        return
    proxies: dict[str, Running] = {}

    def measure(peer: Peer) -> Sample | None:
        if (proxy := proxies.get(peer.name)) is None:
            return None
        with _resumed(proxy):
            return case.measure_slice(proxy, bench, case.SLICE)

    with ExitStack() as stack:
        for peer in peers:
            # Outside of the proxy, so that it also reports one that has died.
            stack.enter_context(_reporting(results, case, peer))
            with _reporting(results, case, peer):
                proxy = stack.enter_context(case.started(peer, bench))
                proxies[peer.name] = proxy
                if proxy.process:
                    proxy.process.pause()
        yield measure


@contextmanager
def _resumed(proxy: Running) -> Iterator[None]:
    if proxy.process is None:
        yield
        return
    proxy.process.resume()
    try:
        yield
    finally:
        time.sleep(_REST)
        proxy.process.pause()


@contextmanager
def _reporting(results: Results, case: Case, peer: Peer) -> Iterator[None]:
    try:
        yield
    except (BenchError, OSError) as error:
        results.fail(case.name, peer.name, error)


def _doubts_of_tls(made: Certificate, directory: Path) -> list[str]:
    wanted = f"{tls.VERSION} {tls.CIPHER}"
    try:
        spoken = tls.what_wrk_speaks(made, directory)
    except OSError as error:
        return [f"TLS: {error}"]
    if spoken == wanted:
        return []
    return [f"TLS: wrk speaks {spoken}, not only {wanted}: each peer may have another"]
