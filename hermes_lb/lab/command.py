"""`python -m hermes_lb lab`: options, run, output."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hermes_lb import signals
from hermes_lb.lab.experiment import Experiment
from hermes_lb.lab.html import page, picture
from hermes_lb.lab.interruption import sigterm_interrupts
from hermes_lb.lab.report import print_result
from hermes_lb.lab.scenarios import SCENARIOS
from hermes_lb.lab.trace import read_trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_PIPE_WIDTH = 132  # columns
_INTERRUPTED = 130  # as a shell reports a command ended by SIGINT


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
    experiment = Experiment(
        asked.strategies, asked.servers or 10, asked.requests or 20_000, asked.seed, asked.why
    )
    if asked.trace is None:
        plays = [partial(experiment.scenario, name) for name in asked.scenarios or SCENARIOS]
    else:
        with asked.trace.open(encoding="utf-8", errors="replace") as lines:
            trace = read_trace(lines, asked.requests, asked.backend)
        experiment.servers = asked.servers or max(2, len(set(trace.servers)))
        plays = [partial(experiment.trace, trace, asked.trace.name)]
    _can_write(asked.output / "lab.json")
    with _progress(experiment, errors):
        results = [play() for play in plays]
    for result in results:
        print_result(console, result)
    _write(asked.output / "lab.json", json.dumps({"results": results}) + "\n", console)
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
    return int(not all(row["agrees"] for row in rows))


def _write(path: Path, text: str, console: Console) -> None:
    path.write_text(text, encoding="utf-8")
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
