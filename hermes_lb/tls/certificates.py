"""A frontend's certificates: read from files, and picked by the name that a client asks for."""

from __future__ import annotations

import errno
import logging
import os
import ssl
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from hermes_lb.tls.ticket_keys import set_ticket_keys
from hermes_lb.tls.x509 import Certified, read_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from hermes_lb import config
    from hermes_lb.tls.ticket_keys import TicketSecret

logger = logging.getLogger("hermes_lb")

# 1.0 too: the responses to such a client are the same.
#: By ALPN, the preferred one first.
PROTOCOLS = (b"http/1.1", b"http/1.0")
WITH_HTTP2 = (b"h2", *PROTOCOLS)

_MIN_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_IN_WORDS = {
    "KEY_VALUES_MISMATCH": "the key in {key} is another certificate's",
    "KEY_TYPE_MISMATCH": "the key in {key} is another certificate's",
    "EE_KEY_TOO_SMALL": "its key is too small",
    "CA_MD_TOO_WEAK": "it is signed by a digest that is too weak",
}


class Files(NamedTuple):
    """A certificate with its chain, and its key."""

    certificate: Path
    key: Path


class Loaded(NamedTuple):
    """A certificate in use."""

    path: Path
    certified: Certified
    context: ssl.SSLContext

    def is_of_site(self, certified: Certified) -> bool:
        """True if it is for the same names, which must be some."""
        names = self.certified.names
        return bool(names) and set(names) == set(certified.names)


class TlsFiles:
    """The files of one frontend's TLS, as they were when they were read.

    So another process can serve with the same certificates, whatever has happened to the files
    since: `restore` takes the result of `state`.
    """

    def __init__(self, configured: config.Tls) -> None:
        self.stamps = stamps_of(configured)
        self._contents: dict[Path, bytes] = {}
        self._folders: dict[Path, list[Path] | None] = {}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> TlsFiles:
        """Files that `state` does not have are read when they are needed."""
        files = cls.__new__(cls)
        files.stamps = {Path(name): tuple(stamp) for name, stamp in state["stamps"]}
        files._contents = {Path(name): text.encode("latin-1") for name, text in state["contents"]}
        files._folders = {
            Path(name): None if found is None else [Path(one) for one in found]
            for name, found in state["folders"]
        }
        return files

    @property
    def state(self) -> dict[str, Any]:
        """All that was read, fit for JSON. It is as secret as the keys."""
        return {
            "stamps": [[str(path), stamp] for path, stamp in self.stamps.items()],
            "contents": [[str(p), data.decode("latin-1")] for p, data in self._contents.items()],
            "folders": [
                [str(path), found and [str(one) for one in found]]
                for path, found in self._folders.items()
            ],
        }

    def read(self, path: Path) -> bytes:
        """Raises OSError."""
        if path not in self._contents:
            self._contents[path] = path.read_bytes()
        return self._contents[path]

    def has(self, path: Path) -> bool:
        """Of one that was looked for: whether it is there."""
        return path in self.stamps

    def in_folder(self, path: Path) -> list[Path] | None:
        """Its *.pem, sorted; None: it is no directory."""
        if path not in self._folders:
            self._folders[path] = sorted(path.glob("*.pem")) if path.is_dir() else None
        return self._folders[path]


