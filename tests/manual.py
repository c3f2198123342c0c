"""The manual page, from the command line itself: `python -m tests.manual > configs/hermes-lb.1`.

roff with the macros of man(7). Typer brings its own click, which click-man can't read.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import typer.main

from hermes_lb.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

_SYNOPSIS = """\
.SY hermes-lb
.B \\-\\-config
.I FILE
.YS
.SY hermes-lb
.I COMMAND
.RI [ OPTION "]... [" ARGUMENT ]...
.YS"""

_END = """\
.SH SIGNALS
.TP
.B SIGTERM\\fR, \\fPSIGINT
Stop accepting, finish what runs for up to process.drain_timeout, exit. A second one exits at once.
.TP
.B SIGHUP
Reload the configuration.
.TP
.B SIGUSR1
Reopen log files.
.TP
.B SIGUSR2
Upgrade to the code now on disk.
.SH "EXIT STATUS"
0: success. 1: the configuration or the start failed; the reasons are on stderr. 2: usage error.
.SH FILES
.B hermes-lb config
and
.B hermes-lb files
print examples, systemd units, alerts and a dashboard."""


def manual() -> str:
    """The whole page, with a line end."""
    root = typer.main.get_command(app)
    lines = [
        '.TH HERMES-LB 1 "" "hermes-lb" "User Commands"',
        ".SH NAME",
        f"hermes-lb \\- {_clause(root.help)}",
        ".SH SYNOPSIS",
        _SYNOPSIS,
        ".SH OPTIONS",
        *_parameters(root),
        ".SH COMMANDS",
        *_commands(root, ""),
        _END,
    ]
    return "\n".join(lines) + "\n"


def _commands(group: Any, prefix: str) -> Iterator[str]:
    for name, command in group.commands.items():
        words = f"{prefix}{name}"
        if hasattr(command, "commands"):
            yield from _commands(command, f"{words} ")
            continue
        arguments = " ".join(
            one.metavar or one.name.upper()
            for one in command.params
            if one.param_type_name == "argument"
        )
        yield f".SS {_escaped(f'{words} {arguments}'.strip())}"
        yield _text(command.help)
        yield from _parameters(command)


def _parameters(command: Any) -> Iterator[str]:
    for one in command.params:
        record = one.get_help_record(typer.Context(command))
        if record is not None and one.param_type_name == "option":
            names, purpose = record
            yield ".TP"
            yield f".B {_escaped(names)}"
            yield _text(purpose)


def _text(text: str | None) -> str:
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n.PP\n".join(_escaped(" ".join(one.split())) for one in paragraphs)


def _clause(text: str) -> str:
    """The first sentence, as a part of another one."""
    first = inspect.cleandoc(text).partition(".")[0]
    return _escaped(first[0].lower() + first[1:])


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    print(manual(), end="")
