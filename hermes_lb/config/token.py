"""The admin listener's token, from file, configuration or environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hermes_lb.config.process import TOKEN_VARIABLE

if TYPE_CHECKING:
    from hermes_lb.config.process import Admin


def read_token(configured: Admin) -> str | None:
    """From the file, the configuration or the environment, in this order; None: no token is set.

    Raises OSError if the file can't be read, and ValueError if it is empty or no text.
    """
    if configured.token_file is not None:
        try:
            token = Path(configured.token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise OSError(
                error.errno, f"can't read {configured.token_file} (admin.token_file): "
                f"{error.strerror}",
            ) from None  # fmt: skip
        except UnicodeDecodeError:
            raise ValueError(f"{configured.token_file} (admin.token_file) is not text") from None
        if not token:
            raise ValueError(f"{configured.token_file} (admin.token_file) is empty")
        return token
    return configured.token or os.environ.get(TOKEN_VARIABLE) or None
