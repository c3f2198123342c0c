"""Several seeds and points, what follows from them, and several balancers."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from hermes_lb.cli import app
from hermes_lb.lab import traces
from hermes_lb.lab.curves import forest, sweeps
from hermes_lb.lab.experiment import Experiment
from hermes_lb.lab.figures import FIGURES
from hermes_lb.lab.html import page
from hermes_lb.lab.study import Sweep, compared
from hermes_lb.lab.summary import summary
from hermes_lb.lab.tables import csv_of
from hermes_lb.lab.traffic import RecordedTraffic, ScenarioTraffic, Setup
from tests.lab.test_traces import EXCERPTS

if TYPE_CHECKING:
    from pathlib import Path

STRATEGIES = ["leastconn", "random", "consistent_hash"]


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """Two seeds of a small recording, at three points."""
    recording = traces.read(EXCERPTS / "mooncake.jsonl")
    setup = Setup(load=0.7)
    experiment = Experiment(STRATEGIES, 3, setup=setup)
    traffic = RecordedTraffic(recording, "mooncake", setup)
    return compared(experiment, traffic, 2, Sweep([0.3, 1.2], [2]))


def point(**runs: list[float]) -> dict[str, Any]:
    return {
        "load": None,
        "servers": 3,
        "runs": {name: dict.fromkeys(FIGURES, values) for name, values in runs.items()},
    }


def test_each_point_has_each_figure_of_each_strategy_and_seed(result: dict[str, Any]) -> None:
    places = [(one["load"], one["servers"]) for one in result["points"]]
    assert places == [(None, 3), (0.3, 3), (1.2, 3), (None, 2)]
    for one in result["points"]:
        assert list(one["runs"]) == STRATEGIES
        for runs in one["runs"].values():
            assert list(runs) == list(FIGURES)
            assert all(len(values) == 2 for values in runs.values())


def test_more_load_makes_it_slower(result: dict[str, Any]) -> None:
    _, low, high, _ = result["points"]
    for name in STRATEGIES:
        pairs = zip(
            low["runs"][name]["latency_mean"], high["runs"][name]["latency_mean"], strict=True
        )
        assert all(less < more for less, more in pairs)


def test_all_strategies_play_the_same_workload_of_a_seed() -> None:
    """One server: every strategy can only do the same."""
    recording = traces.read(EXCERPTS / "mooncake.jsonl")
    traffic = RecordedTraffic(recording, "mooncake")
    experiment = Experiment(STRATEGIES, 1)
    for seed in (1, 2):
        found = experiment.figures(traffic, seed, 1, 0.5)
        assert found["random"] == found["leastconn"] == found["consistent_hash"]
    assert experiment.figures(traffic, 1, 1, 0.5) != experiment.figures(traffic, 2, 1, 0.5)


def test_affinity_finds_more_in_the_cache_than_chance() -> None:
    setup = Setup(rate=0.02)
    recording = traces.read(EXCERPTS / "agent_sessions.csv")
    recording.sessions *= 20
    traffic = RecordedTraffic(recording, "agents", setup)
    result = Experiment(STRATEGIES, 4, setup=setup).play(traffic)
    figures = {name: row["figures"] for name, row in result["strategies"].items()}
    assert figures["consistent_hash"]["cached"] > figures["random"]["cached"]
    assert figures["consistent_hash"]["moved"] < figures["random"]["moved"]


def test_the_same_seed_gives_the_same_study() -> None:
    setup = Setup(rate=1.0, balancers=2, share=1.0)
    traffic = RecordedTraffic(traces.read(EXCERPTS / "agent_sessions.csv"), "agents", setup)
    runs = [compared(Experiment(["p2c"], 2, setup=setup), traffic, 2) for _ in range(2)]
    assert json.dumps(runs[0]) == json.dumps(runs[1])


def test_the_best_its_ties_and_the_others_are_named() -> None:
    found = summary(
        [point(slow=[3.0, 3.3, 3.1], good=[1.0, 1.2, 1.1], close=[1.1, 1.1, 1.15])], "latency_mean"
    )
    assert found["best"] == "good"
    assert found["ties"] == ["close"]
    first, ties, last = found["sentences"]
    assert first == "good has the best response time, mean: 1.1 s \N{PLUS-MINUS SIGN} 248 ms."
    assert ties == "Not distinguishable from it in 3 seeds: close."
    assert last.startswith("Next is slow, 2.85 times as bad (95 %: ")


def test_one_run_has_no_certainty_and_says_so() -> None:
    found = summary([point(a=[1.0], b=[1.5], c=[3.0])])
    assert found["sentences"] == [
        "a has the best response time, mean: 1 s.",
        "That is one run; --seeds 5 shows how sure it is.",
        "Next is b, 50.0% worse.",
        "Last is c, 3 times as bad.",
    ]


def test_a_figure_may_be_better_if_it_is_higher_and_may_be_0() -> None:
    found = summary([point(a=[0.0, 0.0, 0.0], b=[0.5, 0.52, 0.51])], "cached")
    assert found["best"] == "b"
    assert found["others"]["a"]["times"] == pytest.approx(1.51, abs=0.001)
    assert found["ties"] == []


def test_what_served_nothing_is_last() -> None:
    found = summary([point(none=[-1.0, -1.0], some=[5.0, 5.1])])
    assert found["best"] == "some"
    assert found["sentences"][-1] == "Next is none, which served nothing."


def test_another_best_elsewhere_in_a_sweep_is_reported() -> None:
    more = point(a=[9.0, 9.0], b=[1.0, 1.0]) | {"load": 0.9}
    found = summary([point(a=[1.0, 1.0], b=[2.0, 2.1]), more])
    assert found["sentences"][-1] == "Elsewhere the best is b at load 0.9."


def test_a_table_has_a_row_for_each_run(result: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_of([result]))))
    assert len(rows) == 4 * len(STRATEGIES) * 2
    assert rows[0]["strategy"] == "leastconn"
    assert (rows[0]["load"], rows[-1]["load"], rows[-1]["servers"]) == ("", "", "2")
    value = result["points"][0]["runs"]["leastconn"]["latency_mean"][0]
    assert float(rows[0]["latency_mean"]) == value


def test_a_sweep_has_curves_with_a_line_for_each_strategy(result: dict[str, Any]) -> None:
    plots = sweeps(result)
    assert "response time, mean, by load" in plots
    assert "response time, mean, by servers" in plots
    for plot in plots.values():
        assert plot.count("<polyline") == len(STRATEGIES)
        assert all(f">{name}</text>" in plot for name in STRATEGIES)
    assert forest(result).count("<circle") == len(STRATEGIES)
    assert all(sentence in page([result]) for sentence in result["summary"]["sentences"])


#: Mean waits in seconds; four balancers, ten servers of one slot, load 0.8.
def waits(strategy: str, balancers: int, share: float | None) -> float:
    setup = Setup(balancers, share, slots=1, load=0.8)
    traffic = ScenarioTraffic("short", 40_000, setup)
    found = Experiment([strategy], 10, 40_000, setup=setup).figures(traffic, 1, 10, None)
    return found[strategy]["latency_mean"] - 0.05


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_balancers_that_see_only_their_own_requests_wait_longer_and_by_old_news_still_more() -> (
    None
):
    """The herd effect (Mitzenmacher, 2000): all send to what was the least loaded a while ago, and
    then wait longer than by chance (M/M/1: 0.05 x 0.8 / 0.2 = 0.2 s). Two choices suffer less."""
    one = waits("leastconn", 1, None)
    assert waits("leastconn", 4, 0.0) == pytest.approx(one, rel=0.15)
    own = waits("leastconn", 4, None)
    herd = waits("leastconn", 4, 1.0)
    assert one < own < herd
    assert herd > 0.2 * 1.5
    assert waits("p2c", 4, 1.0) < herd
    assert waits("random", 4, 1.0) == pytest.approx(0.2, rel=0.15)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--speed", "2"), "--speed needs --trace"),
        (("--rate", "2"), "--rate needs --trace"),
        (("calibrate",), "calibrate needs --trace"),
        (("--loads", "0.5,x"), "--loads takes numbers up to 10, with commas between them"),
        (("--fleets", "0"), "--fleets takes numbers up to 10000"),
        (("--goal", "x"), "there is no figure 'x'; there are latency_mean, "),
        (("--trace", "x", "--rate", "1", "--load", "1"), "give only one of --rate and --load"),
    ],
)
def test_wrong_options_are_reported(words: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(app, ["lab", *words])
    assert result.exit_code == 2
    assert said in result.output


def test_the_command_plays_a_published_trace(tmp_path: Path) -> None:
    words = ["--trace", str(EXCERPTS / "agent_sessions.csv"), "--servers", "2", "--rate", "6"]
    words += ["--seeds", "2", "--loads", "0.5,1", "--balancers", "2", "-s", "p2c", "-s", "random"]
    result = CliRunner().invoke(app, ["lab", *words, "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (written,) = json.loads((tmp_path / "lab.json").read_text())["results"]
    assert written["balancers"] == 2
    assert written["model"]["slots"] == 16
    assert len(written["points"]) == 3
    assert len((tmp_path / "lab.csv").read_text().splitlines()) == 1 + 3 * 2 * 2


def test_the_command_calibrates() -> None:
    words = ["lab", "calibrate", "--trace", str(EXCERPTS / "agent_sessions.csv")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["calls"] == 28
