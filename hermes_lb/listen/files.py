"""The files that a configuration names: can they be used?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.backends.dialing import Dialer
from hermes_lb.options.problems import ConfigError
from hermes_lb.tls.certificates import certificate_problems, check_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.config import Backend, Config
    from hermes_lb.tls.certificates import TlsFiles


def check_files(configured: Config) -> dict[str, TlsFiles]:
    """Read certificates, keys and authorities -> each frontend's own, by its name.

    It may take a while. Raises OSError, whose `strerror` is one line for a person, or ConfigError.
    """
    found = check_certificates(configured)
    for name, backend in configured.backends.items():
        Dialer.of(name, backend)
    return found


def file_problems(configured: Config) -> Iterator[OSError | ConfigError]:
    """Every file that can't be used, where `check_files` raises the first error."""
    for frontend in configured.frontends:
        if frontend.tls is not None:
            yield from certificate_problems(frontend.tls, frontend.name)
    for name, backend in configured.backends.items():
        yield from _backend_problems(name, backend)


def _backend_problems(name: str, backend: Backend) -> Iterator[ConfigError]:
    """Of the authority, and of the balancer's own certificate."""
    if backend.tls is None:
        return
    for less in ({"certificate": None, "key": None}, {"ca": None}):
        tls = backend.tls.model_copy(update=less)
        try:
            Dialer.of(name, backend.model_copy(update={"tls": tls}))
        except ConfigError as error:
            yield error
