"""Which strategy for this traffic, by how much, and how sure: in sentences."""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.lab.figures import FIGURES, shown
from hermes_lb.lab.intervals import CONFIDENCE, compare, estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

GOAL: Final = "latency_mean"
_NEGLIGIBLE: Final = 0.01  # of the best: a difference that may be sure, and does not matter


def summary(points: Sequence[dict[str, Any]], goal: str = GOAL) -> dict[str, Any]:
    """As JSON: the `best` at the first point, its `ties`, the differences of the others, and
    `sentences`."""
    runs: dict[str, dict[str, list[float]]] = points[0]["runs"]
    seeds = len(next(iter(runs.values()))[goal])
    order = ranked(points[0], goal)
    best = order[0]
    least = estimate(runs[best][goal])
    title = FIGURES[goal].title
    sentences = [
        f"{best} has the best {title}: {shown(goal, least.mean)}{_within(goal, least.half)}."
    ]
    sign = 1.0 if FIGURES[goal].is_better_low else -1.0
    others: dict[str, dict[str, float | bool]] = {}
    for name in order[1:]:
        by = compare(runs[name][goal], runs[best][goal], len(order) - 1)
        others[name] = {
            "more": round(sign * by.mean, 6),
            "half": -1.0 if isinf(by.half) else round(by.half, 6),
            "is_clear": by.is_clear,
        }
    ties = [name for name in order[1:] if not others[name]["is_clear"]] if seeds > 1 else []
    if seeds == 1:
        sentences.append("That is one run; --seeds 5 says how sure it is.")
    if len(order) > 1:
        sentences += _behind(order, others, ties, least.mean, seeds)
    if len(points) > 1:
        sentences.append(_elsewhere(points, goal, best))
    return {
        "goal": goal,
        "seeds": seeds,
        "confidence": CONFIDENCE,
        "best": best,
        "ties": ties,
        "others": others,
        "sentences": sentences,
    }


def ranked(point: dict[str, Any], goal: str) -> list[str]:
    """Strategies, the best first; runs in which nothing was served last."""
    runs = point["runs"]
    is_low = FIGURES[goal].is_better_low

    def key(name: str) -> tuple[bool, float]:
        values = runs[name][goal]
        mean = sum(values) / len(values)
        return min(values) < 0.0, mean if is_low else -mean

    return sorted(runs, key=key)


def _within(goal: str, half: float) -> str:
    return "" if isinf(half) else f" ± {shown(goal, half)}"


def _behind(
    order: Sequence[str], others: dict[str, Any], ties: Sequence[str], least: float, seeds: int
) -> list[str]:
    said: list[str] = []
    if ties:
        said.append(f"Not to be told from it in {seeds} seeds: {', '.join(ties)}.")
    clear = [name for name in order[1:] if name not in ties]
    if clear and least > 0.0:
        said.append(f"Next is {clear[0]}, {_by(others[clear[0]], least)}.")
        if len(clear) > 1:
            said.append(f"Last is {clear[-1]}, {_by(others[clear[-1]], least)}.")
    return said


def _by(other: dict[str, float], least: float) -> str:
    more, half = other["more"] / least, other["half"] / least
    text = f"{more:.1%} worse" if more < 1.0 else f"{1.0 + more:.3g} times as much"
    if half >= 0.0:
        text += f" (95 %: {more - half:.1%} to {more + half:.1%} worse)"
    return text + (", which hardly matters" if more < _NEGLIGIBLE else "")


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
