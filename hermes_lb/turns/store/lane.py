"""A connection for journals alone, to one server of the store."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import hiredis

from hermes_lb.turns.store.append_command import AppendCommand
from hermes_lb.turns.store.link import LinkLost

if TYPE_CHECKING:
    from hermes_lb.turns.store.journal import StoredJournal
    from hermes_lb.turns.store.link import Command, Link, Reply
    from hermes_lb.turns.store.node import Node
    from hermes_lb.turns.store.writer import Writer


class Lane:
    """To `node`. `is_shared`: all journals lie in one slot, so that they can share commands.

    `replies`: those that are no errors.
    """

    def __init__(self, writer: Writer, node: Node, link: Link, *, is_shared: bool) -> None:
        self.node = node
        self.link = link
        self.replies = 0
        self._writer = writer
        self._is_shared = is_shared
        self._new: list[AppendCommand] = []
        self._open: dict[bytes, AppendCommand] = {}  # those that have room, by terms
        self._due: deque[list[StoredJournal]] = deque()  # of each command

    @property
    def is_waiting(self) -> bool:
        return bool(self._due)

    def put(self, journal: StoredJournal) -> None:
        """Send what it has with the next `flush`."""
        terms = journal.terms.packed[journal.is_stream]
        for batch in journal.unsent():
            command = self._open.get(terms)
            if command is None:
                command = AppendCommand(terms)
                self._new.append(command)
                if self._is_shared:
                    self._open[terms] = command
            command.add(journal, batch)
            if command.room <= 0:
                self._open.pop(terms, None)

    def flush(self) -> None:
        if not self._new:
            return
        new, self._new = self._new, []
        self._open.clear()
        self._due.extend([command.journals for command in new])
        packed = b"".join([command.pack() for command in new])
        self.link.send(packed, [self._take] * len(new))

    def renew(self, journal: StoredJournal) -> None:
        for key in journal.keys:
            command: Command = ("PEXPIRE", key, journal.terms.ttl_ms)
            self.link.send(hiredis.pack_command(command), [self._ignore])

    def abort(self) -> None:
        """Close it. Batches without a reply are reported as failed, those not yet sent too."""
        self.link.abort()
        self.flush()

    def _ignore(self, reply: Reply) -> None:
        pass

    def _take(self, reply: Reply) -> None:
        journals = self._due.popleft()
        if isinstance(reply, list) and len(reply) == len(journals):
            if not self.replies:
                self._writer.is_back()
            self.replies += 1
            now = self._writer.now()
            for journal, each in zip(journals, reply, strict=True):
                journal.acknowledged(each, now)
            return
        for journal in journals:
            if journal.lane is self:
                journal.lane = None
        if not isinstance(reply, LinkLost):
            self._writer.refused(self, journals, str(reply))
        for journal in journals:
            journal.failed()
