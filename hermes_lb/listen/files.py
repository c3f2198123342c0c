"""The files that a configuration names: can they be used?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.backends.dialing import Dialer
from hermes_lb.tls.certificates import check_certificates

if TYPE_CHECKING:
    from hermes_lb.config import Config
    from hermes_lb.tls.certificates import TlsFiles


def check_files(configured: Config) -> dict[str, TlsFiles]:
    """Read certificates, keys and authorities -> each frontend's own, by its name.

    It may take a while. Raises OSError, whose `strerror` is one line for a person, or ConfigError.
    """
    found = check_certificates(configured)
    for name, backend in configured.backends.items():
        Dialer.of(name, backend)
    return found
