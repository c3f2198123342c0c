"""`python -m hermes_lb lab` as people meet it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from hermes_lb.cli import app
from hermes_lb.lab.scenarios import SCENARIOS
from tests.lab.test_access_log import HAPROXY

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lab(*words: str) -> Result:
    return CliRunner().invoke(app, ["lab", *words])


def test_all_scenarios_run_and_are_written(tmp_path: Path) -> None:
    result = lab("-s", "leastconn", "-s", "p2c", "--requests", "200", "--servers", "3")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "lab/lab.json").read_text())["results"]
    assert [row["scenario"] for row in written] == list(SCENARIOS)
    assert [list(row["strategies"]) for row in written] == [["leastconn", "p2c"]] * len(SCENARIOS)
    assert (tmp_path / "lab/lab.html").read_text().startswith("<!doctype html>")
    assert "wrote lab/lab.json" in result.output
    finished = [f"{name}: {strategy}" for name in SCENARIOS for strategy in ("leastconn", "p2c")]
    assert result.stderr.splitlines() == finished


def test_what_is_named_twice_is_run_once(tmp_path: Path) -> None:
    twice = ("-s", "random", "-s", "random", "--scenario", "slow", "--scenario", "slow")
    assert lab(*twice, "--requests", "50").stderr == "slow: random\n"
    (result,) = json.loads((tmp_path / "lab/lab.json").read_text())["results"]
    assert list(result["strategies"]) == ["random"]


def test_the_same_command_writes_the_same_bytes(tmp_path: Path) -> None:
    words = ("--scenario", "deploy", "--requests", "300", "--seed", "7")
    assert lab(*words, "--output", "one").exit_code == 0
    assert lab(*words, "--output", "two").exit_code == 0
    for name in ("lab.json", "lab.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_why_is_answered() -> None:
    result = lab("-s", "leastconn", "--scenario", "turns", "--requests", "50", "--why", "20")
    assert "why leastconn did so" in result.output
    assert "picked: s" in result.output


def test_a_trace_is_played_to_as_many_servers_as_it_names(tmp_path: Path) -> None:
    (tmp_path / "access.log").write_text("\n".join([*HAPROXY, "rubbish"]))
    result = lab("-s", "leastconn", "--trace", "access.log")
    assert result.exit_code == 0, result.output
    assert "2 requests of a trace; 1 lines could not be used" in result.output
    assert "2 servers, 2 at a time each" in result.output


def test_what_is_played_of_a_trace_is_said(tmp_path: Path) -> None:
    others = [HAPROXY[0].replace("be/s1", "api/a"), HAPROXY[0].replace("Nov/2026", "Nov/9999")]
    (tmp_path / "access.log").write_text("\n".join([*HAPROXY, *others]))
    result = lab("-s", "leastconn", "--trace", "access.log")
    said = " ".join(result.stdout.split())
    assert "1 are a week or more away from the others" in said
    assert "One pool serves the backends api, be" in said
    result = lab("-s", "leastconn", "--trace", "access.log", "--backend", "api")
    assert "1 requests of a trace; 0 lines could not be used." in result.stdout


@pytest.mark.parametrize("words", [("--scenario", "short"), ("--live",)])
def test_an_output_that_can_not_be_written_is_said_before_anything_runs(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file where the directory should be")
    result = lab(*words, "--output", "out")
    assert result.exit_code == 1
    assert result.stderr == "hermes-lb: the lab failed: [Errno 17] File exists: 'out'\n"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--why", "3", "--live"), 2, "--why can't be used with --live"),
        (("--backend", "be"), 2, "--backend needs --trace"),
        (("-s", "leastcon"), 2, "there is no strategy 'leastcon'; there are round_robin, "),
        (("--scenario", "x"), 2, "there is no scenario 'x'; there are short, "),
        (("--scenario", "short", "--live"), 2, "give only one of --scenario, --trace and --live"),
        (("--trace", "none.log"), 1, "No such file or directory: 'none.log'"),
        (("--trace", "empty.log"), 1, "no line of it is a request in the format httplog"),
    ],
)
def test_what_is_wrong_is_said(
    words: tuple[str, ...], status: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.log").write_text("\n")
    result = lab(*words)
    assert result.exit_code == status
    assert said in result.output
    assert not (tmp_path / "lab").exists()
