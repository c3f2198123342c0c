"""What people get to see: the table, the page, and the reasons of single picks."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from rich.console import Console

from hermes_lb.balancing import STRATEGIES
from hermes_lb.lab.experiment import Experiment
from hermes_lb.lab.html import page
from hermes_lb.lab.measures import percentiles, rank
from hermes_lb.lab.plots import in_flight, shares
from hermes_lb.lab.report import print_result, seconds
from hermes_lb.lab.study import compared
from hermes_lb.lab.traces import access_log
from hermes_lb.lab.traffic import RecordedTraffic, ScenarioTraffic
from tests.lab.test_access_log import HAPROXY


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    experiment = Experiment(list(STRATEGIES), 5, 400, why=100)
    return [compared(experiment, ScenarioTraffic(name, 400)) for name in ("turns", "crash")]


def printed(result: dict[str, Any]) -> str:
    text = io.StringIO()
    print_result(Console(file=text, width=140), result)
    return text.getvalue()


def test_the_table_has_a_line_for_each_strategy(results: list[dict[str, Any]]) -> None:
    text = printed(results[0])
    assert "5 servers, 4 at a time each, load 0.7; 400 requests in" in text
    for name in STRATEGIES:
        assert re.search(rf"^ ?{name} .*%.* (ms|s|min) ", text, re.MULTILINE)


def test_each_strategy_says_why(results: list[dict[str, Any]]) -> None:
    why = results[0]["why"]
    for name, lines in why.items():
        picked = lines[-1].removeprefix("picked: ")
        assert picked in {f"s{i}" for i in range(5)}, name
        assert sum(line.startswith("  s") for line in lines) == 5
    for name in ("p2c", "peak_ewma", "random"):
        drawn = next(line for line in why[name] if line.startswith("drawn: "))
        assert why[name][-1].removeprefix("picked: ") in drawn
    assert "cost" in why["peak_ewma"][-2]
    assert "latency" in why["prequal"][-2]
    assert "the key belongs to" in "".join(why["maglev"])


def test_the_pick_of_leastconn_is_the_least_of_what_is_shown(results: list[dict[str, Any]]) -> None:
    lines = results[0]["why"]["leastconn"]
    shown = dict(re.findall(r"^  (s\d) +(\d+) in flight", "\n".join(lines), re.MULTILINE))
    assert int(shown[lines[-1].removeprefix("picked: ")]) == min(map(int, shown.values()))


def test_the_page_asks_for_nothing_from_elsewhere(results: list[dict[str, Any]]) -> None:
    text = page(results)
    assert not re.search(
        r"""(src|href)\s*=\s*["'](?!#)|url\(|@import|https?:|<script|<link""", text
    )
    assert "prefers-color-scheme: dark" in text


def test_the_plots_are_well_formed_and_have_no_odd_numbers(results: list[dict[str, Any]]) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page(results), re.DOTALL)
    # Shares and what was in flight, for each strategy; the percentiles, of both kinds where answers
    # are streamed; and the means.
    assert len(drawings) == 2 * 2 * len(STRATEGIES) + 2 + 1 + 2
    for drawing in drawings:
        ET.fromstring(drawing)
        assert "nan" not in drawing
        assert "inf" not in drawing


def heights(svg: str, kind: str) -> list[float]:
    """Of a plot's line of this kind: how far each point is above the axis, of the whole height."""
    drawing = ET.fromstring(svg)
    (line,) = drawing.findall(f"polyline[@class='{kind}']")
    axis = drawing.find("line[@class='axis']")
    assert axis is not None
    bottom = float(axis.attrib["y1"])
    top = float(drawing.findall("text")[1].attrib["y"]) - 4
    ys = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    return [(bottom - y) / (bottom - top) for y in ys]


def test_the_share_of_the_server_that_got_most_is_drawn_over_time() -> None:
    samples = [
        {"at": 1.0, "servers": 2, "most_share": 0.5},
        {"at": 2.0, "servers": 2, "most_share": 0.0},  # nothing was sent
        {"at": 3.0, "servers": 1, "most_share": 0.8},
    ]
    result = {"seconds": 3.0, "marks": [], "strategies": {"random": {"samples": samples}}}
    plot = shares(result)["random"]
    assert "80%" in plot
    assert heights(plot, "most") == pytest.approx([0.5 / 0.8, 1.0], abs=0.01)
    assert heights(plot, "mean") == pytest.approx([0.5 / 0.8, 1.0 / 0.8], abs=0.01)


def test_a_strategy_beside_which_the_others_could_not_be_read_has_a_scale_of_its_own() -> None:
    most = {"one": 4, "two": 5, "three": 50}
    result = {
        "seconds": 1.0,
        "marks": [],
        "strategies": {
            name: {"samples": [{"at": 1.0, "least": 0, "mean": 1.0, "most": value}]}
            for name, value in most.items()
        },
    }
    plots = in_flight(result)
    assert heights(plots["one"], "most") == pytest.approx([4 / 5], abs=0.01)
    assert heights(plots["three"], "most") == pytest.approx([1.0], abs=0.01)
    assert [name for name, plot in plots.items() if "a scale of its own" in plot] == ["three"]


def test_names_of_a_trace_are_escaped_on_the_page() -> None:
    recording = access_log.read([line.replace("be/s1", "be/<b>&x") for line in HAPROXY])
    result = compared(Experiment(["leastconn"], 2), RecordedTraffic(recording, "<i>.log"))
    assert result["logged_shares"] == {"<b>&x": 0.5, "s2": 0.5}
    text = page([result])
    assert "<b>&x" not in text
    assert "<i>.log" not in text
    assert "&lt;i&gt;.log" in text


def test_a_result_is_json_without_numbers_that_json_does_not_have(
    results: list[dict[str, Any]],
) -> None:
    json.dumps(results, allow_nan=False)


def test_percentiles_are_of_what_was_measured() -> None:
    assert percentiles([float("nan"), 3.0, 1.0, 2.0]) == {
        "mean": 2.0, "p50": 2.0, "p90": 3.0, "p99": 3.0, "p99.9": 3.0, "most": 3.0,
    }  # fmt: skip
    assert percentiles([float("nan")]) == {}
    assert [rank(1000, p) for p in (50, 90, 99, 99.9)] == [499, 899, 989, 998]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 ms"), (0.0123, "12.3 ms"), (1.5, "1.5 s"), (600.0, "10 min"), (36_000.0, "10 h")],
)
def test_times_have_units(value: float, text: str) -> None:
    assert seconds(value) == text
