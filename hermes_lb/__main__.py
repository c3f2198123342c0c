"""`python -m hermes_lb`, and the console script `hermes-lb`: see `hermes_lb.cli`."""

import os
import sys

from hermes_lb import signals


def main() -> None:
    """Run the command line. Signals are blocked until a command can handle them."""
    signals.hold()
    _open_closed_streams()
    from hermes_lb.cli import main as run_command

    run_command()


def _open_closed_streams() -> None:
    """After `>&-`: discard output there, and keep sockets from getting the number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


if __name__ == "__main__":
    main()
