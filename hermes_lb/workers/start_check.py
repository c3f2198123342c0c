"""Errors that a start would find in files that the configuration names.

Used by `hermes-lb check`, and by an upgrade to check the new code. Has no visible side effects.
Addresses are not tried: the running balancer uses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_lb.config.admin_tls import admin_context
from hermes_lb.config.token import read_token
from hermes_lb.observe.sinks import check_sink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hermes_lb.config import Config, ConfigError


def start_problems(configured: Config) -> Iterator[OSError | ValueError]:
    """Each error as the start would raise it, with a one-line message. May take a while."""
    yield from _tls_problems(configured)
    for check in (_check_log, _check_token, _check_admin_tls, _check_store):
        try:
            check(configured)
        except (OSError, ValueError) as error:
            yield error


def _tls_problems(configured: Config) -> Iterator[OSError | ConfigError]:
    backends = configured.backends.values()
    if any(one.tls for one in configured.frontends) or any(one.tls for one in backends):
        from hermes_lb.listen.files import file_problems  # loads the data path: only if needed

        yield from file_problems(configured)


def _check_log(configured: Config) -> None:
    check_sink(configured.log)


def _check_token(configured: Config) -> None:
    if configured.admin.enabled:
        read_token(configured.admin)


def _check_admin_tls(configured: Config) -> None:
    if configured.admin.enabled and configured.admin.tls is not None:
        admin_context(configured.admin.tls)


def _check_store(configured: Config) -> None:
    if configured.needs_embedded_store:
        from hermes_lb.turns.store.embedded import find_valkey

        find_valkey()
    elif configured.backends_with_turns:
        from hermes_lb.turns.store.url import read_url

        read_url(configured.store.url or "")
