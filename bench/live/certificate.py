"""A throw-away certificate for the TLS case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

INSTALL = "pip install trustme"


@dataclass(frozen=True)
class Certificate:
    """PEM files of a P-256 certificate for 127.0.0.1."""

    chain: Path
    key: Path
    combined: Path  # chain and key in one, as HAProxy wants them


def make_certificate(directory: Path) -> Certificate | None:
    """Write a certificate to `directory`, or return None where trustme is not installed."""
    try:
        import trustme
    except ImportError:
        return None
    issued = trustme.CA().issue_cert("127.0.0.1", "localhost")
    made = Certificate(directory / "cert.pem", directory / "key.pem", directory / "combined.pem")
    issued.private_key_pem.write_to_path(str(made.key))
    made.chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    made.combined.write_bytes(made.chain.read_bytes() + made.key.read_bytes())
    return made
