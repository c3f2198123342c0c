"""Each claim: who says what, the figure, the run that checks it, and what differs.

A claim is a ratio: by how much the baseline's figure is worse than the strategy's. Where the
baseline is overloaded that says nothing but how long the run was, so loads are the highest ones, in
tenths, at which it keeps up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from bench.papers import pushing, stealing
from bench.papers.clients import light_clients
from bench.papers.lab import PATIENT, Pair
from hermes_lb.lab.intervals import Ratio, ratio
from hermes_lb.lab.traffic import Setup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.papers.lab import Lab

    Check = Callable[[Lab, int], Pair]  # of a seed

AGENTS: Final = "agent_sessions.csv.gz"
CODE: Final = "azure_llm_2023_code.csv.gz"
CONVERSATION: Final = "mooncake_conversation.jsonl.gz"
_LOADS: Final = [round(0.3 + 0.05 * i, 2) for i in range(25)]


@dataclass(frozen=True, slots=True)
class Claim:
    """`check` gives the figures of the baseline and of the strategy in a seed's workload."""

    strategy: str
    baseline: str
    source: str
    says: str
    figure: str  # the paper's, as it is written
    claimed: float  # its least: the ratio that confirms it
    run: str  # what was run here
    differs: str
    check: Check
    is_lower_better: bool = True
    unit: str = "s"  # of both figures

    @property
    def key(self) -> str:
        return f"{self.strategy}/{self.baseline}: {self.source}; {self.run}"

    def ratio(self, pairs: Sequence[Pair]) -> Ratio:
        """How many times better the strategy is, over the seeds."""
        worse, better = [one.baseline for one in pairs], [one.strategy for one in pairs]
        return ratio(worse, better) if self.is_lower_better else ratio(better, worse)


def _of_agents(figure: str, baseline: str, strategy: str, load: float) -> Check:
    setup = Setup(load=load, queue_timeout=PATIENT)

    def check(lab: Lab, seed: int) -> Pair:
        traffic = lab.recorded(AGENTS, setup)
        return lab.pair(traffic, setup, figure, (baseline, strategy), seed)

    return check


def _of_code(figure: str, baseline: str, strategy: str, setup: Setup) -> Check:
    patient = replace(setup, queue_timeout=PATIENT)

    def check(lab: Lab, seed: int) -> Pair:
        traffic = lab.recorded(CODE, patient)
        return lab.pair(traffic, patient, figure, (baseline, strategy), seed)

    return check


def _capacity(lab: Lab, seed: int) -> Pair:
    setup = Setup(queue_timeout=PATIENT)
    traffic = lab.recorded(CONVERSATION, setup)
    return lab.capacities(traffic, setup, ("leastconn", "dual_map"), _LOADS, 30.0, seed)


def _clients(lab: Lab, seed: int) -> Pair:
    recording = lab.recording(CODE)
    return Pair(*(light_clients(recording, name, seed) for name in ("leastconn", "fair_queue")))


def _herd(strategy: str, baseline: str) -> Check:
    setup = Setup(balancers=4, share=1.0, slots=1, load=0.8)

    def check(lab: Lab, seed: int) -> Pair:
        traffic = lab.scenario("short", setup, 20_000)
        return lab.pair(traffic, setup, "latency_mean", (baseline, strategy), seed, 10)

    return check


def _two_choices(lab: Lab, seed: int) -> Pair:
    setup = Setup(slots=1, load=0.9)
    traffic = lab.scenario("short", setup, 100_000)
    return lab.pair(traffic, setup, "latency_mean", ("random", "p2c"), seed, 50)


_SAGA: Final = "SAGA, arXiv 2605.00528, HPDC 2026"

