"""Certificates: who is shown which, and what an operator reads if a file can't be used."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from typer.testing import CliRunner

from hermes_lb.cli import app
from hermes_lb.config import Tls, load_config
from hermes_lb.tls.certificates import Certificates, check_certificates
from tests.support.certificates import authority, ca_file, site, trusting

if TYPE_CHECKING:
    from collections.abc import Callable


def load(certificate: str, **options: Any) -> Certificates:
    return Certificates(Tls.model_validate({"certificate": certificate, **options}), "public")


def problem(certificate: str, **options: Any) -> str:
    with pytest.raises(OSError, match=r"frontend public, TLS") as caught:
        load(certificate, **options)
    return caught.value.strerror.replace(" (frontend public, TLS)", "")


def shown(certificates: Certificates, name: str, ciphers: str | None = None) -> Any:
    """The certificate that a client gets who wants this name."""
    context = certificates.context_for(name)
    assert context is not None
    client = trusting()
    client.check_hostname = False
    if ciphers is not None:
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers(ciphers)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = context.wrap_bio(to_server, to_client, server_side=True)
    ours = client.wrap_bio(to_client, to_server)
    for side in (ours, theirs, ours, theirs):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return ours


def names(certificates: Certificates, name: str) -> list[str]:
    certificate = shown(certificates, name).getpeercert()
    return [value for _, value in certificate["subjectAltName"]]


def test_the_name_decides_and_the_first_one_is_for_all_others(tmp_path: Path) -> None:
    more = [
        site(tmp_path, "b.test", "c.test"),
        site(tmp_path, "*.d.test"),
        site(tmp_path, "x.d.test"),
    ]
    certificates = load(
        site(tmp_path, "a.test"), certificates=[{"certificate": path} for path in more]
    )
    assert names(certificates, "a.test") == ["a.test"]
    assert names(certificates, "c.test") == ["b.test", "c.test"]
    assert names(certificates, "y.d.test") == ["*.d.test"]
    assert names(certificates, "x.d.test") == ["x.d.test"]
    for unknown in ("", "d.test", "z.y.d.test", "other.test", "test"):
        assert names(certificates, unknown) == ["a.test"]


def test_strict_sni_has_nothing_for_other_names(tmp_path: Path) -> None:
    certificates = load(site(tmp_path, "a.test"), strict_sni=True)
    assert certificates.context_for("a.test") is not None
    assert certificates.context_for("b.test") is None
    assert certificates.context_for("") is None


def test_a_directory_has_a_file_for_each_site(tmp_path: Path) -> None:
    site(tmp_path, "b.test")
    site(tmp_path, "a.test")
    (tmp_path / "notes.txt").write_text("not read")
    certificates = load(str(tmp_path))
    assert [loaded.path.name for loaded in certificates.loaded] == ["a.test.pem", "b.test.pem"]
    assert names(certificates, "b.test") == ["b.test"]
    assert names(certificates, "") == ["a.test"]


def test_the_key_may_stand_beside_the_certificate(tmp_path: Path) -> None:
    issued = authority().issue_cert("a.test")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "site.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "site.key"))
    assert names(load(str(tmp_path / "site.pem")), "a.test") == ["a.test"]
    issued.private_key_pem.write_to_path(str(tmp_path / "elsewhere"))
    (tmp_path / "site.key").unlink()
    certificates = load(str(tmp_path / "site.pem"), key=str(tmp_path / "elsewhere"))
    assert names(certificates, "a.test") == ["a.test"]


def test_a_site_may_have_keys_of_two_kinds(tmp_path: Path) -> None:
    rsa = site(tmp_path, "a.test", key=trustme.KeyType.RSA, file="rsa.pem")
    ecdsa = site(tmp_path, "a.test", key=trustme.KeyType.ECDSA, file="ecdsa.pem")
    certificates = load(rsa, certificates=[{"certificate": ecdsa}])
    for kind in ("RSA", "ECDSA"):
        cipher, *_ = shown(certificates, "a.test", f"ECDHE-{kind}-AES128-GCM-SHA256").cipher()
        assert kind in cipher


@pytest.mark.parametrize("kind", [trustme.KeyType.RSA, trustme.KeyType.ECDSA])
def test_who_shares_a_name_with_another_site_keeps_its_own_certificate(
    tmp_path: Path, kind: trustme.KeyType
) -> None:
    """The third is the second's, whose only name the first one has too."""
    first = site(tmp_path, "a.test", "b.test", key=trustme.KeyType.RSA, file="1.pem")
    others = [
        site(tmp_path, "a.test", key=trustme.KeyType.RSA, file="2.pem"),
        site(tmp_path, "a.test", key=kind, file="3.pem"),
    ]
    certificates = load(first, certificates=[{"certificate": path} for path in others])
    for name in ("a.test", "b.test", ""):
        assert names(certificates, name) == ["a.test", "b.test"]


def test_the_first_of_two_for_the_same_names_is_shown_and_the_other_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """nginx: `conflicting server name "a.test" on 0.0.0.0:443, ignored`."""
    first = site(tmp_path, "a.test", "b.test", file="1.pem")
    second = site(tmp_path, "b.test", "a.test", file="2.pem")
    certificates = load(first, certificates=[{"certificate": second}])
    alone = load(first)
    for name in ("a.test", "b.test"):
        assert shown(certificates, name).getpeercert(True) == shown(alone, name).getpeercert(True)
    assert [one.path.name for one in certificates.loaded] == ["1.pem"]
    assert [record.message for record in caplog.records] == [
        f"certificate {second} (frontend public) is not used: {first} is for the same names, with "
        "a key of the same kind"
    ]


