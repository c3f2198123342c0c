"""A line plot as an SVG, with no library."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 20, 40, 44
_LINES = 4  # of the grid


def line_plot(title: str, x_title: str, points: Sequence[tuple[float, float]], unit: str) -> str:
    """`points` (x, y) in order of x, which is drawn logarithmically; y from 0."""
    lowest, highest = math.log(points[0][0]), math.log(points[-1][0])
    top = _round_up(max(y for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log(x) - lowest) / ((highest - lowest) or 1)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-size="14" font-weight="bold">{title}</text>',
    ]
    for number in range(_LINES + 1):
        value = top * number / _LINES
        _, y = place(points[0][0], value)
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    parts.append(f'<polyline points="{path}" fill="none" stroke="#d9480f" stroke-width="2"/>')
    for number, (x_value, y_value) in enumerate(points):
        x, y = place(x_value, y_value)
        anchor = "start" if number == 0 else "end" if number == len(points) - 1 else "middle"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="#d9480f"/>'
            f'<text x="{x:.1f}" y="{y - 10:.1f}" text-anchor="{anchor}">{y_value:.1f} {unit}</text>'
            f'<text x="{x:.1f}" y="{_HEIGHT - 26}" text-anchor="{anchor}">{x_value:,.0f}</text>'
        )
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" '
        f'text-anchor="middle">{x_title}</text></svg>'
    )
    return "\n".join(parts) + "\n"


def _round_up(value: float) -> float:
    """To the next 1, 2, 4 or 8 times a power of ten: the grid's lines have short numbers."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if value <= step * power)
