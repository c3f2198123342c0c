"""The command line: run or check a configuration, proxy without one, schema, control, demo, lab.

Exit status: 0 success; 1 the configuration or the start failed, with the reasons on stderr; 2 usage
error. Imports that only one command needs are inside it: `check` is run by editors and deploy
scripts, and must not wait for the data path's libraries.
"""

from __future__ import annotations

import errno
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, TextIO, TypeVar

import typer

from hermes_lb import signals
from hermes_lb.ctl.commands import app as ctl
from hermes_lb.errors import reason
from hermes_lb.shipped import CONFIGURATIONS, FILES, listed, path_of, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hermes_lb.config import Bind, Config, ConfigError

# Commands that release signals when they can end in order.
_HANDLE_SIGNALS = {"lab", "proxy"}


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()


app = typer.Typer(
    pretty_exceptions_enable=False,
    # Boxes and colours on a terminal only.
    rich_markup_mode="rich" if _is_terminal(sys.stdout) and _is_terminal(sys.stderr) else None,
)

app.add_typer(ctl, name="ctl")

ConfigOption = Annotated[
    Path | None,
    # Not `readable`: an unreadable file may become readable, and exit status 2 would keep systemd
    # from trying again (RestartPreventExitStatus=).
    typer.Option("--config", "-c", metavar="FILE", readable=False, help="The TOML file to use."),
]


def main() -> None:
    """Parse the command line and run the command."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from hermes_lb.build import BUILD

        print(f"hermes-lb {version('hermes-lb')} ({BUILD})")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    config: ConfigOption = None,
    loop: Annotated[
        Literal["uvloop", "asyncio"],
        typer.Option(help="The event loop; uvloop is faster."),
    ] = "uvloop",
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """A load balancer for fleets of LLM-agent workers.

    To run it: --config lb.toml. Everything else is a command.
    """
    if context.invoked_subcommand is not None:
        if context.invoked_subcommand not in _HANDLE_SIGNALS:
            signals.release()
        context.obj = config
        return
    path = _required(config, context)
    from hermes_lb.workers.generation import is_successor

    # Opening a FIFO may block. After an upgrade there are workers to be drained: signals wait.
    may_wait = path.is_fifo() and not is_successor()
    with signals.EndingAtOnce() if may_wait else nullcontext():
        checked = _load_to_run(path)
    _serve(checked, path, loop)


def _serve(config: Config, path: Path, loop: str) -> NoReturn:
    from hermes_lb.workers.run import serve

    try:
        serve(config, path, loop=loop)
    except (OSError, ValueError) as error:
        in_use = "; stop what uses it, or change the address" if _is_in_use(error) else ""
        _fail(f"cannot start: {reason(error)}{in_use}")


def _is_in_use(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EADDRINUSE


@app.command()
def proxy(
    servers: Annotated[
        list[str],
        typer.Argument(metavar="ADDRESS", help="host:port, a port, unix:/path or a URL."),
    ],
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port to listen on.")] = 8080,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 for all interfaces.")
    ] = "127.0.0.1",
    balance: Annotated[str, typer.Option(metavar="STRATEGY", help="How a server is picked.")] = (
        "leastconn"
    ),
    cookie: Annotated[
        str, typer.Option(metavar="NAME", help="The cookie of affinity; empty: none.")
    ] = "SERVERID",
    health: Annotated[
        str | None, typer.Option(metavar="PATH", help="A health page; default: a TCP connection.")
    ] = None,
    admin_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="The dashboard's port; 0: none.")
    ] = 9900,
    turns: Annotated[
        bool, typer.Option("--turns", help="Durable turns, with an embedded store.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the configuration, and exit.")
    ] = False,
) -> None:
    """Balance servers that run already, without a configuration file."""
    from hermes_lb.config import ConfigError, load_config
    from hermes_lb.quickstart import Wanted, anonymous_file, configuration, introduction
    from hermes_lb.workers.generation import is_successor

    _known_strategies([balance])
    wanted = Wanted(servers, host, port, balance, cookie or None, health, admin_port or None, turns)
    try:
        text = configuration(wanted)
        path = anonymous_file(text)
        checked = load_config(path)
    except ConfigError as error:  # its lines are of a file that the user did not write
        _fail("; ".join(f"{one.key}: {one.message}" for one in error.problems), status=2)
    except ValueError as error:
        _fail(str(error), status=2)
    if print_config:
        print(text, end="")
        return
    if not is_successor():
        print(*introduction(wanted), sep="\n", file=sys.stderr)
    _serve(checked, path, "uvloop")


@app.command()
def check(context: typer.Context, config: ConfigOption = None) -> None:
    """Check a configuration: print every problem with its line, or a summary."""
    path = _required(config or context.obj, context)
    checked = _load(path)
    _check_start(checked)
    print(f"{path}: ok")
    for line in summary(checked):
        print(f"  {line}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors.

    Beside a configuration: hermes-lb schema > hermes-lb.schema.json
    """
    from hermes_lb.config.editor_schema import editor_schema

    reference = path_of("reference.toml").read_text(encoding="utf-8")
    print(json.dumps(editor_schema(reference), indent=2))