def test_the_first_one_may_be_in_the_directory_of_the_others_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site(tmp_path, "a.test")
    certificates = load(site(tmp_path, "b.test"), certificates=[{"certificate": str(tmp_path)}])
    assert [one.path.name for one in certificates.loaded] == ["b.test.pem", "a.test.pem"]
    assert names(certificates, "") == ["b.test"]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "can't use {}: No such file or directory"),
        (lambda path: path.write_text(""), "can't use {}: it has no private key, and there is no "
         "a.test.key beside it"),
        (lambda path: path.write_text("-----BEGIN PRIVATE KEY-----"), "can't use {}: there is no "
         "certificate in it (-----BEGIN CERTIFICATE-----)"),
    ],
    ids=["gone", "empty", "key only"],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    path = site(tmp_path, "a.test")
    damage(Path(path))
    assert problem(path) == words.format(path)


def test_a_key_of_another_certificate_is_reported(tmp_path: Path) -> None:
    path = site(tmp_path, "a.test")
    other = site(tmp_path, "b.test")
    assert problem(path, key=other) == (
        f"can't use {path}: the key in {other} is another certificate's"
    )


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    path = Path(site(tmp_path, "a.test"))
    key = load_pem_private_key(path.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    assert problem(str(path), key=str(locked)) == (
        f"can't use {locked}: the key is encrypted, and its password can't be asked for"
    )


def test_other_mistakes_have_words_too(tmp_path: Path) -> None:
    path = site(tmp_path, "a.test")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert problem(str(empty)) == f"can't use {empty}: there is no *.pem in this directory"
    assert problem(str(tmp_path), key=path) == (
        f"can't use {tmp_path}: it is a directory, where each file has its own key: leave out key"
    )
    assert problem(path, ciphers="ROT13") == (
        'can\'t use ciphers = "ROT13": OpenSSL knows none of these'
    )
    assert problem(path, client_ca=str(tmp_path / "none.crt")) == (
        f"can't use {tmp_path / 'none.crt'}: No such file or directory"
    )
    (tmp_path / "ca.crt").write_text("hello")
    assert problem(path, client_ca=str(tmp_path / "ca.crt")).startswith(
        f"can't use {tmp_path / 'ca.crt'}: OpenSSL can't read it ("
    )


def expired_site(folder: Path, file: str) -> str:
    """As `site`, of 2020."""
    issued = authority().issue_cert("a.test", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    path = folder / file
    path.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    return str(path)


def test_one_that_has_expired_is_used_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(expired_site(tmp_path, "old.pem"))
    assert "is good from 2000-01-01" in caplog.text
    assert "clients will refuse it" in caplog.text


def test_of_a_set_that_is_not_taken_no_dates_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expired_site(tmp_path, "a.pem")
    (tmp_path / "b.pem").write_text("half of a file")
    with pytest.raises(OSError, match=r"b\.pem"):
        load(str(tmp_path))
    assert caplog.text == ""


def test_they_are_outdated_when_a_file_is_another_one(tmp_path: Path) -> None:
    tls = Tls(certificate=site(tmp_path, "a.test"), client_ca=ca_file(tmp_path))
    certificates = Certificates(tls, "public")
    assert not certificates.are_outdated(tls)
    assert certificates.are_outdated(Tls(certificate=tls.certificate))
    site(tmp_path, "a.test")
    assert certificates.are_outdated(tls)


def test_a_new_file_in_the_directory_counts(tmp_path: Path) -> None:
    site(tmp_path, "a.test")
    tls = Tls(certificate=str(tmp_path))
    certificates = Certificates(tls, "public")
    assert not certificates.are_outdated(tls)
    site(tmp_path, "b.test")
    assert certificates.are_outdated(tls)


def test_a_configuration_can_be_checked_without_a_balancer(tmp_path: Path) -> None:
    def config(certificate: str) -> Any:
        return load_config(
            {
                "frontends": [
                    {
                        "name": "public",
                        "bind": {"address": "127.0.0.1:0", "tls": True},
                        "tls": {"certificate": certificate},
                        "default_backend": "b",
                    }
                ],
                "backends": {"b": {"servers": [{"name": "a", "address": "h:1"}]}},
            }
        )

    check_certificates(config(site(tmp_path, "a.test")))
    with pytest.raises(OSError, match=r"can't use nowhere\.pem"):
        check_certificates(config("nowhere.pem"))


def test_the_command_that_checks_a_configuration_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lb.toml").write_text(
        """
        [[frontends]]
        name = "public"
        bind = ["*:80", { address = "*:443", tls = true, proxy_protocol = true }]
        tls = { certificate = "a.test.pem" }
        default_backend = "agents"
        [[backends.agents.servers]]
        name = "a"
        address = "127.0.0.1:8001"
        """
    )
    failed = CliRunner().invoke(app, ["--config", "lb.toml", "check"])
    assert failed.exit_code == 1
    assert failed.stderr == (
        "hermes-lb: can't use a.test.pem (frontend public, TLS): No such file or directory\n"
    )
    site(tmp_path, "a.test")
    passed = CliRunner().invoke(app, ["--config", "lb.toml", "check"])
    assert passed.exit_code == 0
    assert "frontend public: 0.0.0.0:80, 0.0.0.0:443 tls proxy_protocol\n" in passed.stdout
