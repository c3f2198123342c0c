"""Ten clients, one of which sends half of all requests, to servers that can't serve all: the
response times of the other nine."""

from __future__ import annotations

from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Final

from bench.papers.lab import PATIENT, SERVERS
from hermes_lb.lab.fleet import maker
from hermes_lb.lab.recording import START, Recording, Session
from hermes_lb.lab.traffic import RecordedTraffic, Setup

if TYPE_CHECKING:
    from hermes_lb.lab.recording import Call

_CLIENTS: Final = 10
_LOAD: Final = 1.2
SETUP: Final = Setup(limit=16)  # a server's slots: all others wait at the balancer


def light_clients(recording: Recording, strategy: str, seed: int) -> float:
    """Their mean response time, in seconds: requests of a recording, given to clients by chance."""
    rng = Random(f"{seed} clients")
    rate = _LOAD * SERVERS / recording.work(SETUP.model)
    calls: list[list[Call]] = [[] for _ in range(_CLIENTS)]
    now = 0.0
    for session in recording.sessions:
        now += rng.expovariate(rate)
        client = 0 if rng.random() < 0.5 else rng.randrange(1, _CLIENTS)
        calls[client].append(session.calls[0]._replace(after=START, pause=now))
    sessions = [Session(str(i), 0.0, own) for i, own in enumerate(calls)]
    traffic = RecordedTraffic(Recording(sessions, ""), "clients", SETUP)
    workload = traffic.workload(seed, SERVERS, None, is_drawn=False)
    fleet = traffic.fleet(SERVERS, now)
    run = fleet.run(maker(strategy), workload, Random(seed), queue_timeout=PATIENT)
    latencies = run.play().latencies
    return fmean(latencies[i] for i, user in enumerate(workload.users) if user)