CLAIMS: Final = (
    Claim(
        "least_sessions", "consistent_hash",
        "vLLM router, pull request 235; prime-rl, pull request 3563",
        "a new session at the worker with the fewest active ones, and it stays: better than "
        "consistent hashing",
        "\"strictly better\"", 1.0,
        "agents, load 0.5: mean time per response",
        "no figure is published; their sessions have no pauses of users",
        _of_agents("latency_mean", "consistent_hash", "least_sessions", 0.5),
    ),
    Claim(
        "dual_map", "leastconn", "DualMap, arXiv 2602.06502, ICLR 2026",
        "two servers by hashes of the prefix, the less loaded is taken: more requests within the "
        "same objective for the time to first token",
        "up to 2.25 times", 2.25,
        "Mooncake's conversations: the highest load with a p99 time to first token below 30 s",
        "the key is the session and not the prefix; no migration; the baseline is `leastconn`, "
        "theirs the best of several schedulers; \"up to\" is their best case; loads are multiples "
        "of 0.05",
        _capacity, is_lower_better=False, unit="of capacity",
    ),
    Claim(
        "session_stealing", "consistent_hash", _SAGA,
        "affinity with work stealing: shorter task completion than prefix caching with affinity",
        "1.64 times", 1.64,
        "agents, load 0.5: mean time per session, pauses included, `gap` 16",
        "most of a session's time here are pauses, which no balancer shortens; no eviction by the "
        "agent's graph; sessions are stolen between turns only",
        _of_agents("session_mean", "consistent_hash", stealing.NAME, 0.5),
    ),
    Claim(
        "session_stealing", "consistent_hash", _SAGA,
        "the same by the time of responses alone",
        "1.64 times", 1.64,
        "agents, load 0.5: mean time per response, `gap` 16",
        "the same but for the pauses",
        _of_agents("latency_mean", "consistent_hash", stealing.NAME, 0.5),
    ),
    Claim(
        "session_stealing", "consistent_hash", _SAGA,
        "the same where sessions move for less than a move costs",
        "1.64 times", 1.64,
        "agents, load 0.5: mean time per response, `gap` 4, the default",
        "a moved session's prefix is computed again, some ten seconds of a server here",
        _of_agents("latency_mean", "consistent_hash", "session_stealing", 0.5),
    ),
    Claim(
        "session_stealing", "leastconn", "MORI, arXiv 2606.00866",
        "placing agents by what they do between calls: lower time to first token",
        "18 to 43 % lower", 1.22,
        "agents, load 0.2: mean time to first token, `gap` 16",
        "MORI moves caches between the memory of the GPU and of the host on one server; here a "
        "session moves between servers, and the baseline has no affinity",
        _of_agents("first_mean", "leastconn", stealing.NAME, 0.2),
    ),
    Claim(
        "selective_push", "leastconn", "SkyWalker, arXiv 2505.24095, EuroSys 2026",
        "requests wait at the balancer until a server has room, and go where their prefix is: "
        "lower latency than existing balancers",
        "1.74 to 6.30 times", 1.74,
        "agents, load 0.2: mean time per response, `slots` 16",
        "one region; the key is the session; most of it is affinity, which `leastconn` has not",
        _of_agents("latency_mean", "leastconn", pushing.NAME, 0.2),
    ),
    Claim(
        "selective_push", "consistent_hash", "SkyWalker, arXiv 2505.24095, EuroSys 2026",
        "the same beside a balancer that goes by prefixes too",
        "1.74 to 6.30 times", 1.74,
        "agents, load 0.5: mean time per response, `slots` 16",
        "the same; this is what the queue at the balancer adds to affinity",
        _of_agents("latency_mean", "consistent_hash", pushing.NAME, 0.5),
    ),
    Claim(
        "least_tokens", "leastconn", "PreServe, arXiv 2504.03702, ICSE 2026",
        "routing by the expected work of requests: lower tail latency",
        "41.3 % lower", 1.70,
        "Azure's code trace at load 0.9: p99 time per response",
        "their predictions are a model's, here they are the length and averages; their figure "
        "includes scaling in advance",
        _of_code("latency_p99", "leastconn", "least_tokens", Setup(load=0.9)),
    ),
    Claim(
        "fair_queue", "leastconn", "VTC, Sheng et al., OSDI 2024",
        "a queue by tokens served: clients that send less than their share are isolated from one "
        "that floods, where first come, first served delays all",
        "isolated", 1.0,
        "Azure's code trace given to ten clients, one of which sends half of it, load 1.2, "
        "`max_connections` 16, so that requests wait at the balancer: mean time per response of "
        "the other nine",
        "four servers behind one queue; tokens are expected ones, corrected when a request ends",
        _clients,
    ),
    Claim(
        "p2c", "random", "Mitzenmacher, 1996: the supermarket model",
        "two choices instead of one: an exponential improvement",
        "3.8 times (10 and 2.61 service times)", 3.5,
        "50 servers of one slot, load 0.9: mean time per response",
        "50 servers instead of the limit of many; the run begins empty",
        _two_choices,
    ),
    Claim(
        "random", "leastconn", "Mitzenmacher, \"How Useful Is Old Information?\", 2000",
        "by old loads the least loaded server of all is worse than a random one: the herd effect",
        "worse beyond some age", 1.0,
        "four balancers that exchange loads each second (20 service times), ten servers of one "
        "slot, load 0.8: mean time per response",
        "balancers know their own requests at once; only the others' are old",
        _herd("random", "leastconn"),
    ),
    Claim(
        "p2c", "leastconn", "Mitzenmacher, \"How Useful Is Old Information?\", 2000",
        "two choices remain good with old loads",
        "better than the least of all", 1.0,
        "the same",
        "the same",
        _herd("p2c", "leastconn"),
    ),
)  # fmt: skip
