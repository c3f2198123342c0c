"""The package works by itself: sdist -> wheel -> a clean environment, outside the project."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hermes_lb.testing import Server
from tests.support.balancer_process import hermes_lb, until_it_listens

if TYPE_CHECKING:
    from tests.support.stage import Stage

ROOT = Path(__file__).parents[1]
BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(*words: str | Path, cwd: Path, **variables: str) -> str:
    """-> stdout. Without the variable that would lead into the project."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= variables
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    return target / run(sys.executable, "-c", BUILD, kind, target, cwd=source).split()[-1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist, made from the files that git tracks."""
    folder = tmp_path_factory.mktemp("package")
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for name in filter(None, files):
        target = folder / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    sdist = build("build_sdist", folder / "checkout", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / sdist.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    return build("build_wheel", source, source.parent)


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The `bin` of an environment that has the wheel and what it asks for."""
    environment = wheel.parent / "environment"
    run(sys.executable, "-m", "venv", environment, cwd=wheel.parent)
    quiet = ("--quiet", "--disable-pip-version-check")
    run(environment / "bin/python", "-m", "pip", "install", *quiet, wheel, cwd=wheel.parent)
    return environment / "bin"


def readme(wheel: Path) -> str:
    """As an index shows it."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [one for one in archive.namelist() if one.endswith("/METADATA")]
        headers, _, text = archive.read(name).decode().partition("\n\n")
    assert "Description-Content-Type: text/markdown" in headers
    return text


def test_the_sdist_passes_its_tests(source: Path) -> None:
    for name in (".ci/run", "deploy/Dockerfile", "deploy/helm/hermes-lb/Chart.yaml"):
        assert (source / name).exists()
    assert not list(source.glob("deploy/**/admin-token"))
    some = ("tests/http", "tests/config", "tests/test_readme.py", "tests/test_links.py")
    assert "passed" in run(sys.executable, "-m", "pytest", "-q", *some, cwd=source)


def test_the_description_has_no_link_into_the_project(wheel: Path) -> None:
    text = readme(wheel)
    assert text.startswith("# hermes-lb\n")
    assert [one for one in re.findall(r"\]\(([^)]*)\)", text) if "://" not in one] == []
    assert "pip install hermes-lb " in text
    assert "pip install . " not in text


def test_it_brings_what_the_readme_names(installed: Path, wheel: Path, tmp_path: Path) -> None:
    command = installed / "hermes-lb"
    assert run(command, "--version", cwd=tmp_path).endswith("(pure Python)\n")
    (tmp_path / "lb.toml").write_text(run(command, "config", "minimal", cwd=tmp_path))
    assert run(command, "check", "--config", "lb.toml", cwd=tmp_path).startswith("lb.toml: ok")
    written = run(command, "files", "--output", "here", cwd=tmp_path).split()
    assert {"here/alerts.yml", "here/hermes-lb.service", "here/agent-worker@.service"} < set(
        written
    )
    assert (installed.parent / "share/man/man1/hermes-lb.1").exists()
    # And its own configuration, as an index shows it.
    [toml] = re.findall(r"^```toml\n(.*?)^```$", readme(wheel), re.MULTILINE | re.DOTALL)
    (tmp_path / "own.toml").write_text(toml)
    assert run(command, "check", "--config", "own.toml", cwd=tmp_path).startswith("own.toml: ok")
    assert "complete" in run(command, cwd=tmp_path, _HERMES_LB_COMPLETE="source_bash")
    assert "SERVERID" in run(command, "proxy", "8000", "--print-config", cwd=tmp_path)
    assert "Usage: agent_worker" in run(installed / "agent-worker", "--help", cwd=tmp_path)


def test_a_command_names_the_extra_that_it_needs(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run([installed / "hermes-lb", "demo"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 1
    assert b"pip install 'hermes-lb[demo]'" in done.stdout + done.stderr
    assert b"Traceback" not in done.stderr


async def test_it_serves_outside_the_project(installed: Path, stage: Stage) -> None:
    python = installed / "python"
    async with (
        Server("agent") as server,
        hermes_lb(
            "proxy", server.address, "--port", "0", "--admin-port", "0", python=str(python)
        ) as running,
    ):
        await until_it_listens(running)
        client = await stage.client(running.url)
        assert (await client.ask()).status == 200
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0
