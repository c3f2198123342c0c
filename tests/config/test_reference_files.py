"""The files of `configs/`: they load, and `reference.toml` agrees with the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.balancing import STRATEGIES, StrategyOptions
from hermes_lb.config import Config, load_config
from hermes_lb.config.lines import LineIndex
from hermes_lb.discovery.sources.base import SourceOptions
from hermes_lb.discovery.sources.registry import SOURCES
from hermes_lb.health.probes.base import ProbeOptions
from hermes_lb.health.probes.registry import PROBES
from hermes_lb.options.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from hermes_lb.options.problems import KeyPath

CONFIGS = Path(__file__).parents[2] / "configs"
REFERENCE = (CONFIGS / "reference.toml").read_text()


@pytest.fixture(autouse=True)
def _beside_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read with the configuration."""
    monkeypatch.chdir(tmp_path)
    for name in ("cookie.secret", "pins.url", "store.url"):
        Path(name).write_text("redis://127.0.0.1:6379/0")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_every_file_loads(path: Path) -> None:
    assert isinstance(load_config(path), Config)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_every_file_names_its_schema_for_editors(path: Path) -> None:
    """Taplo's directive; the file is what `hermes-lb schema` prints."""
    assert path.read_text().startswith("#:schema hermes-lb.schema.json\n")


def test_minimal_is_ten_lines() -> None:
    assert len((CONFIGS / "minimal.toml").read_text().splitlines()[1:]) == 10


def test_the_demo_has_three_workers_behind_one_port() -> None:
    config = load_config(CONFIGS / "lb.toml")
    agents = config.backends["agents"]
    assert [str(bind) for bind in config.frontends[0].bind] == ["127.0.0.1:8080"]
    assert str(config.admin.bind) == "127.0.0.1:9900"
    assert (agents.balance, agents.affinity and agents.affinity.cookie) == ("leastconn", "SERVERID")
    assert [(server.name, str(server.address)) for server in agents.servers] == [
        ("agent1", "127.0.0.1:8001"),
        ("agent2", "127.0.0.1:8002"),
        ("agent3", "127.0.0.1:8003"),
    ]
    assert [route.access_log for route in config.frontends[0].routes] == [False, None]


def sections(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Section]]:
    """Every table of a configuration, with its place."""
    items: Any = ()
    if isinstance(value, Section):
        yield path, value
        items = values_of(value)
    elif isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from sections(item, (*path, key))


def fields() -> Iterator[tuple[KeyPath, FieldInfo, Section]]:
    """Every key that reference.toml gives, with its model's field and the table that has it."""
    index = LineIndex(REFERENCE)
    for path, section in sections(load_config(CONFIGS / "reference.toml")):
        for name, field in type(section).model_fields.items():
            key = field.alias or name
            if (*path, key) in index:
                yield (*path, key), field, section


def line_of(path: KeyPath) -> str:
    line = LineIndex(REFERENCE).line_of(path)
    assert line is not None
    return REFERENCE.splitlines()[line - 1]


def test_reference_has_every_key_of_every_table() -> None:
    given: dict[type[Section], set[str]] = {}
    for path, _, section in fields():
        given.setdefault(type(section), set()).add(str(path[-1]))
    kinds = (*STRATEGIES.values(), *PROBES.values(), *SOURCES.values())
    options = {one.options for one in kinds}
    by_kind = {StrategyOptions, ProbeOptions, SourceOptions}
    assert len(given.keys() - options) == len(set(Section.__subclasses__()) - by_kind)
    for section_type, names in given.items():
        own = section_type.model_fields
        assert names == {one.alias or name for name, one in own.items()}, section_type.__name__
    # Kinds with the same options share an example.
    assert {key for one in options for key in one.model_fields} == {
        key for one in options & given.keys() for key in given[one]
    }


def values_of(section: Section) -> Iterator[tuple[str, Any]]:
    """By the key of the file, which is no name in Python if it is `return`."""
    for name, field in type(section).model_fields.items():
        yield field.alias or name, getattr(section, name)


def value_of(section: Section, path: KeyPath) -> Any:
    return dict(values_of(section))[str(path[-1])]


def says_default(path: KeyPath, field: FieldInfo) -> bool:
    """Whether the line has an example, and the default in words."""
    return f"default: {str(field.default).lower()}" in line_of(path)


def test_reference_gives_each_default() -> None:
    seen = 0
    for path, field, section in fields():
        value = value_of(section, path)
        is_table = isinstance(value, Section) or (
            isinstance(value, list | dict) and any(True for _ in sections(value))
        )
        if field.is_required() or field.default is None or is_table or says_default(path, field):
            continue
        seen += 1
        assert value == field.default, path
        assert not re.search(r"# required|default:", line_of(path)), path
    assert seen > 40


def test_reference_says_where_there_is_no_default() -> None:
    for path, field, section in fields():
        line = line_of(path)
        if line.startswith("["):
            continue  # a table
        if field.is_required():
            assert "# required" in line, path
        elif field.default is None:
            assert "default:" in line, path
        elif path[-1] != "default_backend" and not says_default(path, field):
            assert value_of(section, path) == field.default, path


def test_reference_explains_each_key_and_names_its_relatives() -> None:
    """`key = value  # what it is [HAProxy | nginx]`, at least where the key is first."""
    missing: dict[str, bool] = {}
    for path, _, _ in fields():
        if (line := line_of(path)).startswith("["):
            continue  # a table
        place = ("backends", "NAME", *path[2:]) if path[0] == "backends" else path
        key = ".".join(part for part in place if isinstance(part, str))
        is_explained = re.search(r"# .+ \[[^|]+ \| .+\]$", line) is not None
        missing[key] = missing.get(key, True) and not is_explained
    assert [key for key, is_missing in missing.items() if is_missing] == []
    assert len(missing) > 50
