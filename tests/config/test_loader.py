"""The messages for an invalid configuration: exact lines, all at once."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import ValidationError

from hermes_lb.config import (
    Address,
    Bind,
    Config,
    ConfigError,
    Frontend,
    Problem,
    Server,
    load_config,
)

GOOD = """\
[[frontends]]
name = "public"
bind = "127.0.0.1:0"
default_backend = "agents"

[backends.agents]
servers = [{ name = "a", address = "127.0.0.1:8001" }]
"""
AFTER_GOOD = 8  # the line of the first statement after GOOD
FORMATS = 'allowed is "httplog", "json" or "combined"'
STRATEGIES = (
    'allowed is "round_robin", "leastconn", "ip_hash", "random", "consistent_hash", "maglev", '
    '"p2c", "peak_ewma", "prequal", "least_load", "least_sessions", "least_tokens", '
    '"session_stealing", "dual_map", "selective_push", "fair_queue" or "python:module:Class"'
)


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problems_of(text: str | bytes) -> list[str]:
    """The lines that the loader reports for a file of this text, without the file's name."""
    Path("lb.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load_config("lb.toml")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("lb.toml:") for line in lines)
    return [line.removeprefix("lb.toml:") for line in lines]


def problem_in(table: str) -> str:
    """The only line for a good file with these lines after it, without its number."""
    (line,) = problems_of(GOOD + table)
    return line.split(" ", 1)[1]


def test_a_good_file_is_a_config() -> None:
    Path("lb.toml").write_text(GOOD)
    config = load_config("lb.toml")
    assert config == load_config(Path("lb.toml"))
    assert config.backends["agents"].servers[0].address == ("127.0.0.1", 8001)
    assert load_config(config) is config


def test_every_problem_of_a_file_is_reported_at_once_with_its_line() -> None:
    assert problems_of(
        """\
[process]
workers = "all"
max_conections = 10

[limits]
head_size = "16"

[[frontends]]
name = "public site"
bind = "127.0.0.1:80800"
default_backend = "agent"

[backends.agents]
balance = "p3c"

[[backends.agents.servers]]
name = "a"
address = "10.0.0.1:80"
wieght = 2

[[backends.agents.servers]]
name = "a"
weight = 0
backup = "yes"
"""
    ) == [
        '2: process.workers: "all" is not allowed; write a number from 1 to 256, '
        'or "auto" for one per core',
        '3: process.max_conections: unknown key; did you mean "max_connections"?',
        '6: limits.head_size: "16" is too small; allowed is a size from 1KiB to 1MiB, '
        'such as "16KiB" or "1MiB"',
        '9: frontends[0].name: "public site" is not allowed; '
        'write 1 to 64 letters, digits, "_", "." or "-"',
        '10: frontends[0].bind: "127.0.0.1:80800" is not allowed; write "host:port" with a port '
        'from 0 to 65535, such as "10.0.1.10:8000" or "[::1]:8000"',
        '11: frontends[0].default_backend: there is no backend "agent"; did you mean "agents"?',
        f'14: backends.agents.balance: "p3c" is not allowed; {STRATEGIES}',
        '19: backends.agents.servers[0].wieght: unknown key; did you mean "weight"?',
        "21: backends.agents.servers[1].address: missing; "
        'give a value such as "0.0.0.0:8080", "[::1]:8000" or "unix:/run/name.sock"',
        '22: backends.agents.servers[1].name: "a" is the name of backends.agents.servers[0] too; '
        "each server needs a name of its own",
        "23: backends.agents.servers[1].weight: 0 is too small; "
        "allowed is an integer from 1 to 65535",
        '24: backends.agents.servers[1].backup: "yes" is not a boolean; allowed is true or false',
    ]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("[process]\nmax_connections = '9'", 'process.max_connections: "9" is not an integer; '
         "allowed is an integer from 1 to 1000000"),
        ("[process]\nmax_connections = 2_000_000", "process.max_connections: 2000000 is too large; "
         "allowed is an integer from 1 to 1000000"),
        ("[process]\nmax_connections = true", "process.max_connections: true is not an integer; "
         "allowed is an integer from 1 to 1000000"),
        ("[process]\ndrain_timeout = '5 parsecs'", 'process.drain_timeout: "5 parsecs" is not '
         'allowed; write a duration such as "250ms", "5s", "10m" or "1h30m"'),
        ("[timeouts]\nclient = '0s'", 'timeouts.client: "0s" is too small; allowed is a duration '
         'above 0, such as "250ms", "5s", "10m" or "1h30m"'),
        ("[log]\naccess = 5", "log.access: 5 is not text in quotes; "
         "allowed is text in quotes, not empty"),
        ("[log]\naccess = ''", 'log.access: "" is too short; '
         "allowed is text in quotes, not empty"),
        ("[log]\nformat = 'jsn'", 'log.format: "jsn" is not allowed; '
         'allowed is "httplog", "json" or "combined"; did you mean "json"?'),
        ("[log]\nsample = 2.0", "log.sample: 2.0 is too large; "
         "allowed is a number from 0 to 1"),
        ("[admin]\nbind = '0.0.0.0:9900'", 'admin.bind: "0.0.0.0:9900" is not allowed; off '
         "loopback a token is needed: set admin.token_file, admin.token or HERMES_LB_ADMIN_TOKEN, "
         'or bind it to loopback, such as "127.0.0.1:9900"'),
        ("[backends.agents.affinity]\ncookie = 'a b'", 'backends.agents.affinity.cookie: "a b" is '
         "not allowed; write 1 to 64 letters, digits or any of !#$%&'*+.^_`|~-"),
        ("[backends.agents.affinity]\ncookie = 'A'\nsamesite = 'None'", "backends.agents.affinity: "
         'samesite = "None" needs secure = true, or browsers drop the cookie'),
        ("[backends.agents.affinity]\ncookie = 'A'\nindirect = false", "backends.agents.affinity."
         "indirect: false is not allowed; allowed is true"),
        ("[backends.agents.health]\nexpect_status = [200, 999]", "backends.agents.health."
         "expect_status[1]: 999 is not allowed; write a status from 100 to 599, such as 200, "
         '"2xx" or "200-399"'),
        ("[backends.agents.health]\nexpect_status = '9xx'", "backends.agents.health."
         'expect_status: "9xx" is not allowed; write a status from 100 to 599, such as 200, '
         '"2xx" or "200-399"'),
        ("[backends.agents.health]\nhost = \"a\\r\\nX: y\"", "backends.agents.health.host: "
         '"a\\r\\nX: y" is not allowed; write a host such as "agents.internal" or "[::1]:8000"'),
        ("[backends.agents.health]\nexpect_status = []", "backends.agents.health.expect_status: "
         'it is empty; give an array of at least one, each a value such as 200, "2xx" or '
         '"200-399"'),
    ],
)  # fmt: skip
def test_a_wrong_value_is_reported_with_what_is_allowed(table: str, problem: str) -> None:
    assert problem_in(table) == problem


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("leastcon", 'did you mean "leastconn"?'),
        ("least_conn", 'did you mean "leastconn"?'),
        ("roundrobin", 'did you mean "round_robin"?'),
        ("source", 'did you mean "ip_hash"?'),
        ("ring_hash", 'did you mean "consistent_hash"?'),
        ("ewma", 'did you mean "peak_ewma"?'),
    ],
)
def test_the_words_of_nginx_and_haproxy_lead_to_ours(text: str, hint: str) -> None:
    (line,) = problems_of(GOOD.replace("servers", f'balance = "{text}"\nservers'))
    assert line == f'7: backends.agents.balance: "{text}" is not allowed; {STRATEGIES}; {hint}'


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("[bogus]", "bogus: unknown key; the keys here are "
         "process, admin, log, timeouts, limits, error_pages, store, frontends, backends"),
        ("[timeout]", 'timeout: unknown key; did you mean "timeouts"?'),
        ("['back ends']", '"back ends": unknown key; did you mean "backends"?'),
        ("[log]\nmax_connections = 5", "log.max_connections: unknown key; "
         "the keys here are access, format, facility, tag, sample, slow, traceparent, "
         "capture_trace, otlp"),
        # TOML's own trap: below the header of a sub-table.
        ("[[frontends]]\nname = 'b'\nbind = ':0'\n[[frontends.routes]]\nbackend = 'agents'\n"
         "default_backend = 'agents'", "frontends[1].routes[0].default_backend: unknown key here; "
         "it is a key of frontends[1], and must stand before the header of frontends[1].routes[0]"),
        ("[process.admin]", "process.admin: unknown key here; it is a key of the top of the file, "
         "and must stand before the header of process"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_reported_with_the_nearest_known_one_or_where_it_belongs(
    table: str, problem: str
) -> None:
    assert problem_in(table) == problem


def test_a_key_of_a_sub_table_is_reported_with_its_table() -> None:
    (line,) = problems_of(GOOD.replace("servers", "interval = 5\nservers"))
    assert line == (
        "7: backends.agents.interval: unknown key here; it belongs into backends.agents.health"
    )


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", [" backends: missing; write [backends.NAME] for at least one backend",
              " frontends: missing; write [[frontends]] for at least one"]),
        ("frontends = []\nbackends = {}",
         ["1: frontends: it is empty; write [[frontends]] for at least one",
          "2: backends: it is empty; write [backends.NAME] for at least one backend"]),
        ("[frontends]\nname = 'x'\n[[backends]]\nname = 'y'",
         ["1: frontends: a single table; write [[frontends]], with two brackets, for each of them",
          "3: backends: an array; write [backends.NAME] for each backend"]),
        (GOOD.replace("[backends.agents]", "[[backends.agents]]"),
         ["6: backends.agents: an array of tables; write [backends.agents], with one bracket"]),
        (GOOD.replace("s.agents", "s.'my agents'").replace('"agents"', '"my agents"'),
         ['4: frontends[0].default_backend: "my agents" is not allowed; '
          'write 1 to 64 letters, digits, "_", "." or "-"',
          '6: backends."my agents": the name "my agents" is not allowed; '
          'write 1 to 64 letters, digits, "_", "." or "-"']),
        (GOOD + "health = true\nkeep_alive = [1]",
         ["8: backends.agents.health: true is not a table; allowed is a table with the keys probe, "
          "interval, fast_interval, down_interval, timeout, rise, fall, start, path, method, host, "
          "expect_status, expect_header, expect_body, service",
          "9: backends.agents.keep_alive: [1] is not an integer; "
          "allowed is an integer from 0 to 10000"]),
        (GOOD.replace('default_backend = "agents"', ""),
         ["1: frontends[0]: give default_backend, or at least one route"]),
    ],
)  # fmt: skip
def test_a_wrong_shape_is_reported_with_how_to_write_it(text: str, problems: list[str]) -> None:
    assert problems_of(text) == problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = 1\na = 2\n", "2: column 6: this key is given a second time"),
        ("[a]\n[b]\n[a]\n", "3: column 3: the table [a] is given already, above"),
        ("[[a]]\n[a.b.c]\n[a.b.c]", "3: column 7: the table [a.b.c] is given already, above"),
        ("interval = 5s\n", "1: column 13: the line should end here; text, durations and "
         'addresses need quotes, such as interval = "5s"'),
        ("\na = yes", "2: column 5: this is no value of TOML; text, durations and addresses need "
         'quotes, such as interval = "5s"'),
        ("x = 1\na = [1,\n2\n[b]\n", "4: column 1: Unclosed array "
         "(in the value that starts on line 2)"),
        ('a = "x', "1: column 7: Unterminated string"),
        ("? = 1", '1: column 1: neither a "key = value", nor a [table], nor a # comment'),
        ("a = " + "[" * 5000, " the values are nested too deeply"),
        (b"a = 1\nb = '\xff'\n", "2: byte 0xff is not UTF-8; save the file in that encoding"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_toml_has_one_clear_line(text: str | bytes, problem: str) -> None:
    assert problems_of(text) == [problem]


@pytest.mark.parametrize("name", ["agent", "an agent"])
def test_a_name_that_no_backend_has_is_one_problem(name: str) -> None:
    """Also if it could not be a name, and not once more for the configuration as a whole."""
    (line,) = problems_of(GOOD.replace('d = "agents"', f'd = "{name}"'))
    assert line.startswith(f'4: frontends[0].default_backend: there is no backend "{name}"; ')


def test_a_byte_order_mark_and_dos_line_ends_do_no_harm() -> None:
    marked = "\ufeff" + GOOD.replace("\n", "\r\n")
    Path("lb.toml").write_bytes(marked.encode())
    assert load_config("lb.toml").frontends[0].name == "public"
    (line,) = problems_of(marked + "keep_alive = -1\r\n")
    assert line.startswith(f"{AFTER_GOOD}: backends.agents.keep_alive: -1 is too small")


def test_a_file_that_cannot_be_read_has_one_clear_line() -> None:
    for name, problem in (
        ("nope.toml", "nope.toml: there is no such file"),
        (os.curdir, ".: this is a directory; name the file in it"),
        ("lb\0.toml", "lb\0.toml: the file cannot be read: embedded null byte"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(name)
        assert str(caught.value) == problem


def test_a_file_without_permission_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:  # a mode of 0 would not stop root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(
        ConfigError, match=r"^lb\.toml: the file cannot be read: Permission denied$"
    ):
        load_config("lb.toml")


def mapping(**changes: Any) -> dict[str, Any]:
    return {
        "frontends": [{"name": "public", "bind": "127.0.0.1:0", "default_backend": "agents"}],
        "backends": {"agents": {"servers": [{"name": "a", "address": "127.0.0.1:8001"}]}},
        **changes,
    }


def test_a_mapping_has_keys_but_no_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(mapping(log={"format": "x"}, timeouts={"queue": -1}))
    assert caught.value.source is None
    assert caught.value.problems == (
        Problem("log.format", None, f'"x" is not allowed; {FORMATS}'),
        Problem(
            "timeouts.queue",
            None,
            '-1 is not allowed; write a duration such as "250ms", "5s", "10m" or "1h30m"',
        ),
    )
    assert str(caught.value).splitlines()[0] == (f'log.format: "x" is not allowed; {FORMATS}')


def test_a_mapping_may_hold_models_and_tuples() -> None:
    bind = Bind(address=Address("127.0.0.1", 0))
    front = Frontend(name="public", bind=[bind], default_backend="agents")
    server = Server(name="a", address=Address("127.0.0.1", 8001))
    read_only = MappingProxyType(
        {"frontends": (front,), "backends": {"agents": {"servers": [server]}}}
    )
    assert load_config(read_only) == load_config(mapping())


def test_a_config_that_does_not_hold_together_cannot_be_made() -> None:
    good = load_config(mapping())
    with pytest.raises(ValueError, match=r"frontends\[0\]\.default_backend: there is no backend"):
        Config(frontends=good.frontends, backends={"b": good.backends["agents"]})


def test_the_error_survives_pickling_and_sorts_its_lines() -> None:
    error = ConfigError([Problem("b", 9, "x"), Problem("a", 10, "y"), Problem("", None, "z")], "f")
    assert str(error) == "f: z\nf:9: b: x\nf:10: a: y"
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.problems, copy.source) == (error.problems, "f")


def test_a_long_value_is_shortened() -> None:
    line = problem_in(f"[log]\nformat = '{'x' * 500}'")
    assert line == f'log.format: "{"x" * 57}..." is not allowed; {FORMATS}'


@pytest.mark.parametrize(
    ("balance", "option", "said"),
    [
        (
            "leastconn",
            'tau = "5s"',
            'tau: not an option of "leastconn"; '
            'it belongs to balance = "peak_ewma", "prequal", "least_load" or "selective_push"',
        ),
        (
            "peak_ewma",
            'hash_on = "client"',
            'hash_on: not an option of "peak_ewma"; '
            'it belongs to balance = "consistent_hash", "maglev", "least_sessions", '
            '"least_tokens", "session_stealing", "dual_map", "selective_push" or "fair_queue"',
        ),
        (
            "p2c",
            "load-factor = 2.0",
            'load-factor: unknown key; did you mean "load_factor"? '
            'It belongs to balance = "consistent_hash" or "maglev"',
        ),
        ("maglev", 'hash_onn = "client"', 'hash_onn: unknown key; did you mean "hash_on"?'),
        (
            "p2c",
            "retries = 1",
            "retries: unknown key here; it is a key of backends.agents, "
            "and must stand before the header of backends.agents.strategy",
        ),
        (
            "maglev",
            'hash_on = "ip"',
            'hash_on: "ip" is not allowed; '
            'write "client", "header:NAME", "cookie:NAME" or "query:NAME"',
        ),
        (
            "maglev",
            "load_factor = 0.5",
            "load_factor: 0.5 is not allowed; write 1.0 or more, or 0.0 for no bound",
        ),
    ],
)
def test_an_option_of_another_strategy_is_an_error(balance: str, option: str, said: str) -> None:
    text = f'{GOOD}balance = "{balance}"\n[backends.agents.strategy]\n{option}\n'
    assert problems_of(text) == [f"10: backends.agents.strategy.{said}"]


def test_wrong_values_and_options_of_other_strategies_are_reported_at_once() -> None:
    table = '[backends.agents.strategy]\ntau = "5s"\nload_factor = -1\nhash_on = 3\n'
    lines = problems_of(f'{GOOD}balance = "maglev"\n{table}')
    assert [line.partition(":")[0] for line in lines] == ["10", "11", "12"]


def test_an_inherited_configuration_may_have_options_of_other_strategies() -> None:
    """A version that ignored them may have written it."""
    tables = tomllib.loads(
        f'{GOOD}balance = "peak_ewma"\nstrategy = {{ hash_on = "client", tau = "3s" }}'
    )
    options = Config.inherited(tables).backends["agents"].strategy
    assert options.model_dump() == {"tau": 3.0}
    with pytest.raises(ValidationError, match="hash_on"):
        Config.model_validate(tables)


def test_a_configuration_is_validated_without_the_network() -> None:
    """The options of servers, strategies, probes and stores are read, and none of their I/O."""
    names = (
        "'asyncio', 'ssl', 'aiohttp', 'redis', 'uvloop', 'hermes_lb.backends.dialing', "
        "'hermes_lb.proxy'"
    )
    use = (
        "import sys, hermes_lb.config; "
        f"hermes_lb.config.load_config('lb.toml'); print({{{names}}} & set(sys.modules))"
    )
    Path("lb.toml").write_text(
        GOOD
        + "health = {}\npins = { redis = 'redis://127.0.0.1:1' }\n"
        + "[[backends.agents.stick]]\non = 'header:X'\nlearn = true\n"
    )
    done = subprocess.run([sys.executable, "-c", use], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