class Certificates:
    """The certificates of one frontend, by host name. Immutable: rebuilt when the files change.

    A client can resume its session with any set of the same files and settings that has the same
    ticket secret, on the same day; another set rejects the tickets: the authorities for client
    certificates may have changed. Without a secret no tickets are issued with our keys.
    """

    def __init__(
        self,
        configured: config.Tls,
        frontend: str,
        tickets: TicketSecret | None = None,
        files: TlsFiles | None = None,
        protocols: Sequence[bytes] = PROTOCOLS,
    ) -> None:
        """Reads all files, or takes those read before.

        Raises OSError, whose `strerror` says which one is wrong, and how.
        """
        self.files = files or TlsFiles(configured)
        self.protocols = protocols
        self._configured = configured
        self._frontend = frontend
        self._tickets = tickets if configured.session_tickets else None
        self._ticket_day = self._tickets and self._tickets.day
        self.forwards_client_certificate = configured.client_headers
        self._by_name: dict[str, ssl.SSLContext] = {}
        self.loaded: list[Loaded] = []
        self._unused: list[tuple[Path, Path]] = []  # and the one that is shown instead
        for pair in self._pairs():
            self._load(pair)
        if not self.loaded:
            self._fail(configured.certificate, "there is no *.pem in this directory")
        self.default = self.loaded[0].context
        self._warn()  # at the end: those that are not taken are not worth a line

    def context_for(self, name: str) -> ssl.SSLContext | None:
        """The first certificate with this name (lower case), or with "*" for its first label.

        None: there is none, and the configuration says that others get nothing (`strict_sni`).
        """
        found = self._by_name.get(name) or self._by_name.get(f"*.{name.partition('.')[2]}")
        return found or (None if self._configured.strict_sni else self.default)

    def in_words(self) -> str:
        """The names and the expiry of each."""
        return "; ".join(
            f"{', '.join(certified.names) or path} until {certified.not_after:%Y-%m-%d}"
            for path, certified, _ in self.loaded
        )

    def are_of(self, configured: config.Tls) -> bool:
        """True if these are the same settings; the files may be others."""
        return configured == self._configured

    def are_outdated(self, configured: config.Tls) -> bool:
        """True if the settings or the files have changed, or a day is over."""
        return (
            not self.are_of(configured)
            or stamps_of(configured) != self.files.stamps
            or self.are_of_another_day
        )

    @property
    def are_of_another_day(self) -> bool:
        """True if tickets should have other keys by now.

        An attacker who has the keys can read TLS 1.2 sessions that were resumed with them: they
        should change regularly (RFC 5077 section 5.5).
        """
        return (self._tickets and self._tickets.day) != self._ticket_day

    def of_today(self) -> Certificates:
        """The same, whatever the files are by now, with the ticket keys of today.

        Raises OSError if there are no descriptors left.
        """
        return Certificates(
            self._configured, self._frontend, self._tickets, self.files, self.protocols
        )

    def _pairs(self) -> Iterator[Files]:
        for given in _given(self._configured):
            path = Path(given.certificate)
            folder = self.files.in_folder(path)
            if folder is None:
                yield Files(path, Path(given.key) if given.key else self._key_of(path))
            elif given.key:
                self._fail(
                    path, "it is a directory, where each file has its own key: leave out key"
                )
            else:
                for one in folder:
                    yield Files(one, self._key_of(one))

    def _key_of(self, path: Path) -> Path:
        """In the same file, or beside it: site.pem, site.key."""
        try:
            text = self.files.read(path)
        except OSError as error:
            self._fail(path, error.strerror, error.errno)
        beside = path.with_suffix(".key")
        if b"PRIVATE KEY-----" not in text and not self.files.has(beside):
            self._fail(path, f"it has no private key, and there is no {beside.name} beside it")
        return path if b"PRIVATE KEY-----" in text else beside

    def _load(self, pair: Files) -> None:
        """Present this certificate to clients that ask for the names in it.

        A site may have two, with keys of two kinds (RSA, ECDSA): OpenSSL picks by the client.
        """
        certified = self._read(pair.certificate)
        of_site = [one for one in self.loaded if one.is_of_site(certified)]
        for one in of_site:
            if one.certified.key_kind == certified.key_kind:
                if self.files.read(pair.certificate) != self.files.read(one.path):
                    self._unused.append((pair.certificate, one.path))
                return
        context = of_site[0].context if of_site else self._new_context()
        try:
            with self._as_file(pair.certificate) as certificate, self._as_file(pair.key) as key:
                context.load_cert_chain(certificate, key, password=_no_password)
        except _Encrypted:
            self._fail(pair.key, "the key is encrypted, and its password can't be asked for")
        except ssl.SSLError as error:
            words = _IN_WORDS.get(error.reason or "", "OpenSSL can't read it ({reason})")
            self._fail(pair.certificate, words.format(key=pair.key, reason=error.reason))
        except OSError as error:
            self._fail(pair.key, error.strerror, error.errno)
        self.loaded.append(Loaded(pair.certificate, certified, context))
        for name in certified.names:
            self._by_name.setdefault(name, context)

    def _read(self, path: Path) -> Certified:
        try:
            certified = certified_in(self.files.read(path))
        except OSError as error:
            self._fail(path, error.strerror, error.errno)
        except ValueError as error:
            self._fail(path, str(error))
        return certified

    def _warn(self) -> None:
        for unused, shown in self._unused:
            logger.warning(
                "certificate %s (frontend %s) is not used: %s is for the same names, with a key of "
                "the same kind",
                unused, self._frontend, shown,
            )  # fmt: skip
        now = datetime.now(UTC)
        for path, certified, _ in self.loaded:
            if not certified.not_before <= now < certified.not_after:
                logger.warning(
                    "certificate %s (frontend %s) is good from %s to %s: clients will refuse it",
                    path, self._frontend, certified.not_before, certified.not_after,
                )  # fmt: skip

    def _new_context(self) -> ssl.SSLContext:
        configured = self._configured
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _MIN_VERSIONS[configured.min_version]
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols([name.decode() for name in self.protocols])
        try:
            context.set_ciphers(configured.ciphers)
        except ssl.SSLError:
            self._fail(f'ciphers = "{configured.ciphers}"', "OpenSSL knows none of these")
        if not configured.session_tickets:
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
        elif self._tickets is not None:
            made_of = self._frontend, len(self.loaded), configured, self.files.stamps
            set_ticket_keys(context, partial(self._tickets.keys, repr(made_of).encode()))
        if configured.client_ca is not None:
            required = configured.client_auth == "required"
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
            try:
                with self._as_file(Path(configured.client_ca)) as authorities:
                    context.load_verify_locations(authorities)
            except ssl.SSLError as error:
                self._fail(configured.client_ca, f"OpenSSL can't read it ({error.reason})")
            except OSError as error:
                self._fail(configured.client_ca, error.strerror, error.errno)
        return context

    @contextmanager
    def _as_file(self, path: Path) -> Iterator[str]:
        """A file with these contents for OpenSSL: Python's ssl takes only names of files."""
        if not hasattr(os, "memfd_create"):  # macOS, where a balancer may be in a program or a test
            yield str(path)
            return
        with os.fdopen(os.memfd_create("pem", os.MFD_CLOEXEC), "wb") as file:
            file.write(self.files.read(path))
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"

    def _fail(self, path: Path | str, reason: str | None, number: int | None = None) -> NoReturn:
        words = f"can't use {path} (frontend {self._frontend}, TLS): {reason}"
        raise OSError(number or errno.EINVAL, words)


