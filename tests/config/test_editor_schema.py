"""The JSON Schema that editors get: a description for each key, and the loader's own verdicts."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.balancing import STRATEGIES
from hermes_lb.config import ConfigError, load_config
from hermes_lb.config.editor_schema import DIALECT, editor_schema
from tests.support.needs import needs_package

if TYPE_CHECKING:
    from collections.abc import Iterator

jsonschema = needs_package("jsonschema")

CONFIGS = Path(__file__).parents[2] / "configs"
SCHEMA = editor_schema((CONFIGS / "reference.toml").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
OPTIONS = {"hash_on": "client", "load_factor": 1.25, "tau": "10s"}


def properties(node: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, found in node.get("properties", {}).items():
        yield f"{place}.{key}", found
        yield from properties(found, f"{place}.{key}")


def test_it_is_a_schema_with_its_dialect_and_its_name() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert list(SCHEMA)[:2] == ["$schema", "$id"]
    assert (SCHEMA["$schema"], SCHEMA["$id"]) == (DIALECT, "urn:hermes-lb:configuration")


def test_each_key_has_a_description() -> None:
    tables = [("", SCHEMA), *SCHEMA["$defs"].items()]
    found = dict(one for name, node in tables for one in properties(node, name))
    assert len(found) > 170
    assert [place for place, node in found.items() if not node.get("description")] == []
    assert not any(" | -]" in node["description"] for node in found.values())
    assert found["Server.weight"]["description"] == "its share relative to the others'; 1 to 65535"
    assert found[".timeouts"]["description"] == "Limits of each phase; a duration above 0."
    assert found["Tls.client_headers"]["description"].endswith("-Serial, -Fingerprint")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    assert list(VALIDATOR.iter_errors(tomllib.loads(path.read_text()))) == []


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("strategy", [*STRATEGIES, None])
def test_an_option_of_another_strategy_is_an_error_for_editor_and_loader(
    strategy: str | None, option: str
) -> None:
    tables = tomllib.loads((CONFIGS / "minimal.toml").read_text())
    tables["backends"]["agents"]["strategy"] = {option: OPTIONS[option]}
    if strategy is not None:
        tables["backends"]["agents"]["balance"] = strategy
    try:
        load_config(tables)
    except ConfigError:
        is_loaded = False
    else:
        is_loaded = True
    assert VALIDATOR.is_valid(tables) is is_loaded
