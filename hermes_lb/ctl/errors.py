"""The error of `ctl`."""

from __future__ import annotations


class CtlError(Exception):
    """The command failed. `str(error)` is a one-line message; `problems` has more lines.

    `status` is that of the response, if the listener answered with an error.
    """

    def __init__(
        self, message: str, problems: list[str] | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problems = problems or []
