"""Plots of means with their intervals: one for each strategy, and over a sweep."""

from __future__ import annotations

from math import ceil, floor, inf, isinf, log10
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.lab import svg
from hermes_lb.lab.figures import FIGURES, shown
from hermes_lb.lab.summary import means, ranked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Figures that are drawn over a sweep.
SWEPT: Final = (
    "latency_mean", "latency_p99", "first_mean", "session_mean", "cached", "fairness",
)  # fmt: skip
_ROW: Final = 22
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 106, 10, 32
_WIDTH, _HEIGHT = 420, 250
_COLOURS: Final = 8  # CSS classes c0, c1, ...
_LABEL: Final = 12  # between two lines of text
#: Beyond this ratio an axis is logarithmic.
_WIDE: Final = 20.0


def forest(result: dict[str, Any]) -> str:
    """How many times as bad as the best each strategy is, with its interval, the best first; and
    the summary's figure in words."""
    found = result["summary"]
    goal, best, others = found["goal"], found["best"], found["others"]
    compared = {best: (1.0, 1.0, 1.0)}
    for name, by in others.items():
        if by["times"] >= 0.0:
            is_sure = by["high"] >= 0.0
            interval = (by["low"], by["high"]) if is_sure else (by["times"], by["times"])
            compared[name] = by["times"], *interval
    average = means(result["points"][0], goal)
    width, left, right = 720, 130, 190
    bottom = _ROW * len(compared) + 6
    ends = [value for one in compared.values() for value in one]
    x, ticks = _scale(ends, left, width - right, is_ratio=True)
    parts: list[str] = []
    for tick in ticks:
        parts.append(svg.line("axis", x(tick), 0, x(tick), bottom))
        parts.append(svg.text(x(tick), bottom + 14, f"{tick:.10g}"))
    parts.append(svg.text((left + width - right) / 2, bottom + 30, "times the best"))
    close = {best, *found["ties"]}
    for place, (name, (times, low, high)) in enumerate(compared.items()):
        middle = _ROW * place + 14
        text = shown(goal, average[name].mean)
        if name != best:
            text += f", {times:.3g} times"
        parts += [
            svg.text(0, middle + 4, name, "start", "name"),
            svg.line("whisker", x(low), middle, x(high), middle),
            svg.dot("p50" if name in close else "other", x(times), middle),
            svg.text(x(high) + 9, middle + 4, text, "start"),
        ]
    return svg.drawing(width, bottom + 36, f"{FIGURES[goal].title}, by strategy", parts)


def sweeps(result: dict[str, Any]) -> dict[str, str]:
    """A plot for each figure over load, and over the number of servers, by its title."""
    points = result["points"]
    plots: dict[str, str] = {}
    loads = [point for point in points if point["load"] is not None]
    fleets = [point for point in points if point["load"] is None]
    for axis, some in (("load", loads), ("servers", fleets)):

        def place(point: dict[str, Any], axis: str = axis) -> float:
            return float(point[axis])

        if len({place(point) for point in some}) < 2:
            continue
        ordered = sorted(some, key=place)
        for figure in SWEPT:
            values = [
                value
                for point in ordered
                for runs in point["runs"].values()
                for value in runs[figure]
            ]
            if max(values) > 0.0 and len(set(values)) > 1:
                title = f"{FIGURES[figure].title}, by {axis}"
                plots[title] = _curves(ordered, figure, axis, place, result["summary"]["goal"])
    return plots


