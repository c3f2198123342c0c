"""The report's plots, as inline SVG; colours are the page's (CSS classes)."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any, Final

from hermes_lb.lab import svg
from hermes_lb.lab.report import seconds

if TYPE_CHECKING:
    Band = tuple[float, float, float, float]  # time, low, middle, high

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 280, 120, 40, 18
_TOP: Final = 14  # for the labels of marks
_POINTS: Final = 40  # of a line over time at most: a fifth of the samples, 6 px apart
# A strategy whose maximum is this many times the median's gets its own scale.
_OUTLIER: Final = 4


def in_flight(result: dict[str, Any]) -> dict[str, str]:
    """A plot for each strategy: minimum, average and maximum of requests in flight."""
    return _small_multiples(
        "requests in flight over time",
        {
            name: [(s["at"], s["least"], s["mean"], s["most"]) for s in row["samples"]]
            for name, row in result["strategies"].items()
        },
        "{:,}",
        result,
    )


def shares(result: dict[str, Any]) -> dict[str, str]:
    """A plot for each strategy: the largest share of the requests since the previous sample, in
    percent, and an equal share. A sample without requests has no value."""
    return _small_multiples(
        "largest share over time",
        {
            name: [
                (s["at"], 100 / s["servers"], 100 / s["servers"], 100 * s["most_share"])
                for s in row["samples"]
                if s["most_share"]
            ]
            for name, row in result["strategies"].items()
        },
        "{:.3g}%",
        result,
    )


def _small_multiples(
    label: str, bands: dict[str, list[Band]], unit: str, result: dict[str, Any]
) -> dict[str, str]:
    """On a common scale, except strategies that would make the others unreadable."""
    most = {name: max((top for *_, top in band), default=0) for name, band in bands.items()}
    middle = sorted(most.values())[len(most) // 2]
    usual = max((m for m in most.values() if m <= _OUTLIER * middle), default=1) or 1
    return {
        name: svg.drawing(
            _WIDTH, _HEIGHT, label, _band(band, max(usual, most[name]), usual, unit, result)
        )
        for name, band in bands.items()
    }


def _band(
    band: list[Band], top: float, usual: float, unit: str, result: dict[str, Any]
) -> list[str]:
    band = _thinned(band)
    length = result["seconds"] or 1.0

    def x(at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT) * min(1.0, at / length)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / top

    lows = [(x(at), y(low)) for at, low, _, _ in band]
    middles = [(x(at), y(middle)) for at, _, middle, _ in band]
    highs = [(x(at), y(high)) for at, _, _, high in band]
    parts = [
        svg.line("axis", _LEFT, y(0), _WIDTH, y(0)),
        svg.text(_LEFT - 5, y(0) + 4, "0", "end"),
        svg.text(_LEFT - 5, y(top) + 4, unit.format(top), "end"),
        svg.text(_LEFT, _HEIGHT - 4, "0", "start"),
        svg.text(_WIDTH, _HEIGHT - 4, seconds(length), "end"),
        f'<polygon class="band" points="{svg.points([*highs, *reversed(lows)])}"/>',
        f'<polyline class="most" points="{svg.points(highs)}"/>',
        f'<polyline class="mean" points="{svg.points(middles)}"/>',
    ]
    if top > usual:
        parts.append(svg.text((_LEFT + _WIDTH) / 2, _HEIGHT - 4, "a scale of its own", "middle"))
    free = _LEFT * 1.0
    for at, word in result["marks"]:
        parts.append(svg.line("mark", x(at), _TOP, x(at), y(0)))
        if x(at) >= free:
            parts.append(svg.text(x(at), 9, word, "start" if x(at) < _WIDTH * 0.7 else "end"))
            free = x(at) + 6.0 * len(word) + 8
    return parts


def _thinned(band: list[Band]) -> list[Band]:
    """At most `_POINTS` groups of samples: the least, the average and the most of each."""
    size = -(-len(band) // _POINTS) or 1
    groups = [band[i : i + size] for i in range(0, len(band), size)]
    return [
        (
            group[-1][0],
            min(low for _, low, _, _ in group),
            sum(middle for _, _, middle, _ in group) / len(group),
            max(high for *_, high in group),
        )
        for group in groups
    ]


def percentile_plot(rows: dict[str, Any], kind: str) -> str:
    """p50 and p99 of each strategy, on a logarithmic scale."""
    width, row_height, left, right = 720, 22, 120, 90
    known = {name: row[kind] for name, row in rows.items() if row[kind]}
    values = [row[p] for row in known.values() for p in ("p50", "p99") if row[p] > 0.0]
    if not values:
        return ""
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    high += high == low
    bottom = row_height * len(known) + 8

    def x(value: float) -> float:
        share = (log10(max(value, 10.0**low)) - low) / (high - low)
        return left + (width - left - right) * share

    parts: list[str] = []
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts += [
            svg.line("axis", at, 0, at, bottom),
            svg.text(at, bottom + 14, seconds(10.0**power)),
        ]
    for i, (name, row) in enumerate(known.items()):
        middle = row_height * i + 14
        p50, p99 = x(row["p50"]), x(row["p99"])
        parts += [
            svg.text(0, middle + 4, name, "start", "name"),
            svg.line("whisker", p50, middle, p99, middle),
            svg.dot("p50", p50, middle),
            svg.dot("p99", p99, middle),
            svg.text(p99 + 9, middle + 4, seconds(row["p99"]), "start"),
        ]
    return svg.drawing(width, bottom + 20, f"{kind}: p50 and p99", parts)
