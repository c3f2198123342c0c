"""docs/coming-from-nginx-and-haproxy.md: its configurations load, and the keys it names exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hermes_lb.affinity.keys import KeyOptions
from hermes_lb.affinity.stores.registry import TableOptions
from hermes_lb.config import Config, Match, ServerTls, frontend, load_config, process
from hermes_lb.health.probes.http import HttpOptions

if TYPE_CHECKING:
    from hermes_lb.options.section import Section

PAGE = (Path(__file__).parents[2] / "docs/coming-from-nginx-and-haproxy.md").read_text()
BLOCKS = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def translated(block: str) -> Config:
    return load_config(tomllib.loads(block))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line {line_of(block)}")
def test_every_configuration_of_the_page_loads(block: str) -> None:
    assert translated(block).backends


def line_of(block: str) -> int:
    return PAGE[: PAGE.index(block)].count("\n")


def test_the_page_translates_two_configurations() -> None:
    nginx, haproxy = (translated(block) for block in BLOCKS)
    for config in (nginx, haproxy):
        servers = config.backends["hermes_backend"].servers
        assert [str(server.address) for server in servers] == [
            "10.0.1.10:8000",
            "10.0.1.11:8000",
            "10.0.1.12:8000",
        ]
    assert nginx.backends["hermes_backend"].balance == "ip_hash"
    assert haproxy.backends["hermes_backend"].balance == "leastconn"
    assert [bind.tls for bind in haproxy.frontends[0].bind] == [False, True]


def keys_in_middle_column() -> set[str]:
    """`[timeouts] client`, written `timeouts.client`, in the column that says what is here."""
    rows = [row.split(" | ") for row in PAGE.splitlines() if row.startswith("| ")]
    cells = [row[1] for row in rows if len(row) >= 2]
    return {key for cell in cells for key in re.findall(r"`([a-z]+\.[a-z_]+)`", cell)}


def tables() -> dict[str, set[str]]:
    """The keys of each table of a configuration, by the name that the page gives it."""
    models: dict[str, type[Section]] = {
        "process": process.Process, "log": process.Log, "timeouts": process.Timeouts,
        "limits": process.Limits, "health": HttpOptions, "stick": KeyOptions,
        "pins": TableOptions, "match": Match,
    }  # fmt: skip
    keys = {name: set(model.model_fields) for name, model in models.items()}
    return {**keys, "tls": set(frontend.Tls.model_fields) | set(ServerTls.model_fields)}


def test_every_key_that_the_page_names_exists() -> None:
    known = {f"{table}.{key}" for table, keys in tables().items() for key in keys}
    named = keys_in_middle_column()
    assert len(named) > 30
    assert named <= known
