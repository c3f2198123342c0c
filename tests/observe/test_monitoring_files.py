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
from hermes_lb.backends.server import ADMINS
from hermes_lb.config import Backend, Process
from hermes_lb.control.history import SHOWN_STATES, shown_state
from hermes_lb.observe.metric_table import metrics_of
from hermes_lb.observe.metrics import render
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


def state_panel() -> tuple[dict[str, tuple[int, str]], str]:
    """Of the dashboard: by state its number and its colour; and the query that has the numbers."""
    [panel] = [panel for panel in dashboard()["panels"] if panel["type"] == "state-timeline"]
    [mapping] = panel["fieldConfig"]["defaults"]["mappings"]
    options = mapping["options"].items()
    shown = {option["text"]: (int(value), option["color"]) for value, option in options}
    [target] = panel["targets"]
    return shown, target["expr"]


def in_state(state: str) -> Pool:
    """A backend that is named after the state that its only server is in."""
    configured = {"name": "s", "address": "h:1", "max_fails": 1}
    pool = Pool(state, Backend.model_validate({"servers": [configured]}))
    [server] = pool.servers
    if state != "unchecked":
        server.set_up(state != "down", "a check has answered")
    if state in ADMINS:
        server.set_admin(state)
    elif state == "degraded":
        server.set_degraded("a check timed out")
    elif state == "failing":
        server.failed(1.0, "refused")
    elif state == "ejected":
        server.eject(9.0, "it fails more than the others")
    assert shown_state(server) == state
    return pool


def test_the_dashboard_shows_each_state_in_a_colour_of_its_own() -> None:
    shown, _ = state_panel()
    assert list(shown) == list(SHOWN_STATES)
    numbers, colours = zip(*shown.values(), strict=True)
    assert list(numbers) == list(range(len(SHOWN_STATES)))
    assert len(set(colours)) == len(colours)
    grey = shown["unchecked"][1].removeprefix("#")
    assert len({grey[:2], grey[2:4], grey[4:]}) == 1
    assert [state for state, (_, colour) in shown.items() if "green" in colour] == ["up"]


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


@needs_promtool
def test_the_query_of_the_states_answers_the_number_of_each_state(tmp_path: Path) -> None:
    shown, expression = state_panel()
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    scraped = b"".join(render(Observed({state: in_state(state) for state in SHOWN_STATES}, {})))
    series = re.findall(r"^(hermes_lb_server_\w+\{.*\}) (\S+)$", scraped.decode(), re.MULTILINE)
    (tmp_path / "no_rules.yml").write_text("{groups: []}")
    expected = {
        "interval": "15s",
        "input_series": [{"series": name, "values": value} for name, value in series],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": "0s",
                "exp_samples": [
                    {"labels": f'{{backend="{state}", server="s"}}', "value": number}
                    for state, (number, _) in shown.items()
                ],
            }
        ],
    }
    path = tmp_path / "states.yml"
    path.write_text(yaml.safe_dump({"rule_files": ["no_rules.yml"], "tests": [expected]}))
    checked = promtool("test", "rules", str(path), cwd=tmp_path)
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
