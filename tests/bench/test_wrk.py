"""The load generator does what the figures rest on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.live.certificate import make_certificate
from bench.live.loads import tls, wrk

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not wrk.is_installed(), reason="wrk is missing (apt)")


def test_wrk_speaks_the_one_version_and_cipher_over_tls(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    assert certificate is not None

    assert tls.what_wrk_speaks(certificate, tmp_path) == f"{tls.VERSION} {tls.CIPHER}"
