"""The same suite over the package of another commit."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

from suite.inputs import ROOT


def install(commit: str, folder: Path) -> Path:
    """The package of that commit, built into a folder of its own, which is returned.

    Raises:
        ValueError: there is no such commit.
        RuntimeError: it does not build.
    """
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True)
    if archive.returncode != 0:
        raise ValueError(f"commit: got {commit!r}: {archive.stderr.decode().strip()}")
    source, target = folder / "source", folder / "site"
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(source, filter="data")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    built = subprocess.run([*command, "--target", target, source], capture_output=True, text=True)
    if built.returncode != 0:
        raise RuntimeError(f"{commit} does not build: {built.stderr[-2000:]}")
    return target


def run_with(site: Path, arguments: list[str]) -> int:
    """Runs this suite's command with the package found in `site`; its exit status."""
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(ROOT / "benchmarks"), *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode
