"""What ends the demo before its time."""

from __future__ import annotations


class DemoFailed(Exception):
    """Something did not go as it must; the text is for people.

    `culprit` names the process whose log may tell why, if one is suspected.
    """

    def __init__(self, message: str, *, culprit: str | None = None) -> None:
        super().__init__(message)
        self.culprit = culprit
