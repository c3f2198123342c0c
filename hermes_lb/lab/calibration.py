"""The model of a server that fits a recording: least squares over its calls.

Of a trace of agents: seconds = fixed + token * uncached input + output * output tokens, where a
call's own prefix counts as cached. Of an access log: seconds per byte after the response's head, by
the requests in flight at the server, which shows how far occupied slots slow each other.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.lab import traces
from hermes_lb.lab.llm import Model
from hermes_lb.lab.recording import uncached

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hermes_lb.lab.recording import Recording

_LEAST: Final = 20  # calls
_BYTES: Final = 4.0  # of a token, in English text


def read_model(path: Path | None) -> Model:
    """From JSON as `calibrate` prints it; None: the default. Raises OSError or ValueError."""
    if path is None:
        return Model()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or not isinstance(values.get("model", values), dict):
            raise ValueError("it is not an object")
        return Model.of(values.get("model", values))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def calibrate(path: Path, backend: str | None = None) -> dict[str, Any]:
    """`model`, its parameters; `fitted`, which of them; `error`, the fit's median relative error.

    Raises OSError, or ValueError if the recording has nothing to fit.
    """
    recording = traces.read(path, None, backend)
    return _of_calls(recording) if recording.is_llm else _of_log(path, backend)


def _of_calls(recording: Recording) -> dict[str, Any]:
    rows: list[tuple[list[float], float]] = []
    for session in recording.sessions:
        stops: dict[int, int] = {}
        for call in session.calls:
            new = uncached(call.input, call.blocks, stops)
            if call.length > 0.0:
                rows.append(([1.0, float(new), float(call.output)], call.length))
    if len(rows) < _LEAST:
        raise ValueError(f"it has {len(rows)} calls with their durations; {_LEAST} are needed")
    # Relative errors: a long call must not outweigh a hundred short ones.
    fixed, token, output = _least_squares([([value / y for value in x], 1.0) for x, y in rows])
    usual = Model()
    # A lone request's output token takes an iteration; its prefill is by chunks of them.
    base = max(1e-4, output - usual.sequence)
    model = replace(usual, base=base, token=max(0.0, token - base / usual.chunk), move=usual.move)
    errors = [abs(fixed + token * x[1] + output * x[2] - y) / y for x, y in rows]
    return {
        "model": model.as_json(),
        "fitted": ["base", "token"],
        "calls": len(rows),
        "fixed_seconds": round(fixed, 6),
        "seconds_per_uncached_token": round(token, 9),
        "seconds_per_output_token": round(output, 9),
        "error": round(median(errors), 4),
    }


def _of_log(path: Path, backend: str | None) -> dict[str, Any]:
    """Of the times of responses by what was in flight beside them."""
    log = traces.read_log(path, backend)
    by_load: dict[int, list[float]] = defaultdict(list)
    for entry in log.entries:
        seconds = entry.length - entry.first
        if entry.load >= 0 and entry.size > 0 and seconds > 0.0:
            by_load[entry.load + 1].append(seconds / entry.size * _BYTES)
    count = sum(map(len, by_load.values()))
    if count < _LEAST or len(by_load) < 2:
        raise ValueError(
            f"it has {count} streamed responses at {len(by_load)} numbers in flight; "
            f"{_LEAST} at 2 are needed"
        )
    middles = {load: median(values) for load, values in by_load.items()}
    rows = [
        ([weight, weight * load], weight * middles[load])
        for load, values in by_load.items()
        for weight in [len(values) ** 0.5]
    ]
    base, sequence = _least_squares(rows)
    base = max(1e-6, base)
    model = replace(Model(), base=base, sequence=max(0.0, sequence), slots=max(1, max(by_load)))
    errors = [abs(base + model.sequence * load - value) / value for load, value in middles.items()]
    return {
        "model": model.as_json(),
        "fitted": ["base", "sequence", "slots"],
        "calls": count,
        "bytes_per_token": _BYTES,
        "most_in_flight": max(by_load),
        "error": round(fmean(errors), 4),
    }


def _least_squares(rows: Sequence[tuple[Sequence[float], float]]) -> list[float]:
    """Coefficients of 0 or more: by the normal equations; negative ones are set to 0 and the rest
    is fitted again."""
    count = len(rows[0][0])
    active = list(range(count))
    while active:
        matrix = [
            [sum(x[i] * x[j] for x, _ in rows) for j in active] + [sum(x[i] * y for x, y in rows)]
            for i in active
        ]
        solution = _solved(matrix)
        if min(solution) >= 0.0:
            found = [0.0] * count
            for place, value in zip(active, solution, strict=True):
                found[place] = value
            return found
        del active[solution.index(min(solution))]
    return [0.0] * count


def _solved(matrix: list[list[float]]) -> list[float]:
    """Gauss's elimination with pivots; the last column is the right side."""
    size = len(matrix)
    for i in range(size):
        pivot = max(range(i, size), key=lambda row: abs(matrix[row][i]))
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        if not matrix[i][i]:
            raise ValueError("its calls are too much alike to fit a model")
        for row in range(size):
            if row != i:
                share = matrix[row][i] / matrix[i][i]
                matrix[row] = [a - share * b for a, b in zip(matrix[row], matrix[i], strict=True)]
    return [row[-1] / row[i] for i, row in enumerate(matrix)]
