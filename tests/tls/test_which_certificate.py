"""TLS to clients: which certificate they are shown, also when its file is another one."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hermes_lb.testing import eventually
from tests.support.certificates import site
from tests.support.tls import refused, serving, tls_client

if TYPE_CHECKING:
    from tests.support.stage import Stage


def spoil(path: str, text: str = "half of a file") -> None:
    Path(path).write_text(text)


async def test_the_name_that_a_client_asks_for_decides(stage: Stage, tmp_path: Path) -> None:
    more = [{"certificate": site(tmp_path, "*.b.test")}]
    lb = await serving(stage, site(tmp_path, "a.test"), certificates=more)
    for name in ("a.test", "x.b.test"):  # each client checks that it got what it wanted
        client = await tls_client(stage, lb, name)
        assert (await client.ask()).status == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        await tls_client(stage, lb, "c.test")


async def test_strict_sni_refuses_other_names(stage: Stage, certificate: str) -> None:
    lb = await serving(stage, certificate, strict_sni=True)
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized[ _]name"):
        await tls_client(stage, lb, "b.test")
    line = await refused(stage, lb)
    assert line.reason == "TLS: no certificate has the name that the client wants"
    assert line.termination == "PR"


async def test_new_files_are_shown_to_those_who_come_after_them(
    stage: Stage, tmp_path: Path
) -> None:
    path = site(tmp_path, "a.test")
    lb = await serving(stage, path, reload_interval="50ms")
    before = await tls_client(stage, lb)
    first = before.tls.getpeercert(binary_form=True)
    site(tmp_path, "a.test")
    [frontend] = lb._plane.frontends
    old = frontend.certificates
    await eventually(lambda: frontend.certificates is not old)
    after = await tls_client(stage, lb)
    assert after.tls.getpeercert(binary_form=True) != first
    assert (await before.ask()).status == 200


async def test_new_certificates_are_reported_once(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lb = await serving(stage, site(tmp_path, "a.test"), reload_interval=0)
    [frontend] = lb._plane.frontends
    site(tmp_path, "a.test")
    with caplog.at_level("INFO", "hermes_lb"):
        frontend.reload_certificates()
        frontend.reload_certificates()
    until = frontend.certificates.loaded[0].certified.not_after
    told = [record.message for record in caplog.records if "certificates" in record.message]
    assert told == [f"frontend public has new certificates: a.test until {until:%Y-%m-%d}"]


async def test_a_file_that_cannot_be_used_leaves_the_old_ones(stage: Stage, tmp_path: Path) -> None:
    path = site(tmp_path, "a.test")
    lb = await serving(stage, path, reload_interval=0)
    [frontend] = lb._plane.frontends
    spoil(path)
    with pytest.raises(OSError, match="it has no private key"):
        frontend.reload_certificates()
    client = await tls_client(stage, lb)
    assert (await client.ask()).status == 200


async def test_files_that_cannot_be_used_are_reported_once_for_each_change(
    stage: Stage, tmp_path: Path
) -> None:
    path = site(tmp_path, "a.test")
    lb = await serving(stage, path, reload_interval="10ms")
    [frontend] = lb._plane.frontends
    first, looks = frontend.certificates, 0
    real = frontend.reload_certificates

    def reload() -> None:
        nonlocal looks
        looks += 1
        real()

    frontend.reload_certificates = reload  # type: ignore[method-assign]

    async def told(times: int) -> None:
        await eventually(lambda: len(stage.problems) == times)
        before = looks
        await eventually(lambda: looks >= before + 3)
        assert len(stage.problems) == times

    spoil(path)
    await told(1)
    spoil(path, "another half of a file")
    await told(2)
    site(tmp_path, "a.test")
    await eventually(lambda: frontend.certificates is not first)
    assert all("the certificates stay as they were" in told for told in stage.problems)
    stage.problems.clear()
