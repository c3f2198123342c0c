"""The last valid TLS files: replaced by valid ones, kept when they become invalid."""

from __future__ import annotations

import json
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hermes_lb.config import load_config
from hermes_lb.plane import DataPlane
from hermes_lb.tls.certificates import Certificates, TlsFiles, check_certificates
from hermes_lb.workers.kept_files import KeptFiles
from tests.support.certificates import ca_file, site

if TYPE_CHECKING:
    from hermes_lb.config import Config, Tls


def config(**tls: Any) -> Config:
    return load_config(
        {
            "admin": {"enabled": False},
            "log": {"access": "off"},
            "frontends": [
                {
                    "name": "public",
                    "bind": {"address": "127.0.0.1:0", "tls": True},
                    "tls": tls,
                    "default_backend": "agents",
                }
            ],
            "backends": {"agents": {"servers": [{"name": "a", "address": "127.0.0.1:1"}]}},
        }
    )


def tls_of(configured: Config) -> Tls:
    tls = configured.frontends[0].tls
    assert tls is not None
    return tls


def kept(configured: Config) -> KeptFiles:
    files = KeptFiles()
    files.take(configured, check_certificates(configured))
    return files


def names(files: KeptFiles, configured: Config) -> set[str]:
    """The host names that a worker serves if it starts with them."""
    state = json.loads(json.dumps(files.of(configured)))
    restored = TlsFiles.restore(state["public"])
    loaded = Certificates(tls_of(configured), "public", files=restored).loaded
    return {name for one in loaded for name in one.certified.names}


def test_a_reload_reports_files_that_have_changed(tmp_path: Path) -> None:
    configured = config(certificate=site(tmp_path, "a.test"))
    files = kept(configured)
    assert files.take(configured, check_certificates(configured)) == []
    site(tmp_path, "a.test")
    changed = files.take(configured, check_certificates(configured))
    assert changed == ["frontends.public.tls: its files have changed"]
    other = config(certificate=site(tmp_path, "b.test"))
    assert files.take(other, check_certificates(other)) == []  # a change of the settings


def move_key_beside(pem: Path) -> None:
    key, begin, chain = pem.read_text().partition("-----BEGIN CERTIFICATE")
    pem.write_text(begin + chain)
    pem.with_suffix(".key").write_text(key)


async def test_a_renewal_is_taken_and_a_half_written_one_is_not(tmp_path: Path) -> None:
    file = site(tmp_path, "a.test", file="site.pem")
    configured = config(certificate=file)
    files = kept(configured)
    assert names(files, configured) == {"a.test"}
    os.truncate(file, 100)
    await files.look(configured)
    assert names(files, configured) == {"a.test"}
    site(tmp_path, "b.test", file="site.pem")
    await files.look(configured)
    assert names(files, configured) == {"b.test"}
    os.unlink(file)
    await files.look(configured)
    assert names(files, configured) == {"b.test"}


@pytest.mark.parametrize("with_key_beside", [False, True])
async def test_a_directory_is_kept_with_all_that_was_in_it(
    tmp_path: Path, with_key_beside: bool
) -> None:
    folder = tmp_path / "sites"
    folder.mkdir()
    for name in ("a.test", "b.test"):
        pem = Path(site(folder, name))
        if with_key_beside:
            move_key_beside(pem)
    configured = config(certificate=str(folder), client_ca=ca_file(tmp_path))
    files = kept(configured)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    await files.look(configured)
    assert names(files, configured) == {"a.test", "b.test"}


async def test_other_settings_have_no_files_yet(tmp_path: Path) -> None:
    """They may name other files or options."""
    file = site(tmp_path, "a.test")
    files = kept(config(certificate=file))
    stricter = config(certificate=file, min_version="1.3")
    assert files.of(stricter) == {}
    await files.look(stricter)
    assert names(files, stricter) == {"a.test"}


async def test_the_next_generation_has_them_too(tmp_path: Path) -> None:
    file = site(tmp_path, "a.test")
    configured = config(certificate=file)
    state = json.loads(json.dumps(kept(configured).state))
    os.unlink(file)
    files = KeptFiles()
    files.restore(state)
    await files.look(configured)
    assert names(files, configured) == {"a.test"}


async def test_what_other_code_has_kept_is_looked_at_again(tmp_path: Path) -> None:
    configured = config(certificate=site(tmp_path, "a.test"))
    files = KeptFiles()
    files.restore([["public", {"certificate": "x", "unknown": 1}, {}], ["other", {}, {}]])
    assert files.of(configured) == {}
    await files.look(configured)
    assert names(files, configured) == {"a.test"}


async def test_the_ticket_keys_depend_on_what_was_read_and_not_on_what_is_there(
    tmp_path: Path,
) -> None:
    """A session is resumed at a replacement that has started with the kept files."""
    file = site(tmp_path, "a.test")
    configured = config(certificate=file)
    there = Certificates(tls_of(configured), "public").files
    state = json.loads(json.dumps(kept(configured).of(configured)))
    os.unlink(file)
    assert repr(TlsFiles.restore(state["public"]).stamps) == repr(there.stamps)


async def test_a_data_path_goes_on_with_what_it_has_when_a_file_turns_bad(tmp_path: Path) -> None:
    """Such as for resolved addresses: certificates are not read again for these."""
    file = site(tmp_path, "a.test")
    configured = config(certificate=file)
    state = kept(configured).of(configured)
    handed = {"public": TlsFiles.restore(state["public"])}
    os.truncate(file, 100)
    plane = DataPlane(configured, tls_files=handed)
    await plane.open()
    try:
        await plane.listen()
        [frontend] = plane.frontends
        before = frontend.certificates
        await plane.reconfigure(configured, tls_files=handed)
        assert frontend.certificates is before
        assert before is not None
        assert isinstance(before.default, ssl.SSLContext)
        with pytest.raises(OSError, match=r"can't use .*a\.test\.pem"):
            await plane.reconfigure(configured)  # an embedded balancer is not given files
    finally:
        await plane.stop()
