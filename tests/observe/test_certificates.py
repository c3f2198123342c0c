"""The certificates in use, of several processes and of the admin listener."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hermes_lb.config import Admin
from hermes_lb.observe.certificates import ADMIN, CertificateView, earliest, of_admin
from tests.support import certificates

if TYPE_CHECKING:
    from pathlib import Path

A = CertificateView("public", "/a.pem", ("a.test",), 2000.0)
B = CertificateView("public", "/b.pem", ("b.test",), 500.0)


def test_of_processes_that_renew_one_by_one_the_earliest_counts() -> None:
    old = A._replace(not_after=1000.0)
    other_frontend = A._replace(frontend="more")
    assert earliest([A, B, old, A, other_frontend]) == [old, B, other_frontend]
    assert earliest([]) == []


def _admin(path: Path) -> Admin:
    tls: dict[str, Any] = {"certificate": str(path), "key": str(path)}
    return Admin.model_validate({"tls": tls})


def test_the_admin_listeners_is_read_from_its_file(tmp_path: Path) -> None:
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    file = certificates.site(tmp_path, "admin.test", not_after=expires)
    view = CertificateView(ADMIN, file, ("admin.test",), expires.timestamp())
    assert of_admin(_admin(tmp_path / "admin.test.pem")) == [view]
    assert of_admin(Admin()) == []


def test_a_file_that_is_none_has_no_expiry(tmp_path: Path) -> None:
    assert of_admin(_admin(tmp_path / "missing.pem")) == []
    (tmp_path / "empty.pem").write_text("no certificate")
    assert of_admin(_admin(tmp_path / "empty.pem")) == []
