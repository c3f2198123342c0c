"""`python -m hermes_lb`, and the console script `hermes-lb`: see `hermes_lb.cli`."""

import os
import sys

from hermes_lb import signals


def main() -> None:
    """Run the command line. Signals wait until the balancer, or any other command, has begun."""
    signals.hold()
    _open_what_is_closed()
    from hermes_lb.cli import main as run_command

    run_command()


def _open_what_is_closed() -> None:
    """`>&-`: what is written there is lost, and no socket of ours gets the number."""
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
