"""A thread for what blocks: it opens a sink, and writes batches to it, one after the other."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from hermes_lb.observe.sinks import LateSink, Outcome, open_sink

if TYPE_CHECKING:
    from collections.abc import Callable

    from hermes_lb.config.process import Facility
    from hermes_lb.observe.sinks import Sink


class BackgroundWriter:
    """A thread that opens a sink and writes batches to it, one after the other.

    `may_be_late`: a target that can't be opened is a `LateSink`, and no error.

    It is a daemon, and not one of an executor's: a reader that has stopped reading our stdout must
    not keep the process from ending.
    """

    def __init__(
        self, target: str, tag: str, facility: Facility = "local0", *,
        may_be_late: bool = False, name: str = "access log",
    ) -> None:  # fmt: skip
        self.opened: Future[None] = _running_future()  # its exception is `open_sink`'s
        self._jobs: queue.SimpleQueue[Callable[[Sink], None] | None] = queue.SimpleQueue()
        opener: Callable[[], Sink] = partial(open_sink, target, tag, facility)
        if may_be_late:
            opener = partial(LateSink, opener)
        self._thread = threading.Thread(target=self._run, args=(opener,), name=name, daemon=True)
        self._thread.start()

    def write(self, lines: list[str]) -> Future[Outcome]:
        """Hand over a batch, which the writer then owns. The outcomes come in order."""
        written: Future[Outcome] = _running_future()

        def job(sink: Sink) -> None:
            try:
                outcome = sink.write(lines)
            except Exception as error:  # a bug: never the end of the log
                outcome = Outcome(len(lines), repr(error))
            written.set_result(outcome)

        self._jobs.put(job)
        return written

    def reopen(self) -> Future[str]:
        """Reopen the target, after the lines handed over -> "", or why the old one stays in use."""
        reopened: Future[str] = _running_future()

        def job(sink: Sink) -> None:
            try:
                sink.reopen()
            except Exception as error:
                why = error.strerror if isinstance(error, OSError) else None
                reopened.set_result(why or str(error) or repr(error))
            else:
                reopened.set_result("")

        self._jobs.put(job)
        return reopened

    def stop(self, *, wait: bool) -> None:
        """End the thread after all that was handed over; `wait` for it only if it is idle."""
        self._jobs.put(None)
        if wait:
            self._thread.join()

    def _run(self, opener: Callable[[], Sink]) -> None:
        try:
            sink = opener()
        except Exception as error:
            self.opened.set_exception(error)
            return
        self.opened.set_result(None)
        while (job := self._jobs.get()) is not None:
            job(sink)
        sink.close()


def _running_future() -> Future[Any]:
    """One that its waiter can't cancel: cancelled, it would refuse the thread's result."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
