"""`${NAME}` in a configuration file: variables of the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import ConfigError, load_config
from hermes_lb.config.environment import expanded

if TYPE_CHECKING:
    from pathlib import Path

FILE = """\
[store]
url = "{url}"
[[frontends]]
name = "public"
bind = "127.0.0.1:${{PORT}}"
default_backend = "agents"
[backends.agents]
affinity = {{ cookie = "${{COOKIE}}" }}
servers = [{{ name = "a", address = "${{HOST}}:8001" }}]
"""
SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PORT": "8080", "COOKIE": "ID", "HOST": "b", "PASSWORD": SECRET}.items():
        monkeypatch.setenv(name, value)


def problems_of(folder: Path, text: str) -> list[str]:
    (folder / "lb.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(folder / "lb.toml")
    return [f"{one.line}: {one.key}: {one.message}" for one in caught.value.problems]


def test_strings_of_a_file_have_the_values(tmp_path: Path) -> None:
    (tmp_path / "lb.toml").write_text(FILE.format(url="redis://:${PASSWORD}@store:6379"))
    config = load_config(tmp_path / "lb.toml")
    assert config.store.url == f"redis://:{SECRET}@store:6379"
    assert str(config.frontends[0].bind[0]) == "127.0.0.1:8080"
    assert str(config.backends["agents"].servers[0].address) == "b:8001"
    assert SECRET not in repr(config)


@pytest.mark.parametrize(
    ("given", "meant", "problems"),
    [
        ({"a": "${A}-${B}"}, {"a": "1-${A}"}, []),  # a value is not expanded again
        ({"a": ["x", {"b": "${A}"}]}, {"a": ["x", {"b": "1"}]}, []),
        ({"a": "$${A} $A {A} ${"}, {"a": "${A} $A {A} ${"}, []),
        ({"${A}": {"${A}": 1}}, {"${A}": {"${A}": 1}}, []),
        ({"a": 1, "b": True, "c": "${EMPTY}"}, {"a": 1, "b": True, "c": ""}, []),
        (
            {"a": ["${NO}", "${A}${no}"]},
            {"a": ["", "1"]},
            [(("a", 0), "the environment has no variable NO"),
             (("a", 1), "the environment has no variable no")],
        ),
        (
            {"a": "${A:-b}"},
            {"a": ""},
            [(("a",), '"${A:-b}" names no variable; a literal one is "$${"')],
        ),
    ],
)  # fmt: skip
def test_only_references_are_replaced(
    given: dict[str, Any], meant: dict[str, Any], problems: list[Any]
) -> None:
    assert expanded(given, {"A": "1", "B": "${A}", "EMPTY": ""}) == (meant, problems)


def test_a_missing_variable_is_a_problem_of_its_line(tmp_path: Path) -> None:
    found = problems_of(tmp_path, FILE.format(url="redis://:${NOPE}@store:6379"))
    assert found == ["2: store.url: the environment has no variable NOPE"]


def test_a_message_shows_the_file_and_no_secret(tmp_path: Path) -> None:
    [problem] = problems_of(tmp_path, FILE.format(url="http://:${PASSWORD}@store:6379"))
    assert problem.startswith('2: store.url: "http://:${PASSWORD}@store:6379" is not allowed')
    assert SECRET not in problem


def test_a_mapping_is_taken_as_it_is() -> None:
    config = load_config(
        {
            "frontends": [{"name": "f", "bind": "127.0.0.1:0", "default_backend": "b"}],
            "backends": {
                "b": {
                    "health": {"path": "/${PORT}"},
                    "servers": [{"name": "a", "address": "127.0.0.1:1"}],
                }
            },
        }
    )
    health: Any = config.backends["b"].health
    assert health.path == "/${PORT}"