def certified_in(pem: bytes) -> Certified:
    """The first certificate of a file. Raises ValueError if it has none."""
    text = pem.decode("ascii", "replace")
    return read_certificate(ssl.PEM_cert_to_DER_cert(_first_certificate(text)))


def stamps_of(configured: config.Tls) -> dict[Path, tuple[int, int, int]]:
    """Stamps that change with the files; a missing file has none."""
    names = [configured.client_ca]
    for one in _given(configured):
        names += [one.certificate, one.key]
    stamps = {}
    for path in [Path(name) for name in names if name]:
        for file in _around(path):
            try:
                stat = file.stat()
            except OSError:
                continue
            stamps[file] = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
    return stamps


def _around(path: Path) -> list[Path]:
    try:
        return [*path.iterdir(), path]
    except OSError:  # a file, or a directory that we may not read
        return [path, path.with_suffix(".key")]


def check_certificates(configured: config.Config) -> dict[str, TlsFiles]:
    """Read the files of all frontends -> those of each, by its name.

    Raises OSError as `Certificates` does.
    """
    return {
        frontend.name: Certificates(frontend.tls, frontend.name).files
        for frontend in configured.frontends
        if frontend.tls is not None
    }


def certificate_problems(configured: config.Tls, frontend: str) -> Iterator[OSError]:
    """Each certificate that can't be used, where `Certificates` raises the first error."""
    seen: set[str | None] = set()
    for one in _one_by_one(configured):
        try:
            Certificates(one, frontend)
        except OSError as error:
            if error.strerror not in seen:  # such as that of client_ca, which all have
                seen.add(error.strerror)
                yield error


def _one_by_one(configured: config.Tls) -> Iterator[config.Tls]:
    """The same settings with one certificate each, those of a directory too."""
    for given in _given(configured):
        folder = None if given.key else TlsFiles(configured).in_folder(Path(given.certificate))
        for path in folder or [Path(given.certificate)]:
            yield configured.model_copy(
                update={"certificate": str(path), "key": given.key, "certificates": []}
            )


def _given(configured: config.Tls) -> list[config.Tls | config.Certificate]:
    return [configured, *configured.certificates]


class _Encrypted(Exception):
    """OpenSSL asks for a password."""


def _no_password() -> NoReturn:
    raise _Encrypted


def _first_certificate(text: str) -> str:
    begin, end = ssl.PEM_HEADER, ssl.PEM_FOOTER
    _, found, rest = text.partition(begin)
    body, closed, _ = rest.partition(end)
    if not (found and closed):
        raise ValueError("there is no certificate in it (-----BEGIN CERTIFICATE-----)")
    return begin + body + end