_NAME = typer.Argument(metavar="NAME", help="Which one; without it: a list of them.")


@app.command()
def config(name: Annotated[str | None, _NAME] = None) -> None:
    """Print an example configuration.

    To start with: hermes-lb config minimal > lb.toml
    """
    _show(CONFIGURATIONS, "configuration", name)


@app.command()
def files(
    name: Annotated[str | None, _NAME] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write all of them to a directory.")
    ] = None,
) -> None:
    """Print systemd units, alerts, a dashboard, or the manual."""
    if output is None:
        _show(FILES, "file", name)
        return
    try:
        print(*write_all(output), sep="\n")
    except OSError as error:
        _fail(f"the files can't be written: {reason(error)}")


def _show(shipped: dict[str, tuple[str, str]], kind: str, name: str | None) -> None:
    if name is None:
        print(*listed(shipped), sep="\n")
        return
    _known(kind, [name], shipped)
    print(path_of(shipped[name][0]).read_text(), end="")


@app.command()
def demo(
    context: typer.Context,
    config: ConfigOption = None,
    once: Annotated[bool, typer.Option("--once", help="Show each scene once and exit.")] = False,
) -> None:
    """Run the whole system on this machine: balancer, workers, and sessions that survive."""
    path = config or context.obj or path_of("lb.toml")
    _load(path)
    try:
        from hermes_lb.demo import run as run_demo

        status = run_demo(once=once, config=path)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hermes_lb"):
            raise
        _fail(f"the demo needs {error.name}: pip install 'hermes-lb[demo]'")
    except OSError as error:
        _fail(f"the demo cannot start: {error}")
    raise typer.Exit(status or 0)


