"""`python -m hermes_lb lab`: what is asked, run, shown and written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hermes_lb.lab.experiment import Experiment
from hermes_lb.lab.html import page, picture
from hermes_lb.lab.report import print_result
from hermes_lb.lab.scenarios import SCENARIOS
from hermes_lb.lab.trace import read_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_PIPE_WIDTH = 132  # columns


@dataclass(frozen=True, slots=True)
class Asked:
    """The options. `servers` and `requests` of None: what fits the kind of run."""

    strategies: Sequence[str]
    scenarios: Sequence[str]
    servers: int | None
    requests: int | None
    seed: int
    trace: Path | None
    live: bool
    agents: bool
    why: int | None
    output: Path


def run(asked: Asked) -> int:
    """Run what is asked; exit status 1 if live and virtual do not agree.

    Raises OSError if a file can't be read or written, ValueError if the trace has no request.
    """
    errors = Console(stderr=True)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)  # a table that is wrapped is read by nobody
    if asked.live:
        return _live(asked, console)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=errors, transient=True) as shown:
        task = shown.add_task("", total=1.0)

        def progress(scenario: str, strategy: str, share: float) -> None:
            shown.update(task, description=f"{scenario}: {strategy}", completed=share)

        results = _results(asked, progress)
    for result in results:
        print_result(console, result)
    asked.output.mkdir(parents=True, exist_ok=True)
    _write(asked.output / "lab.json", json.dumps({"results": results}) + "\n", console)
    _write(asked.output / "lab.html", page(results), console)
    for result in results:
        # Not of a trace: its name is a file's.
        if result["scenario"] in SCENARIOS and (drawn := picture(result)):
            _write(asked.output / f"{result['scenario']}.svg", drawn, console)
    return 0


def _results(asked: Asked, progress: Callable[[str, str, float], None]) -> list[dict[str, Any]]:
    experiment = Experiment(
        asked.strategies,
        asked.servers or 10,
        asked.requests or 20_000,
        asked.seed,
        asked.why,
        progress,
    )
    if asked.trace is None:
        return [experiment.scenario(name) for name in asked.scenarios or SCENARIOS]
    with asked.trace.open(encoding="utf-8", errors="replace") as lines:
        trace = read_trace(lines, asked.requests)
    experiment.servers = asked.servers or max(2, len(set(trace.servers)))
    return [experiment.trace(trace, asked.trace.name)]


def _live(asked: Asked, console: Console) -> int:
    from hermes_lb.lab.live import compare, print_comparison

    requests = asked.requests or (200 if asked.agents else 600)
    rows = compare(
        asked.strategies, asked.servers or 4, requests, asked.seed, with_agents=asked.agents
    )
    print_comparison(console, rows)
    asked.output.mkdir(parents=True, exist_ok=True)
    _write(asked.output / "live.json", json.dumps(rows, indent=1) + "\n", console)
    return int(not all(row["agrees"] for row in rows))


def _write(path: Path, text: str, console: Console) -> None:
    path.write_text(text, encoding="utf-8")
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
