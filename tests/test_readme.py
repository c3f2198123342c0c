"""README.md: its configuration loads, its error message is the real one, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hermes_lb.cli import app

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
)
[CONFIGURATION] = [text for language, text in BLOCKS if language == "toml"]
COMMANDS = "\n".join(text for language, text in BLOCKS if language == "sh")


@pytest.fixture(autouse=True)
def _beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lb.toml").write_text(CONFIGURATION)


def run(line: str) -> Result:
    return CliRunner().invoke(app, line.split()[1:], prog_name="hermes-lb")


def test_its_check_of_its_configuration_passes() -> None:
    [line] = re.findall(r"^hermes-lb check [^#]*", COMMANDS, re.MULTILINE)
    result = run(line)
    assert (result.exit_code, result.output.splitlines()[0]) == (0, "lb.toml: ok")


def test_its_error_message_is_the_real_one() -> None:
    [message] = [text for _, text in BLOCKS if text.startswith("lb.toml:")]
    mistaken = CONFIGURATION.replace('default_backend = "agents"', 'default_backend = "agent"')
    Path("lb.toml").write_text(mistaken)
    assert run("hermes-lb check --config lb.toml").output.startswith(message.strip())


def test_its_targets_of_make_exist() -> None:
    targets = re.findall(r"^make (\S+)", COMMANDS, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test", "check"} <= set(targets)
    assert [one for one in targets if f"\n{one}: " not in makefile] == []
