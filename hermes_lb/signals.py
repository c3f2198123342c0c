"""The signals of a balancer, kept back until somebody is ready for them.

Their default is to end the process, and it takes a second to load the code that handles them: a
`postrotate` script right after a restart would be the end of it. So nothing else is imported here.
"""

import signal

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def hold() -> None:
    """They wait, each once, from here on: the first thing that a program does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def release() -> None:
    """Those that have come come now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


class EndingAtOnce:
    """Within it TERM and INT end the process as they do by default; then all is as it was before.

    Not by handlers: Python would take no notice of a signal that comes just before it blocks.
    """

    def __enter__(self) -> None:
        ends = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, signal.SIG_DFL) for number in ends}
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)

    def __exit__(self, *failure: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._before.items():
            signal.signal(number, handler)
