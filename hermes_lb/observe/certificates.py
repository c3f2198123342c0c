"""The certificates in use, and when they expire."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hermes_lb.tls.certificates import certified_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_lb.config import Admin
    from hermes_lb.tls.certificates import Certificates

# In place of a frontend: the admin listener.
ADMIN = "<ADMIN>"


class CertificateView(NamedTuple):
    """A certificate that is presented to clients. `names`: of subjectAltName; may be none."""

    frontend: str
    file: str
    names: tuple[str, ...]
    not_after: float  # Unix seconds


def of_frontend(name: str, used: Certificates | None) -> list[CertificateView]:
    """Those that it has loaded, whatever its files are by now."""
    return [
        CertificateView(name, str(path), certified.names, certified.not_after.timestamp())
        for path, certified, _ in (used.loaded if used is not None else ())
    ]


def of_admin(configured: Admin) -> list[CertificateView]:
    """The admin listener's, from its file; none if that can't be read."""
    if configured.tls is None:
        return []
    file = configured.tls.certificate
    try:
        certified = certified_in(Path(file).read_bytes())
    except (OSError, ValueError):
        return []
    return [CertificateView(ADMIN, file, certified.names, certified.not_after.timestamp())]


def earliest(views: Iterable[CertificateView]) -> list[CertificateView]:
    """One for each file of a frontend, in order: processes may load a renewed one one by one."""
    found: dict[tuple[str, str], CertificateView] = {}
    for view in views:
        known = found.setdefault((view.frontend, view.file), view)
        if view.not_after < known.not_after:
            found[view.frontend, view.file] = view
    return list(found.values())
