"""The instruments of `python -m bench.scale`, and the description of a Python."""

from __future__ import annotations

import platform
import sys
from xml.etree import ElementTree

import pytest

from bench.live.python_build import describe
from bench.scale.figure import line_plot
from bench.scale.streams import lag_percentile, lags, worst_lag

SVG = "{http://www.w3.org/2000/svg}"
METRICS = """
hermes_lb_loop_lag_seconds_bucket{process="supervisor",le="0.001"} 7
hermes_lb_loop_lag_seconds_bucket{process="0",le="0.001"} %d
hermes_lb_loop_lag_seconds_bucket{process="0",le="0.0025"} %d
hermes_lb_loop_lag_seconds_bucket{process="0",le="+Inf"} %d
hermes_lb_loop_lag_worst_seconds{process="supervisor"} 3.0
hermes_lb_loop_lag_worst_seconds{process="0"} 0.004
hermes_lb_loop_lag_worst_seconds{process="1"} 0.002
"""


def test_the_plot_is_an_svg_with_every_point_inside() -> None:
    points = [(100.0, 18.7), (1_000.0, 14.9), (9_900.0, 18.3)]
    root = ElementTree.fromstring(line_plot("title", "streams", points, "µs"))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter(f"{SVG}circle")]

    assert len(dots) == 3
    assert [x for x, _ in dots] == sorted(x for x, _ in dots)
    assert dots[1][1] > dots[2][1] > dots[0][1]  # a smaller value is further down
    assert all(0 < x < width and 0 < y < height for x, y in dots)


@pytest.mark.parametrize(
    ("after", "expected"), [((1_100, 1_100, 1_100), 0.001), ((1_090, 1_100, 1_100), 0.0025)]
)
def test_the_lag_is_that_of_the_workers_in_between(
    after: tuple[int, int, int], expected: float
) -> None:
    before = lags(METRICS % (100, 100, 100))
    assert lag_percentile(before, lags(METRICS % after), 0.995) == expected


def test_the_worst_lag_is_that_of_a_worker() -> None:
    assert worst_lag(METRICS) == 0.004


def test_a_python_is_described_by_running_it() -> None:
    said = describe(sys.executable)
    assert said.startswith(f"Python {platform.python_version()}, ")
    assert "shared" in said or "static" in said
    assert said.endswith(" ns a call")


def test_a_python_that_does_not_run_is_unknown() -> None:
    assert describe("/nonexistent/python").startswith("unknown: ")
