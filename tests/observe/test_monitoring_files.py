"""The dashboard, the alerts and the scrape configuration fit the metrics that there are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hermes_lb.backends import FrontendCounters, Pool
from hermes_lb.backends.server import STATES
from hermes_lb.config import Backend, Process
from hermes_lb.observe.metric_table import metrics_of
from hermes_lb.observe.observed import Observed, ProcessView

CONFIGS = Path(__file__).parents[2] / "configs"
# Grafana's variables, as it puts them in.
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*", "$backend": ".*", "$server": ".*"}
# Prometheus' own.
FOREIGN_METRICS = {"up", "ALERTS"}

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed (apt: prometheus)"
)


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CONFIGS / "grafana-dashboard.json").read_text())
    return loaded


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((CONFIGS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries() -> list[str]:
    """All that the dashboard asks for."""
    board = dashboard()
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    asked += [annotation["expr"] for annotation in board["annotations"]["list"]]
    for number, expression in enumerate(asked):
        for variable, value in VARIABLES.items():
            asked[number] = expression = expression.replace(variable, value)
    return asked


def exposed() -> dict[str, set[str]]:
    """The labels of each series, as a query may name it."""
    pool = Pool("b", Backend.model_validate({"servers": [{"name": "s", "address": "h:1"}]}))
    observed = Observed({"b": pool}, {"f": FrontendCounters()}, [ProcessView(0, os.getpid())])
    series = {}
    for row in metrics_of(observed):
        labels = {*row.labels, "instance", "job"}
        if row.kind == "histogram":
            series[row.name + "_bucket"] = {*labels, "le"}
            series[row.name + "_count"] = series[row.name + "_sum"] = labels
        else:
            series[row.name] = labels
    return series


def series_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:hermes_lb|process)_\w+", text))


@pytest.mark.parametrize("expression", [*queries(), *(rule["expr"] for rule in alerts())])
def test_a_query_asks_for_what_there_is(expression: str) -> None:
    series = exposed()
    names = re.findall(r"\b([a-zA-Z_]\w*)\s*[{\[]", expression)
    assert set(names) <= series.keys() | FOREIGN_METRICS
    assert series_in(expression) <= series.keys()
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
        if name not in FOREIGN_METRICS:
            labels = set(re.findall(r"(\w+)\s*=~?\s*\"", matchers))
            assert labels <= series[name], name


def test_every_metric_is_in_the_dashboard_or_an_alert() -> None:
    used = series_in(" ".join([*queries(), *(rule["expr"] for rule in alerts())]))
    used = {re.sub(r"_(bucket|count|sum)$", "", name) for name in used}
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed()}
    assert {name for name in ours - used if name.startswith("hermes_lb_")} == {
        "hermes_lb_build_info",  # in a variable
        "hermes_lb_loop_lag_worst_seconds",
        "hermes_lb_process_start_time_seconds",
        "hermes_lb_server_up",  # in a variable; the state tells more
    }


def test_the_states_in_the_dashboard_are_those_of_a_server() -> None:
    [panel] = [panel for panel in dashboard()["panels"] if panel["type"] == "state-timeline"]
    [mapping] = panel["fieldConfig"]["defaults"]["mappings"]
    shown = {int(value): option["text"] for value, option in mapping["options"].items()}
    assert set(shown.values()) == set(STATES)
    expression = panel["targets"][0]["expr"]
    weights = re.findall(
        r'(?:(\d) \* )?max by \(backend, server\) \([^)]*state="(\w+)"', expression
    )
    assert {0: "up", **{int(weight or 1): state for weight, state in weights}} == shown


def test_the_dashboard_can_be_imported_anywhere() -> None:
    board = dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    for panel in board["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["description"].endswith(".")
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in alerts():
        assert rule["alert"].startswith("Hermes")
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "runbook"}
        assert rule["annotations"]["runbook"].endswith(".")


def promtool(
    *arguments: str, stdin: str = "", cwd: Path = CONFIGS
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments],
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    checked = promtool(*arguments)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow  # 14 s of promtool in all
@needs_promtool
@pytest.mark.parametrize("alert", [rule["alert"] for rule in alerts()])
def test_an_alert_that_comes_never_or_too_early_is_noticed(alert: str, tmp_path: Path) -> None:
    shutil.copy(CONFIGS / "alerts_test.yml", tmp_path)
    [rule] = [rule for rule in alerts() if rule["alert"] == alert]
    wrong = [{**rule, "expr": f"({rule['expr']}) and on() (vector(0) > 1)"}]
    if "for" in rule:
        wrong.append({name: value for name, value in rule.items() if name != "for"})
    for one in wrong:
        rules = [one if other["alert"] == alert else other for other in alerts()]
        changed = {"groups": [{"name": "all", "rules": rules}]}
        (tmp_path / "alerts.yml").write_text(yaml.safe_dump(changed))
        assert promtool("test", "rules", "alerts_test.yml", cwd=tmp_path).returncode == 1


@needs_promtool
def test_promtool_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": expression}
        for number, expression in enumerate(queries())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = promtool("check", "rules", str(path))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_unit_fits_the_default_limits() -> None:
    unit = dict(
        line.split("=", 1)
        for line in (CONFIGS / "hermes-lb.service").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    process = Process()
    assert int(unit["LimitNOFILE"]) >= 2 * process.max_connections + 100
    assert int(unit["TimeoutStopSec"].removesuffix("min")) * 60 > process.drain_timeout
    assert unit["Restart"] == "always"


def test_the_unit_of_workers_gives_turns_their_time() -> None:
    text = (CONFIGS / "agent-worker@.service").read_text()
    assert "--drain-timeout 5m" in text
    assert "TimeoutStopSec=6min" in text


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    names = {"hermes-lb.service", "hermes-lb.socket", "agent-worker@.service"}
    units = []
    for name in names:
        unit = (CONFIGS / name).read_text()
        for program in ("/opt/hermes-lb/bin/hermes-lb", "/opt/hermes-lb/bin/agent-worker"):
            unit = unit.replace(program, shutil.which("true") or "")
        path = tmp_path / name.replace("@", "@8001")
        path.write_text(unit)
        units.append(str(path))
    checked = subprocess.run(
        ["systemd-analyze", "verify", *units],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
