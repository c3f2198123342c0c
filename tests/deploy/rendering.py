"""Renders the chart with real Helm: run by the environment of tests/outside/deploy.txt.

stdin: {"chart": a folder, "variants": {name: values}, "versions": [of Kubernetes], "custom":
schemas of custom resources by kind}. stdout: by name {"refused": why} or {"lint", "objects",
"problems"}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import kubernetes_validate
import yaml
from helm_python import Chart, HelmError, lint
from jsonschema import Draft202012Validator


def main() -> None:
    asked = json.load(sys.stdin)
    with Chart.load(asked["chart"]) as chart:
        answer = {
            name: _variant(chart, asked, values) for name, values in asked["variants"].items()
        }
    json.dump(answer, sys.stdout)


def _variant(chart: Chart, asked: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    try:
        chart.validate_schema(values)
        files = chart.render(values=values, name="fleet", namespace="agents")
    except HelmError as error:
        return {"refused": str(error)}
    found = lint(asked["chart"], values=values, strict=True, namespace="agents")
    objects = [
        one
        for name, text in files.items()
        if name.endswith(".yaml")
        for one in yaml.safe_load_all(text)
        if one is not None
    ]
    problems = []
    for one in objects:
        where = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] in asked["custom"]:
            validator = Draft202012Validator(asked["custom"][one["kind"]])
            problems += [f"{where}: {each.message}" for each in validator.iter_errors(one)]
            continue
        for version in asked["versions"]:
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                problems.append(f"{where}, {version}: {error.message}")
    messages = [each["error"] for each in found["messages"]] + found["errors"]
    return {"lint": messages, "objects": objects, "problems": problems}


if __name__ == "__main__":
    main()
