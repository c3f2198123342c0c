"""The error that ends the demo early."""

from __future__ import annotations


class DemoFailed(Exception):
    """A step failed; the text is for people.

    `culprit` names the process whose log may have the reason, if one is suspected.
    """

    def __init__(self, message: str, *, culprit: str | None = None) -> None:
        super().__init__(message)
        self.culprit = culprit
