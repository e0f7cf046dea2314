"""Which Pythons there are on this machine beside the one that runs the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SUPPORTED = ("3.10", "3.11", "3.12", "3.13")


def found() -> dict[str, str]:
    """Version and path of one interpreter of every supported version that is here; those that
    ALBERT_ACT_FAST_PYTHONS names, if it is set. The running one comes first."""
    running = ".".join(map(str, sys.version_info[:2]))
    pythons = {running: sys.executable}
    named = os.environ.get("ALBERT_ACT_FAST_PYTHONS", "").split()
    for candidate in named or _candidates():
        version = _version(candidate)
        if named and version is None:
            raise ValueError(f"ALBERT_ACT_FAST_PYTHONS: {candidate} does not answer.")
        if version in SUPPORTED or named:
            pythons.setdefault(version, candidate)
    return {v: path for v, path in pythons.items() if not named or v != running or path in named}


def _candidates() -> list[str]:
    # pyenv's commands answer only for the versions that are switched on.
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = sorted(root.glob("versions/3.1[0-9].*/bin/python"))
    on_path = (shutil.which(f"python{version}") for version in SUPPORTED)
    return [*map(str, installed), *filter(None, on_path)]


def _version(python: str) -> str | None:
    code = "import sys; print(*sys.version_info[:2], sep='.')"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None
