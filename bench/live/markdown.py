"""`python -m bench.live.markdown [FILE]`: the README's table, from the record of one run.

FILE is `live.json` as `python -m bench.live` writes it. A cell is the median over the rounds of the
ratio to HAProxy's figure of the same round, or the bare figure where a unit is shown.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.live.requirements import COMPILED, US
from bench.live.results import Results
from bench.live.spread import interval

if TYPE_CHECKING:
    from collections.abc import Iterator

_RECORD = Path(__file__).resolve().parents[1] / "results" / "live.json"
_BASE = "haproxy"


class _Row(NamedTuple):
    title: str
    case: str
    metric: str
    unit: str = ""  # "": the ratio to _BASE


_ROWS = (
    _Row("small GET, requests/s", "get", "per_second"),
    _Row("the same, every head different", "get-varied", "per_second"),
    _Row("POST of an LLM SDK (16 header fields), requests/s", "post", "per_second"),
    _Row("a connection per request, requests/s", "close", "per_second"),
    _Row("small GET over TLS, requests/s", "get-tls", "per_second"),
    _Row("CPU per streamed token, 300 streams", "tokens-300", "cpu_us"),
    _Row("CPU per streamed token, 3,000 streams", "tokens-3000", "cpu_us"),
    _Row("CPU per WebSocket frame", "websocket", "cpu_us"),
    _Row("memory per live stream, 3,000 streams", "tokens-3000", "memory_kb", "KB"),
    _Row("added to the first token, p99", "first-token", "added_p99_ms", "ms"),
)
_COLUMNS = {
    US: "hermes-lb",
    COMPILED: "hermes-lb, compiled",
    "haproxy": "HAProxy",
    "haproxy-ring": "HAProxy, log in a ring",
    "haproxy-silent": "HAProxy, no log",
    "nginx": "nginx",
    "nginx-current": "nginx, current",
    "envoy": "Envoy",
    "aiohttp": "aiohttp pair",
}


def render(record: dict[str, Any]) -> str:
    """The table, and below it the machine, the versions and how far the figures can be trusted."""
    results = Results.from_json(record["cases"])
    rows = [row for row in _ROWS if row.case in results.cases()]
    peers = [peer for peer in _COLUMNS if any(peer in results.peers(row.case) for row in rows)]
    lines = [
        f"| | {' | '.join(_COLUMNS[peer] for peer in peers)} |",
        f"|---|{'---|' * len(peers)}",
        *(f"| {row.title} | {' | '.join(_cells(results, row, peers))} |" for row in rows),
    ]
    return "\n".join([*lines, "", *_notes(record, results, rows, peers)]) + "\n"


def _cells(results: Results, row: _Row, peers: list[str]) -> Iterator[str]:
    for peer in peers:
        values = _figures(results, row, peer)
        if not values:
            yield ""
            continue
        number = statistics.median(values)
        text = "1" if peer == _BASE and not row.unit else f"{number:.{1 if row.unit else 2}f}"
        text += f" {row.unit}" if row.unit else ""
        yield f"**{text}**" if peer in {US, COMPILED} else text


def _figures(results: Results, row: _Row, peer: str) -> list[float]:
    return results.figures(row.case, peer, row.metric, None if row.unit else _BASE)


def _notes(
    record: dict[str, Any], results: Results, rows: list[_Row], peers: list[str]
) -> Iterator[str]:
    machine, run = record["machine"], record["run"]
    yield (
        f"One run of {machine['date'][:10]}: {machine['cpu']}, {machine['cores']} cores, "
        f"Linux {machine['kernel']}; {run['rounds']} rounds of {run['seconds']:g} s."
    )
    for peer in peers:
        version = machine["pythons"].get(peer) or machine["peers"].get(peer, "")
        yield f"- {_COLUMNS[peer]}: {version}"
    widths = [
        (found[1] - found[0]) / 2 / statistics.median(values)
        for row in rows
        if not row.unit
        for peer in peers
        if peer != _BASE
        and (values := _figures(results, row, peer))
        and (found := interval(values))
    ]
    if widths:
        yield ""
        yield (
            f"Half of a ratio's 95 % interval is {statistics.median(widths):.0%} of it at the "
            f"median, {max(widths):.0%} at most."
        )
    for problem in record["problems"]:
        yield f"- Doubt: {problem}"


def main() -> int:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else _RECORD
    if not path.exists():
        print(f"{path} is missing; to make it: python -m bench.live", file=sys.stderr)
        return 1
    print(render(json.loads(path.read_text())), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
