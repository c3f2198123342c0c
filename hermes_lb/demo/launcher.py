"""`python -I -S launcher.py PARENT COMMAND...`: exec COMMAND, and die when PARENT dies.

A script of its own, run before the command: a `preexec_fn` would run Python between fork and exec,
where a lock that another thread held stays locked for ever. What prctl sets survives the exec.
Linux ends the child with the *thread* that started it: start children from the main thread.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    # SIGKILL: on SIGTERM the balancer would drain for minutes, and no one would hurry it.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def main() -> None:
    parent, *command = sys.argv[1:]
    if sys.platform.startswith("linux"):
        _die_with_parent()
    if os.getppid() != int(parent):
        sys.exit("the demo is gone already")  # it died before prctl took effect
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
