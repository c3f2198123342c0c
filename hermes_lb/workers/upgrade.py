"""Replaces the program in this process by the code now on disk: check it, then exec."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from hermes_lb.control.operator import NotPossible
from hermes_lb.observe.messages import flush_messages
from hermes_lb.workers.child import worker_command
from hermes_lb.workers.generation import HANDOVER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hermes_lb.workers.child import Child
    from hermes_lb.workers.handover import Handover

logger = logging.getLogger("hermes_lb")

_CHECK_TAKES = 60.0  # seconds
# Seconds for a worker to read what was sent, and between two checks.
_LISTENS_WITHIN = 5.0
_LOOK_AGAIN = 0.01


async def check_new_code(file: Path) -> None:
    """Have the code now on disk load itself and check the configuration.

    Raises NotPossible with its output, or with the signal that ended it (out of memory?).
    """
    process = await asyncio.create_subprocess_exec(
        *worker_command("--check", str(file)),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_CHECK_TAKES):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise NotPossible("the new code takes too long to check the configuration") from None
    if process.returncode is not None and process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise NotPossible(
            f"the new code was ended by a signal ({name}) while it checked the configuration"
        )
    if process.returncode != 0:
        why = said.decode(errors="replace").strip() or f"exit status {process.returncode}"
        raise NotPossible(f"the new code refuses: {why}")


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Signals wait until the new code has handlers: their default would end the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGKILL})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def wait_for_exits(children: Sequence[Child]) -> None:
    """Wait for workers that have closed their channel to exit."""
    for child in [one for one in children if one.channel.is_closed]:
        await child.wait()


async def wait_until_between_messages(children: Sequence[Child]) -> None:
    """Wait until no channel is in the middle of a message.

    Raises NotPossible if a worker does not read.
    """
    try:
        async with asyncio.timeout(_LISTENS_WITHIN):
            while _amid_message(children):  # noqa: ASYNC110 - rare, and a few turns then
                await asyncio.sleep(_LOOK_AGAIN)
    except TimeoutError:
        pid = _amid_message(children)[0].pid
        raise NotPossible(f"worker process {pid} does not listen") from None


def _amid_message(children: Sequence[Child]) -> list[Child]:
    return [child for child in children if child.channel.is_amid_message]


def execute_new_code(
    handover: Handover, children: Sequence[Child], inheritance: dict[str, Any]
) -> None:
    """Execute the new code. Does not return; if it raises, nothing has changed."""
    with ExitStack() as undoing:
        state = handover.state(children, inheritance, undoing)
        fd = os.memfd_create("hermes-lb-handover", 0)
        undoing.callback(os.close, fd)
        os.write(fd, json.dumps(state).encode())
        os.environ[HANDOVER] = str(fd)
        undoing.callback(os.environ.pop, HANDOVER, None)
        logger.info("executing the new code")
        flush_messages()  # the thread that writes them ends with the exec
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
