"""A client that writes its TLS records itself: those that Python's ssl has no way to ask for.

The handshake is OpenSSL's; what the client sends then is encrypted here, with keys that are derived
from the secrets that `SSLContext.keylog_filename` tells.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
import ssl
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.support.certificates import trusting
from tests.support.tls import TlsClient

if TYPE_CHECKING:
    from pathlib import Path

    from hermes_lb import LoadBalancer
    from tests.support.stage import Stage

DATA, HANDSHAKE = 23, 22  # RFC 8446 section 5.1: ContentType
_KEY_UPDATE = 24  # section 4: HandshakeType


class Suite(NamedTuple):
    """RFC 8446 appendix B.4."""

    aead: type[AESGCM] | type[ChaCha20Poly1305]
    key_size: int
    hash: HashAlgorithm


_SUITES = {
    "TLS_AES_128_GCM_SHA256": Suite(AESGCM, 16, SHA256()),
    "TLS_AES_256_GCM_SHA384": Suite(AESGCM, 32, SHA384()),
    "TLS_CHACHA20_POLY1305_SHA256": Suite(ChaCha20Poly1305, 32, SHA256()),
}


class Writer13:
    """The client's side of TLS 1.3, after its handshake (RFC 8446 sections 5.2, 5.3, 7.2)."""

    def __init__(self, suite: str, secret: bytes) -> None:
        self._suite = _SUITES[suite]
        self._become(secret)

    def _become(self, secret: bytes) -> None:
        self._secret = secret
        self._aead = self._suite.aead(self._expand("key", self._suite.key_size))
        self._iv = int.from_bytes(self._expand("iv", 12), "big")
        self._count = 0

    def _expand(self, label: str, size: int) -> bytes:
        name = b"tls13 " + label.encode()
        info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
        return HKDFExpand(self._suite.hash, size, info).derive(self._secret)

    def record(self, content: bytes, kind: int = DATA) -> bytes:
        header = b"\x17\x03\x03" + (len(content) + 17).to_bytes(2, "big")
        nonce = (self._iv ^ self._count).to_bytes(12, "big")
        self._count += 1
        return header + self._aead.encrypt(nonce, content + bytes([kind]), header)

    def barren(self) -> bytes:
        """A KeyUpdate that asks for another one."""
        record = self.record(bytes([_KEY_UPDATE, 0, 0, 1, 1]), HANDSHAKE)
        self._become(self._expand("traffic upd", self._suite.hash.digest_size))
        return record


class Writer12:
    """The client's side of TLS 1.2 with AES128-GCM-SHA256 (RFC 5246 sections 5, 6.3; RFC 5288)."""

    SUITE = "ECDHE-ECDSA-AES128-GCM-SHA256"

    def __init__(self, master: bytes, client_random: bytes, server_random: bytes) -> None:
        seed = b"key expansion" + server_random + client_random
        keys, a = b"", seed
        while len(keys) < 40:
            a = _hmac(master, a)
            keys += _hmac(master, a + seed)
        self._aead = AESGCM(keys[:16])
        self._salt = keys[32:36]
        self._count = 1  # "Finished" was the first

    def record(self, content: bytes, kind: int = DATA) -> bytes:
        number = self._count.to_bytes(8, "big")
        self._count += 1
        covered = number + bytes([kind, 3, 3]) + len(content).to_bytes(2, "big")
        sealed = number + self._aead.encrypt(self._salt + number, content, covered)
        return bytes([kind, 3, 3]) + len(sealed).to_bytes(2, "big") + sealed

    def barren(self) -> bytes:
        """The hello of another handshake."""
        outgoing = ssl.MemoryBIO()
        again = trusting().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="a.test")
        try:
            again.do_handshake()
        except ssl.SSLWantReadError:
            return self.record(outgoing.read()[5:], HANDSHAKE)
        raise AssertionError("it has no peer for a handshake")


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


async def writing_client(
    stage: Stage, lb: LoadBalancer, folder: Path, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    *, room: int = 0,
) -> tuple[TlsClient, Writer13 | Writer12]:  # fmt: skip
    """A client whose handshake is done, and what it writes with: `client.wire.send`.

    It reads as any other does. `room`: bytes that its kernel takes for it, about.
    """
    log = folder / "secrets.txt"
    log.unlink(missing_ok=True)
    context = trusting()
    context.keylog_filename = str(log)
    context.maximum_version = version
    context.set_ciphers(Writer12.SUITE)
    sock = socket.socket()
    if room:  # before it connects: its window must not shrink
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    client = TlsClient(sock, context, "a.test")
    stage._clients.append(client)
    port = int(lb.url.rsplit(":", 1)[1])
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    await client.shake_hands()
    secrets = {name: values for name, *values in map(str.split, log.read_text().splitlines())}
    if version is ssl.TLSVersion.TLSv1_3:
        cipher = client.tls.cipher()
        assert cipher is not None
        _, secret = secrets["CLIENT_TRAFFIC_SECRET_0"]
        return client, Writer13(cipher[0], bytes.fromhex(secret))
    client_random, master = map(bytes.fromhex, secrets["CLIENT_RANDOM"])
    return client, Writer12(master, client_random, bytes(client.wire.received[11:43]))
