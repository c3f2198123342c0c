"""The Dockerfile: linted, and each of its steps executed without Docker, in a folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.environment import DEPLOY, PROGRAMS, ROOT, needs_environment

FILE = DEPLOY / "Dockerfile"


class Step(NamedTuple):
    """An instruction. `arguments`: without the backslashes at the ends of its lines."""

    name: str
    arguments: str


def steps() -> list[Step]:
    text = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [Step(*line.split(maxsplit=1)) for line in lines if line]


def ignored() -> list[str]:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


@needs_environment
def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(
        [PROGRAMS / "hadolint", FILE], capture_output=True, text=True, check=False, timeout=55
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_it_has_two_stages_and_no_root() -> None:
    found = steps()
    assert [step.name for step in found].count("FROM") == 2
    users = [step.arguments for step in found if step.name == "USER"]
    assert users == ["10001:10001"]
    assert found.index(Step("USER", users[0])) > [s.name for s in found].index("ENV")
    bases = {step.arguments.split()[0] for step in found if step.name == "FROM"}
    [base] = bases  # the interpreter that made the environment
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", base)


def test_what_it_copies_is_let_through() -> None:
    first, *rest = ignored()
    assert first == "*"
    kept = {line.removeprefix("!") for line in rest if line.startswith("!")}
    copied = [step.arguments.split()[:-1] for step in steps() if step.name == "COPY"]
    names = {name for names in copied for name in names if not name.startswith(("-", "/"))}
    assert names == kept


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_its_steps_make_a_program_that_needs_no_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    folder, environment = root, dict(os.environ)
    for name, arguments in steps():
        if name == "WORKDIR":
            folder = root / arguments.lstrip("/")
            folder.mkdir(parents=True)
        elif name == "COPY" and not arguments.startswith("--from"):
            *sources, target = arguments.split()
            for source in sources:
                files = [one for one in tracked if one == source or one.startswith(f"{source}/")]
                assert files, source
                for file in files:
                    place = folder / (file if target == "./" else target + file[len(source) :])
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / file, place, follow_symlinks=False)
        elif name == "COPY":
            _, source, target = arguments.split()
            assert source == target  # of the other stage, whose root this is, too
            assert (root / source.lstrip("/")).is_dir()
        elif name == "RUN":
            command = arguments.replace("/opt/", f"{root}/opt/")
            done = subprocess.run(
                ["bash", "-ec", command], cwd=folder, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        elif name == "ENV":
            pairs = dict(pair.split("=", 1) for pair in arguments.split())
            path = pairs.pop("PATH").replace("/opt/", f"{root}/opt/")
            environment |= {**pairs, "PATH": path.replace("$PATH", environment["PATH"])}
    environment = {key: value for key, value in environment.items() if key != "PYTHONPATH"}
    without_root = _without_root(tmp_path)
    commands = ("hermes-lb --version", "hermes-lb --help", "agent-worker --help")
    for command in [each.split() for each in commands]:
        program = shutil.which(command[0], path=environment["PATH"])
        assert program == f"{root}/opt/hermes-lb/bin/{command[0]}"
        done = subprocess.run(
            [*without_root, program, *command[1:]],
            cwd="/", env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    [default] = [step.arguments for step in steps() if step.name == "CMD"]
    assert default == '["hermes-lb", "--help"]'


def _without_root(folder: Path) -> list[str]:
    """What runs a command as the image's user; nothing where that one can't read Python."""
    base = Path(sys.base_prefix).resolve()
    is_open = all(path.stat().st_mode & 0o001 for path in (base, *base.parents))
    if os.geteuid() != 0 or shutil.which("setpriv") is None or not is_open:
        return []
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    return ["setpriv", "--reuid=10001", "--regid=10001", "--clear-groups"]
