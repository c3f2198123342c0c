"""The README's table, from the record of a run."""

from __future__ import annotations

from bench.live.cases.base import Sample
from bench.live.markdown import render
from bench.live.results import Results

MACHINE = {
    "date": "2026-12-01T10:00:00+00:00",
    "cpu": "Some CPU",
    "cores": 2,
    "kernel": "6.1",
    "peers": {"hermes_lb": "0.1", "haproxy": "HAProxy 2.6"},
    "pythons": {"hermes_lb": "Python 3.11.2, PGO"},
}


def test_ratios_figures_and_the_machine() -> None:
    results = Results()
    for number in (1, 2):
        for peer, factor in (("hermes_lb", 0.9), ("haproxy", 1.0)):
            get = Sample({"per_second": 100.0 * number * factor})
            results.add("get", peer, get, number)
            tokens = Sample({"cpu_us": 10.0 / factor, "memory_kb": 4.44})
            results.add("tokens-3000", peer, tokens, number)
    record = {
        "machine": MACHINE,
        "run": {"rounds": 2, "seconds": 3.0},
        "cases": results.to_json(),
        "problems": ["others used the machine"],
    }

    assert render(record).splitlines() == [
        "| | hermes-lb | HAProxy |",
        "|---|---|---|",
        "| small GET, requests/s | **0.90** | 1 |",
        "| CPU per streamed token, 3,000 streams | **1.11** | 1 |",
        "| memory per live stream, 3,000 streams | **4.4 KB** | 4.4 KB |",
        "",
        "One run of 2026-12-01: Some CPU, 2 cores, Linux 6.1; 2 rounds of 3 s.",
        "- hermes-lb: Python 3.11.2, PGO",
        "- HAProxy: HAProxy 2.6",
        "",
        "Half of a ratio's 95 % interval is 0% of it at the median, 0% at most.",
        "- Doubt: others used the machine",
    ]