def _curves(
    points: Sequence[dict[str, Any]],
    figure: str,
    axis: str,
    place: Callable[[dict[str, Any]], float],
    goal: str,
) -> str:
    """A line for each strategy; colours by rank at the last point, so that neighbours differ."""
    found = [means(point, figure) for point in points]
    names = ranked(points[-1], goal)
    places = [place(point) for point in points]
    spans = [_span(figure, *one[name]) for one in found for name in names]
    y, ticks = _scale([v for span in spans for v in span], _HEIGHT - _BOTTOM, _TOP)
    first, wide = places[0], (places[-1] - places[0]) or 1.0

    def x(at: float) -> float:
        return _LEFT + 8 + (_WIDTH - _LEFT - _RIGHT - 16) * (at - first) / wide

    parts: list[str] = []
    for tick in ticks:
        parts += [
            svg.line("axis", _LEFT, y(tick), _WIDTH - _RIGHT, y(tick)),
            svg.text(_LEFT - 5, y(tick) + 4, _tick(figure, tick), "end"),
        ]
    parts += [svg.text(x(at), _HEIGHT - _BOTTOM + 16, f"{at:g}") for at in places]
    parts.append(svg.text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 2, axis))
    for rank, name in enumerate(names):
        kind = f"c{rank % _COLOURS}" + (" dashed" if rank >= _COLOURS else "")
        for at, one in zip(places, found, strict=True):
            low, high = _span(figure, *one[name])
            parts.append(svg.line(f"curve {kind}", x(at), y(low), x(at), y(high)))
        line = svg.points((x(at), y(one[name][0])) for at, one in zip(places, found, strict=True))
        parts.append(f'<polyline class="curve {kind}" points="{line}"/>')
    ends = {name: y(found[-1][name][0]) for name in names}
    for name, at in _apart(ends).items():
        rank = names.index(name)
        parts += [
            svg.line(
                f"curve thin c{rank % _COLOURS}", x(places[-1]), ends[name], _WIDTH - _RIGHT + 6, at
            ),
            svg.text(_WIDTH - _RIGHT + 9, at + 4, name, "start", f"name t{rank % _COLOURS}"),
        ]
    return svg.drawing(_WIDTH, _HEIGHT, f"{FIGURES[figure].title}, by {axis}", parts)


def _apart(ends: dict[str, float]) -> dict[str, float]:
    """Places of labels, in the order of their lines' ends, that do not overlap."""
    order = sorted(ends, key=ends.__getitem__)
    highest = float(_TOP)
    placed: dict[str, float] = {}
    for place, name in enumerate(order):
        most = _HEIGHT - 4.0 - _LABEL * (len(order) - 1 - place)
        at = min(max(ends[name], highest), max(highest, most))
        placed[name] = at
        highest = at + _LABEL
    return placed


def _span(figure: str, mean: float, half: float) -> tuple[float, float]:
    if isinf(half):
        return mean, mean
    most = 1.0 if figure in ("cached", "fairness", "moved", "errors") else inf
    return max(0.0, mean - half), min(most, mean + half)


def _tick(figure: str, value: float) -> str:
    return f"{value:,.10g} s" if FIGURES[figure].unit == "s" else shown(figure, value)


def _scale(
    values: Sequence[float], begin: float, end: float, *, is_ratio: bool = False
) -> tuple[Callable[[float], float], list[float]]:
    """A function to pixels, and ticks: from 0, or (ratios) from the least; logarithmic if values
    differ much."""
    high = max(values) or 1.0
    positive = [value for value in values if value > 0.0] or [1.0]
    if high / min(positive) > _WIDE:
        bottom, top = floor(log10(min(positive))), ceil(log10(high))

        def by_log(value: float) -> float:
            share = (log10(max(value, 10.0**bottom)) - bottom) / ((top - bottom) or 1)
            return begin + (end - begin) * share

        return by_log, [10.0**power for power in range(bottom, top + 1)]
    low = min(positive) if is_ratio else 0.0
    step = _step((high - low) or 1.0)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    last += last == first

    def linear(value: float) -> float:
        return begin + (end - begin) * (value / step - first) / (last - first)

    return linear, [step * i for i in range(first, last + 1)]


def _step(high: float) -> float:
    """1, 2 or 5 times a power of ten: three to six steps."""
    power = 10.0 ** floor(log10(high / 3.0))
    return max(m * power for m in (1.0, 2.0, 5.0) if m * power <= high / 3.0 + 1e-12)
