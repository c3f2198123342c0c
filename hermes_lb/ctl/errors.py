"""The one error of `ctl`."""

from __future__ import annotations


class CtlError(Exception):
    """It could not be done. `str(error)` is for a person; `problems` has a line each.

    `status` is that of the listener's answer, if it was one of its own.
    """

    def __init__(
        self, message: str, problems: list[str] | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problems = problems or []
