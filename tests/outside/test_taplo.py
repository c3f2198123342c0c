"""The real Taplo, which editors have, with the schema that `hermes-lb schema` prints.

The first line of an example leads to it. Nothing is asked of the internet.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.needs import needs_outside
from tests.support.programs import run

if TYPE_CHECKING:
    from tests.support.programs import Ran

TAPLO = needs_outside("taplo", "taplo")
ROOT = Path(__file__).parents[2]
EXAMPLES = [*sorted((ROOT / "configs").glob("*.toml")), ROOT / "deploy/compose/lb.toml"]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in EXAMPLES}
REFERENCE = (ROOT / "configs/reference.toml").read_text()
TABLE = re.compile(r"^\[.*\]$", re.MULTILINE)
KEY = re.compile(r"^(\w+) = .*$", re.MULTILINE)
# Their keys are names: of fields, of parameters.
OF_ANY_NAME = {
    "[frontends.routes.request_headers]",
    "[frontends.routes.response_headers]",
    "[frontends.routes.match.header]",
    "[frontends.routes.match.query]",
}
# One of them by default: all are 9 s.
TABLES = [
    pytest.param(table, marks=[] if table == "[backends.agents.health]" else pytest.mark.slow)
    for table in dict.fromkeys(TABLE.findall(REFERENCE))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the schema."""
    from typer.testing import CliRunner

    from hermes_lb.cli import app

    made = tmp_path_factory.mktemp("taplo")
    (made / "hermes-lb.schema.json").write_text(CliRunner().invoke(app, ["schema"]).output)
    return made


async def lint(folder: Path, text: str) -> Ran:
    """The last lines that it says may be missing."""
    tomllib.loads(text)  # it refuses no syntax
    file = folder / "lb.toml"
    file.write_text(text)
    return await run(TAPLO, "lint", "--no-auto-config", "--colors", "never", str(file), within=50.0)


@pytest.mark.parametrize("name", TEXTS)
async def test_it_accepts_every_example(folder: Path, name: str) -> None:
    ran = await lint(folder, TEXTS[name])
    assert (ran.status, "error" in ran.said) == (0, False), ran.said


@pytest.mark.parametrize("table", [table for table in TABLES if table.values[0] not in OF_ANY_NAME])
async def test_it_refuses_a_key_that_no_table_has(folder: Path, table: str) -> None:
    before, found, after = REFERENCE.partition(f"\n{table}\n")
    assert found
    ran = await lint(folder, f"{before}{found}no_such_key = 1\n{after}")
    assert (ran.status, "no_such_key" in ran.said) == (1, True), ran.said


@pytest.mark.parametrize("table", TABLES)
async def test_it_refuses_a_value_of_a_wrong_type(folder: Path, table: str) -> None:
    before, found, after = REFERENCE.partition(f"\n{table}\n")
    changed, count = KEY.subn(r"\1 = [[[]]]", after, count=1)
    assert (bool(found), count) == (True, 1)
    ran = await lint(folder, before + found + changed)
    assert (ran.status, "error: " in ran.said) == (1, True), ran.said
