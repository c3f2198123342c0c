"""The signals of a balancer, blocked until it can handle them.

Their default ends the process, and loading the code that handles them takes a second: a
`postrotate` script right after a restart would end it. So nothing else is imported here.
"""

import signal

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def hold() -> None:
    """Block them, before anything else: each is pending once."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def release() -> None:
    """Deliver pending ones."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


class EndingAtOnce:
    """Within it TERM and INT end the process as by default; afterwards all is as before.

    Not by handlers: Python would miss a signal that arrives just before a call blocks.
    """

    def __enter__(self) -> None:
        ends = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, signal.SIG_DFL) for number in ends}
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)

    def __exit__(self, *failure: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._before.items():
            signal.signal(number, handler)