@app.command()
def lab(
    action: Annotated[
        Literal["calibrate"] | None,
        typer.Argument(help="calibrate: print the model of a server that fits --trace."),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option("--strategy", "-s", metavar="NAME", help="Repeatable; default: all."),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option("--scenario", metavar="NAME", help="Repeatable; default: all."),
    ] = None,
    servers: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Number of servers; 10, or 4 with --live.")
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(min=1, help="Per strategy; 20,000, or 600 with --live."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same results.")] = 1,
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of seeds, for confidence intervals.")
    ] = 1,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The workload: an access log (httplog), or a trace of agent sessions, Azure or "
            "Mooncake; also packed by gzip.",
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only its requests of the trace; default: all."),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(min=0, help="Requests at a time on a server; 0: any number."),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(min=0.001, max=1000, help="Start a trace's sessions faster by this factor."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, max=1e6, help="Sessions of a trace a minute, by chance."),
    ] = None,
    load: Annotated[
        float | None,
        typer.Option(min=0.01, max=10, help="Arrivals that keep the servers so busy; 1: all."),
    ] = None,
    sticky: Annotated[
        bool | None, typer.Option("--sticky", help="A cookie keeps each session at its server.")
    ] = None,
    balancers: Annotated[
        int, typer.Option(min=1, max=1000, help="Balancers, each with its own view.")
    ] = 1,
    limit: Annotated[
        int, typer.Option(min=0, help="A balancer's max_connections of each server; 0: none.")
    ] = 0,
    share: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=0, help="Balancers exchange their loads so often; 0: at once."
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The model of a server, as calibrate prints it."),
    ] = None,
    loads: Annotated[str | None, typer.Option(metavar="LIST", help="A sweep: 0.5,0.7,0.9.")] = None,
    fleets: Annotated[
        str | None, typer.Option(metavar="LIST", help="A sweep of numbers of servers: 4,8,16.")
    ] = None,
    goal: Annotated[
        str, typer.Option(metavar="FIGURE", help="What the summary compares.")
    ] = "latency_mean",
    live: Annotated[
        bool, typer.Option("--live", help="Also run a real balancer and real workers.")
    ] = False,
    agents: Annotated[
        bool,
        typer.Option("--agents", help="With --live: the workers are agent_worker processes."),
    ] = False,
    why: Annotated[
        int | None,
        typer.Option("--why", metavar="N", min=1, help="Explain the pick for request N."),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory for the JSON and the report.")
    ] = Path("lab"),
) -> None:
    """Compare strategies on a virtual clock: same requests, same failures, any number of servers.

    Prints tables; writes lab.json, lab.csv and lab.html.
    """
    from hermes_lb.balancing import STRATEGIES
    from hermes_lb.lab import FIGURES, SCENARIOS, Asked, Setup, Sweep, calibrate, read_model
    from hermes_lb.lab import run as run_lab

    _known_strategies(strategy or [])
    _known("scenario", scenario or [], SCENARIOS)
    _known("figure", [goal], FIGURES)
    if (trace is not None) + live + bool(scenario) > 1:
        _fail("give only one of --scenario, --trace and --live", status=2)
    if agents and not live:
        _fail("--agents needs --live", status=2)
    of_trace = {"--backend": backend, "--speed": speed, "--rate": rate, "--model": model}
    for name, value in of_trace.items():
        if value is not None and trace is None:
            _fail(f"{name} needs --trace", status=2)
    if rate is not None and load is not None:
        _fail("give only one of --rate and --load", status=2)
    if why is not None and live:
        _fail("--why can't be used with --live: live runs are not repeatable", status=2)
    if action is not None and trace is None:
        _fail("calibrate needs --trace", status=2)
    sweep = Sweep(
        _numbers("--loads", loads, float, 10.0), _numbers("--fleets", fleets, int, 10_000)
    )
    try:
        if action is not None:
            assert trace is not None
            print(json.dumps(calibrate(trace, backend), indent=1))
            return
        setup = Setup(
            balancers, share, sticky, slots, speed, None if rate is None else rate / 60.0, load,
            limit, model=read_model(model),
        )  # fmt: skip
        asked = Asked(
            list(dict.fromkeys(strategy or STRATEGIES)), list(dict.fromkeys(scenario or [])),
            servers, requests, seed, trace, backend, live, agents, why, output, setup, seeds,
            sweep, goal,
        )  # fmt: skip
        status = run_lab(asked)
    except (OSError, ValueError, RuntimeError, TimeoutError) as error:
        _fail(f"the lab failed: {error}")
    raise typer.Exit(status)


_Number = TypeVar("_Number", int, float)


def _numbers(
    option: str, text: str | None, kind: Callable[[str], _Number], most: float
) -> list[_Number]:
    """Of a list with commas, each above 0."""
    try:
        found = [kind(one) for one in text.split(",")] if text is not None else []
    except ValueError:
        found = [kind("0")]
    if any(not 0 < one <= most for one in found):
        _fail(f"{option} takes numbers up to {most:g}, with commas between them", status=2)
    return found


