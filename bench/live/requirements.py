"""The performance requirements, as data, and whether a run meets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bench.live.results import Results

US = "hermes_lb"


@dataclass(frozen=True)
class Requirement:
    """A bound on our figure, or on its ratio to a peer's."""

    title: str
    case: str
    metric: str
    against: str | None  # the peer, or None for the bare figure
    sense: Literal[">=", ">", "<=", "<"]
    must: float
    aim: float | None = None
    # The figure that the aim is compared with when it is another peer's than the must's.
    aim_against: str | None = None
    unit: str = ""
    peer: str = US  # whose figure it is


REQUIREMENTS = (
    Requirement("small GET", "get", "per_second", "haproxy", ">=", 0.50, 0.85),
    Requirement("small GET", "get", "per_second", "envoy", ">=", 1.5),
    Requirement("small GET", "get", "per_second", "aiohttp", ">=", 5.0),
    Requirement("SDK POST", "post", "per_second", "haproxy", ">=", 0.40, 0.70),
    Requirement("connection per request", "close", "per_second", "haproxy", ">=", 0.55, 0.85),
    Requirement("connection per request", "close", "per_second", "envoy", ">", 1.0),
    Requirement("TLS, small GET", "get-tls", "per_second", "haproxy", ">=", 0.45, 0.80),
    Requirement("WebSocket, CPU per frame", "websocket", "cpu_us", "haproxy", "<=", 1.3, 1.0),
    Requirement("CPU per token, 300 streams", "tokens-300", "cpu_us", "haproxy", "<=", 1.3, 1.0),
    Requirement("CPU per token, 300 streams", "tokens-300", "cpu_us", "envoy", "<", 1.0),
    # At most 15 % more for a stream that can be resumed.
    Requirement(
        "plain beside resumable streams", "tokens-300", "cpu_us", "hermes_lb-resume", ">=", 1 / 1.15
    ),
    Requirement("CPU per token, 3,000 streams", "tokens-3000", "cpu_us", "haproxy", "<=", 1.3, 1.0),
    Requirement("CPU per token, 3,000 streams", "tokens-3000", "cpu_us", "envoy", "<", 1.0),
    Requirement(
        "memory per stream, 3,000 streams",
        "tokens-3000",
        "memory_kb",
        None,
        "<=",
        8.0,
        1.0,
        aim_against="haproxy",
        unit="KB",
    ),
    Requirement(
        "added to the first token, p99",
        "first-token",
        "added_p99_ms",
        None,
        "<=",
        5.0,
        1.0,
        unit="ms",
    ),
    Requirement("two workers", "processes", "per_second", US, ">=", 1.8, peer="hermes_lb-2"),
    # "Nothing extra": 5 % are what a run can tell apart.
    Requirement(
        "one worker, CPU per request", "processes", "cpu_us", "hermes_lb-embedded", "<=", 1.05
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What a run says of one requirement. None: not measured."""

    requirement: Requirement
    value: float | None
    is_met: bool | None
    is_aim_met: bool | None

    @property
    def asked(self) -> str:
        return _bound(self.requirement, self.requirement.must, self.requirement.against)

    @property
    def aim(self) -> str:
        wanted = self.requirement
        if wanted.aim is None:
            return ""
        return _bound(wanted, wanted.aim, wanted.aim_against or wanted.against)


def judge(results: Results) -> list[Verdict]:
    """One verdict for each requirement, in their order."""
    verdicts = []
    for wanted in REQUIREMENTS:
        value = _figure(results, wanted, wanted.against)
        aimed = _figure(results, wanted, wanted.aim_against or wanted.against)
        verdicts.append(
            Verdict(
                wanted,
                value,
                _holds(value, wanted.sense, wanted.must),
                _holds(aimed, wanted.sense, wanted.aim),
            )
        )
    return verdicts


def _figure(results: Results, wanted: Requirement, against: str | None) -> float | None:
    if against is None:
        return results.median(wanted.case, wanted.peer, wanted.metric)
    return results.ratio(wanted.case, wanted.peer, wanted.metric, against)


def _holds(value: float | None, sense: str, bound: float | None) -> bool | None:
    if value is None or bound is None:
        return None
    return {
        ">=": value >= bound,
        ">": value > bound,
        "<=": value <= bound,
        "<": value < bound,
    }[sense]


def _bound(wanted: Requirement, bound: float, against: str | None) -> str:
    unit = f" x {against}" if against else f" {wanted.unit}"
    return f"{wanted.sense} {bound:g}{unit}"
