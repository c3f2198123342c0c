"""`python -m hermes_lb lab`: options, run, output."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hermes_lb import signals
from hermes_lb.lab import traces
from hermes_lb.lab.experiment import Experiment
from hermes_lb.lab.html import page, picture
from hermes_lb.lab.interruption import sigterm_interrupts
from hermes_lb.lab.report import print_result
from hermes_lb.lab.scenarios import SCENARIOS
from hermes_lb.lab.study import Sweep, compared
from hermes_lb.lab.summary import GOAL
from hermes_lb.lab.tables import csv_of
from hermes_lb.lab.traffic import RecordedTraffic, ScenarioTraffic, Setup

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hermes_lb.lab.traffic import Traffic

_PIPE_WIDTH = 132  # columns
_INTERRUPTED = 130  # as a shell reports a command ended by SIGINT
_REQUESTS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Asked:
    """The options. `servers` and `requests` of None: the default of the kind of run."""

    strategies: Sequence[str]
    scenarios: Sequence[str]
    servers: int | None
    requests: int | None
    seed: int
    trace: Path | None
    backend: str | None  # of the trace
    live: bool
    agents: bool
    why: int | None
    output: Path
    setup: Setup = field(default_factory=Setup)
    seeds: int = 1
    sweep: Sweep = field(default_factory=Sweep)
    goal: str = GOAL


def run(asked: Asked) -> int:
    """Run it in the main thread; SIGINT and SIGTERM end it and everything it has started.

    Returns the exit status: 1 if live and virtual do not agree, 130 if it was interrupted. Raises
    OSError if a file can't be read or written, ValueError if the trace has no request.
    """
    errors = Console(stderr=True)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)  # wrapped tables are unreadable
    try:
        with sigterm_interrupts():
            signals.release()
            return (_live if asked.live else _virtual)(asked, console, errors)
    except KeyboardInterrupt:
        errors.print("hermes-lb: the laboratory was interrupted", highlight=False, soft_wrap=True)
        return _INTERRUPTED


def _virtual(asked: Asked, console: Console, errors: Console) -> int:
    requests = asked.requests or _REQUESTS
    experiment = Experiment(
        asked.strategies, asked.servers or 10, requests, asked.seed, asked.why, asked.setup
    )
    traffics: list[Traffic] = []
    if asked.trace is None:
        names = asked.scenarios or SCENARIOS
        traffics += [ScenarioTraffic(name, requests, asked.setup) for name in names]
    else:
        recording = traces.read(asked.trace, asked.requests, asked.backend)
        if asked.servers is None and recording.servers:
            experiment.servers = max(2, len(set(recording.servers)))
        traffics.append(RecordedTraffic(recording, asked.trace.name, asked.setup))
    _can_write(asked.output / "lab.json")
    with _progress(experiment, errors):
        results = [
            compared(experiment, traffic, asked.seeds, asked.sweep, asked.goal)
            for traffic in traffics
        ]
    for result in results:
        print_result(console, result)
    _write(asked.output / "lab.json", json.dumps({"results": results}) + "\n", console)
    _write(asked.output / "lab.csv", csv_of(results), console)
    _write(asked.output / "lab.html", page(results), console)
    for result in results:
        # Not for a trace, which is named by its file.
        if result["scenario"] in SCENARIOS and (drawn := picture(result)):
            _write(asked.output / f"{result['scenario']}.svg", drawn, console)
    return 0


def _can_write(path: Path) -> None:
    """Raises OSError if it is not writable, before the run. Makes the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    path.open("a").close()
    if is_new:
        path.unlink()  # an interrupted run leaves no empty file


@contextmanager
def _progress(experiment: Experiment, errors: Console) -> Iterator[None]:
    """A bar on a terminal; in a pipe a line for each finished strategy."""
    if not errors.is_terminal:
        experiment.finished = lambda scenario, strategy: errors.print(
            f"{scenario}: {strategy}", highlight=False, soft_wrap=True
        )
        yield
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=errors, transient=True) as shown:
        task = shown.add_task("", total=1.0)
        experiment.progress = lambda scenario, strategy, share: shown.update(
            task, description=f"{scenario}: {strategy}", completed=share
        )
        yield


def _live(asked: Asked, console: Console, errors: Console) -> int:
    from hermes_lb.lab.live import compare, print_comparison

    requests = asked.requests or (200 if asked.agents else 600)
    _can_write(asked.output / "live.json")
    rows = compare(
        asked.strategies, asked.servers or 4, requests, asked.seed, with_agents=asked.agents,
        report=partial(errors.print, highlight=False, soft_wrap=True),
    )  # fmt: skip
    print_comparison(console, rows)
    _write(asked.output / "live.json", json.dumps(rows, indent=1) + "\n", console)
    return int(any(row["agrees"] is False for row in rows))


def _write(path: Path, text: str, console: Console) -> None:
    path.write_text(text, encoding="utf-8")
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
