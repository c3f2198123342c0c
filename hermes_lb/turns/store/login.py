"""How new connections log in, where a secret is rotated."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermes_lb.turns.store.url import Credentials


class Login:
    """The credentials of new connections, for all servers of a store.

    `before`: the last ones that were accepted, for a server that refuses the present ones. So the
    secret may change here before it does in the store, or behind it. Connections that are open stay
    as they are: a server ends those of a user that is deleted.
    """

    __slots__ = ("_is_accepted", "before", "present")

    def __init__(self, credentials: Credentials) -> None:
        self.present = credentials
        self.before: Credentials | None = None
        self._is_accepted = False

    def renew(self, credentials: Credentials) -> None:
        if self._is_accepted:
            self.before = self.present
        self.present = credentials
        self._is_accepted = False

    def accepted(self, credentials: Credentials) -> None:
        """By one of the servers."""
        self._is_accepted |= credentials is self.present
