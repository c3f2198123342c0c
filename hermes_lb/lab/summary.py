"""Which strategy for this traffic, by how much, and how sure: in sentences."""

from __future__ import annotations

from math import isinf
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.lab.figures import FIGURES, shown
from hermes_lb.lab.intervals import CONFIDENCE, Estimate, Ratio, estimate, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

GOAL: Final = "latency_mean"
#: Shares may be 0, and are compared by 1 + the share.
_SHARES: Final = ("%", "")
_NEGLIGIBLE: Final = 0.01  # a difference that may be sure, and does not matter


def means(point: dict[str, Any], figure: str) -> dict[str, Estimate]:
    """By strategy: the mean over the seeds, and half of its interval's width."""
    return {name: estimate(runs[figure]) for name, runs in point["runs"].items()}


def summary(points: Sequence[dict[str, Any]], goal: str = GOAL) -> dict[str, Any]:
    """As JSON: the `best` at the first point, its `ties`, how much worse the others are (`times`,
    from `low` to `high`), and `sentences`."""
    runs: dict[str, dict[str, list[float]]] = points[0]["runs"]
    seeds = len(next(iter(runs.values()))[goal])
    order = ranked(points[0], goal)
    best = order[0]
    least = estimate(runs[best][goal])
    within = "" if isinf(least.half) else f" \N{PLUS-MINUS SIGN} {shown(goal, least.half)}"
    title = FIGURES[goal].title
    sentences = [f"{best} has the best {title}: {shown(goal, least.mean)}{within}."]
    others = {
        name: _worse(runs[name][goal], runs[best][goal], goal, len(order) - 1) for name in order[1:]
    }
    ties = [name for name, by in others.items() if seeds > 1 and not by.is_clear]
    if seeds == 1:
        sentences.append("That is one run; --seeds 5 shows how sure it is.")
    if ties:
        sentences.append(f"Not distinguishable from it in {seeds} seeds: {', '.join(ties)}.")
    clear = [name for name in others if name not in ties]
    if clear:
        sentences.append(f"Next is {clear[0]}, {_by(others[clear[0]])}.")
    if len(clear) > 1:
        sentences.append(f"Last is {clear[-1]}, {_by(others[clear[-1]])}.")
    if len(points) > 1:
        sentences.append(_elsewhere(points, goal, best))
    return {
        "goal": goal,
        "seeds": seeds,
        "confidence": CONFIDENCE,
        "best": best,
        "ties": ties,
        "others": {
            name: {
                "times": _finite(by.middle),
                "low": _finite(by.low),
                "high": _finite(by.high),
            }
            for name, by in others.items()
        },
        "sentences": sentences,
    }


def ranked(point: dict[str, Any], goal: str) -> list[str]:
    """Strategies, the best first; runs in which nothing was served last."""
    runs = point["runs"]
    is_low = FIGURES[goal].is_better_low

    def key(name: str) -> tuple[bool, float]:
        mean = fmean(runs[name][goal])
        return min(runs[name][goal]) < 0.0, mean if is_low else -mean

    return sorted(runs, key=key)


def _worse(values: Sequence[float], best: Sequence[float], goal: str, comparisons: int) -> Ratio:
    figure = FIGURES[goal]
    if min(values) < 0.0:
        return Ratio(float("inf"), float("inf"), float("inf"))  # nothing was served
    plus = 1.0 if figure.unit in _SHARES else 1e-9
    pair = [value + plus for value in values], [value + plus for value in best]
    return ratio(*(pair if figure.is_better_low else pair[::-1]), comparisons)


def _finite(value: float) -> float:
    return -1.0 if isinf(value) else round(value, 6)


def _by(by: Ratio) -> str:
    if isinf(by.middle):
        return "which served nothing"
    is_share = by.middle < 2.0
    less, kind = (1.0, ".1%") if is_share else (0.0, ".3g")
    text = f"{by.middle - less:{kind}} " + ("worse" if is_share else "times as bad")
    if not isinf(by.high):
        text += f" (95 %: {by.low - less:{kind}} to {by.high - less:{kind}})"
    return text + (", which hardly matters" if by.middle < 1.0 + _NEGLIGIBLE else "")


def _elsewhere(points: Sequence[dict[str, Any]], goal: str, best: str) -> str:
    """Where the sweep has another best."""
    changes = [
        f"{ranked(point, goal)[0]} {_at(point)}"
        for point in points[1:]
        if ranked(point, goal)[0] != best
    ]
    if not changes:
        return f"It is the best at all {len(points)} points of the sweep."
    return f"Elsewhere the best is {'; '.join(changes)}."


def _at(point: dict[str, Any]) -> str:
    load = point["load"]
    return f"with {point['servers']} servers" if load is None else f"at load {load:g}"
