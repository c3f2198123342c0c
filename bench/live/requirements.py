"""The performance requirements, as data, and whether a run meets them."""

from __future__ import annotations

import statistics
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


COMPILED = "hermes_lb-compiled"


def _of_each(
    title: str,
    case: str,
    metric: str,
    against: str | None,
    sense: Literal[">=", ">", "<=", "<"],
    *musts: float,
    aim: float,
    aim_against: str | None = None,
    unit: str = "",
) -> list[Requirement]:
    """The same of both builds; `musts` are that of the interpreted and that of the compiled one."""
    return [
        Requirement(title, case, metric, against, sense, must, aim, aim_against, unit, peer)
        for peer, must in zip((US, COMPILED), musts, strict=True)
    ]


REQUIREMENTS = (
    *_of_each("small GET", "get", "per_second", "haproxy", ">=", 0.90, 1.05, aim=1.3),
    *_of_each(
        "every head different", "get-varied", "per_second", "haproxy", ">=", 0.70, 0.85, aim=1
    ),
    *_of_each("SDK POST", "post", "per_second", "haproxy", ">=", 0.80, 0.95, aim=1.1),
    *_of_each("connection per request", "close", "per_second", "haproxy", ">=", 0.9, 1.0, aim=1.1),
    *_of_each("TLS, small GET", "get-tls", "per_second", "haproxy", ">=", 0.70, 0.8, aim=1),
    *(
        requirement
        for title, case in (("HTTP/2, small GET", "get-h2"), ("over TLS", "get-h2-tls"))
        for requirement in (
            *_of_each(title, case, "per_second", "haproxy", ">=", 0.6, 0.6, aim=0.9),
            Requirement(title, case, "per_second", "nginx", ">", 1.0),
        )
    ),
    *_of_each(
        "HTTP/2, on both sides", "get-h2-servers", "per_second", "haproxy", ">=", 0.8, 0.8, aim=1.0
    ),
    *_of_each("HTTP/2, CPU per token", "tokens-h2", "cpu_us", "haproxy", "<=", 1.0, 1.0, aim=0.7),
    *_of_each(
        "HTTP/2, memory per stream", "tokens-h2", "memory_kb", None, "<=", 8, 8, aim=6, unit="KB"
    ),
    *_of_each("CPU per token, 300", "tokens-300", "cpu_us", "haproxy", "<=", 1.15, 1.0, aim=0.9),
    *_of_each("CPU per token, 3,000", "tokens-3000", "cpu_us", "haproxy", "<=", 1.15, 1.0, aim=0.9),
    Requirement(
        "resumable, CPU per token",
        "tokens-300",
        "cpu_us",
        US,
        "<=",
        1.15,
        1.05,
        peer="hermes_lb-resume",
    ),
    Requirement(
        "resumable, CPU per token",
        "tokens-300",
        "cpu_us",
        COMPILED,
        "<=",
        1.15,
        1.05,
        peer="hermes_lb-compiled-resume",
    ),
    *(
        Requirement(f"turns: {title}", case, metric, against, "<=", must, aim, None, unit, peer)
        for peer, plain in (("hermes_lb-turns", US), ("hermes_lb-compiled-turns", COMPILED))
        for title, case, metric, against, must, aim, unit in (
            ("CPU per token", "turns-300", "cpu_us", plain, 1.35, 1.2, ""),
            ("memory per stream", "turns-3000", "memory_kb", None, 8, None, "KB"),
            ("added to the first token, p99", "first-token", "added_p99_ms", None, 2, None, "ms"),
        )
    ),
    *_of_each("memory per stream", "tokens-3000", "memory_kb", None, "<=", 5, 5, aim=4, unit="KB"),
    *_of_each(
        "added to the first token, p99",
        "first-token",
        "added_p99_ms",
        None,
        "<=",
        1,
        1,
        aim=1,
        aim_against="haproxy",
        unit="ms",
    ),
    *_of_each("WebSocket, CPU per frame", "websocket", "cpu_us", "haproxy", "<=", 1.3, 1.3, aim=1),
    Requirement("small GET", "get", "per_second", "envoy", ">=", 1.5),
    Requirement("small GET", "get", "per_second", "aiohttp", ">=", 5.0),
    Requirement("connection per request", "close", "per_second", "envoy", ">", 1.0),
    Requirement("CPU per token, 300", "tokens-300", "cpu_us", "envoy", "<", 1.0),
    Requirement("CPU per token, 3,000", "tokens-3000", "cpu_us", "envoy", "<", 1.0),
    Requirement("two workers", "processes", "per_second", US, ">=", 1.8, peer="hermes_lb-2"),
    *(
        Requirement(
            f"fuller worker, {connections} connections, over its share",
            "spread",
            f"worst_{connections}",
            None,
            "<=",
            1.2,
            peer="hermes_lb-2",
        )
        for connections in (32, 1000)
    ),
    # "Nothing extra": a run can tell 5 % apart.
    Requirement(
        "one worker, CPU per request", "processes", "cpu_us", "hermes_lb-embedded", "<=", 1.05
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What a run says of one requirement. None: not measured, or not to be relied on (`doubt`)."""

    requirement: Requirement
    value: float | None
    is_met: bool | None
    is_aim_met: bool | None
    doubt: str | None = None

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
    return [_verdict(results, wanted) for wanted in REQUIREMENTS]


def _verdict(results: Results, wanted: Requirement) -> Verdict:
    value = _figure(results, wanted, wanted.against)
    doubt = results.doubt(wanted.case, wanted.peer, wanted.metric, wanted.against)
    if value is not None and doubt:
        return Verdict(wanted, value, None, None, doubt)
    return Verdict(
        wanted,
        value,
        _holds(value, wanted.sense, wanted.must),
        _holds(
            _figure(results, wanted, wanted.aim_against or wanted.against), wanted.sense, wanted.aim
        ),
    )


def _figure(results: Results, wanted: Requirement, against: str | None) -> float | None:
    values = results.figures(wanted.case, wanted.peer, wanted.metric, against)
    return statistics.median(values) if values else None


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
