"""What wrk speaks over TLS: one version, one cipher and one group, so that all peers do the same.

A peer can't choose where the client offers one of each. hermes_lb (Python's `ssl`) and Envoy
(BoringSSL) can't be given a cipher of TLS 1.3 anyway. wrk has no options for it, but its
OpenSSL reads a file.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bench.live.certificate import Certificate

VERSION, CIPHER = "TLSv1.3", "TLS_AES_128_GCM_SHA256"
_SETTINGS = f"""openssl_conf = bench
[bench]
ssl_conf = ssl
[ssl]
system_default = wrk
[wrk]
MinProtocol = {VERSION}
Ciphersuites = {CIPHER}
Groups = P-256
"""
_PATIENCE = 5.0  # s


def client_environment(directory: Path) -> dict[str, str]:
    """Ours, and where OpenSSL finds what a client offers."""
    settings = directory / "openssl.cnf"
    settings.write_text(_SETTINGS)
    return {**os.environ, "OPENSSL_CONF": str(settings)}


def what_wrk_speaks(certificate: Certificate, directory: Path) -> str:
    """The version and the cipher that wrk agrees on with a server that has no wishes.

    Raises OSError if it comes to no agreement.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    found: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(_PATIENCE)
        thread = threading.Thread(target=_shake_hands, args=(server, context, found))
        thread.start()
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"
        command = ["wrk", "-t1", "-c1", "-d1s", url]
        environment = client_environment(directory)
        subprocess.run(command, env=environment, capture_output=True, timeout=30, check=False)
        thread.join()
    if not found:
        raise OSError("wrk made no TLS connection")
    return found[0]


def _shake_hands(server: socket.socket, context: ssl.SSLContext, found: list[str]) -> None:
    """With the first who wants to: before that wrk tests whether the address answers."""
    while not found:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client, suppress(OSError):
            client.settimeout(_PATIENCE)
            with context.wrap_socket(client, server_side=True) as secured:
                cipher = secured.cipher()
                found.append(f"{secured.version()} {cipher[0] if cipher else 'no cipher'}")
