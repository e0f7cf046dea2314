"""Switches in the environment."""

from __future__ import annotations

import os


def is_set(variable: str, default: str = "0") -> bool:
    """Whether an environment variable is neither empty nor "0"."""
    return os.environ.get(variable, default) not in ("", "0")