def _known(kind: str, names: list[str], allowed: Iterable[str]) -> None:
    for name in names:
        if name not in allowed:
            _fail(f"there is no {kind} {name!r}; there are {', '.join(allowed)}", status=2)


def _known_strategies(names: list[str]) -> None:
    """Also those of one's own, `python:module:Class` or an entry point."""
    from hermes_lb.balancing import STRATEGIES, plugins
    from hermes_lb.balancing.plugin_check import PluginError, check_picks

    for name in names:
        try:
            if name in STRATEGIES:
                continue
            if name.startswith(plugins.PREFIX) or plugins.is_installed_name(name):
                found = plugins.load(name).found
                check_picks(name, found, found.options())
                continue
        except (PluginError, ValueError) as error:
            _fail(f"{name}: {error}", status=2)
        _known("strategy", [name], STRATEGIES)


def summary(config: Config) -> list[str]:
    """A line for each frontend, route and backend, and for the admin listener."""
    lines = []
    for frontend in config.frontends:
        lines.append(f"frontend {frontend.name}: {', '.join(map(_bind_in_words, frontend.bind))}")
        if frontend.http2_is_off:
            lines.append(f"  {frontend.http2_is_off}")
        lines += [f"  {route}" for route in frontend.routes]
        if frontend.routes and frontend.default_backend:
            lines.append(f"  else -> {frontend.default_backend}")
    for name, backend in config.backends.items():
        count = len(backend.servers)
        backups = sum(server.backup for server in backend.servers)
        lines.append(
            f"backend {name}: {backend.balance}, {count} server{'s' * (count != 1)}"
            + (f" ({backups} backup)" if backups else "")
        )
    lines.append(f"admin: {config.admin.bind}" if config.admin.enabled else "admin: off")
    return lines


def _bind_in_words(bind: Bind) -> str:
    return f"{bind}{' tls' * bind.tls}{' proxy_protocol' * bind.proxy_protocol}"


def _check_start(config: Config) -> None:
    """Exit with status 1 and all reasons if a start would fail."""
    from hermes_lb.config import ConfigError
    from hermes_lb.workers.start_check import start_problems

    problems = list(start_problems(config))
    for problem in problems:
        if isinstance(problem, ConfigError):
            _print_problems(problem)
        else:
            print(f"hermes-lb: {reason(problem)}", file=sys.stderr)
    if problems:
        raise typer.Exit(1)


def _required(config: Path | None, context: typer.Context) -> Path:
    if config is not None:
        return config
    command = context.command_path
    if context.parent is None:
        _fail(
            f"which configuration? Run `{command} --config lb.toml`; "
            f"see `{command} --help` for the commands",
            status=2,
        )
    _fail(f"which configuration? Run `{command} --config lb.toml`", status=2)


def _load(path: Path) -> Config:
    """The configuration; or exit with status 1 and every problem on stderr."""
    from hermes_lb.config import ConfigError, load_config

    try:
        return load_config(path)
    except ConfigError as error:
        _print_problems(error)
        raise typer.Exit(1) from None


def _load_to_run(path: Path) -> Config:
    """As `_load`; after an upgrade, the previous configuration in place of an invalid one."""
    try:
        return _load(path)
    except typer.Exit:
        from hermes_lb.workers.generation import inherited_config

        if (in_use := inherited_config()) is None:
            raise
        print("hermes-lb: the old configuration goes on", file=sys.stderr)
        return in_use


def _print_problems(error: ConfigError) -> None:
    if not _is_terminal(sys.stderr):
        print(error, file=sys.stderr)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for problem in error.problems:
        place = f"{error.source}:{'' if problem.line is None else f'{problem.line}:'} "
        key = f"{problem.key}: " if problem.key else ""
        console.print(Text.assemble((place, "bold"), (key, "cyan"), problem.message))


def _fail(message: str, status: int = 1) -> NoReturn:
    print(f"hermes-lb: {message}", file=sys.stderr)
    raise typer.Exit(status)
