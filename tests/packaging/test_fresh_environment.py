"""A wheel in an environment of its own, without a compiler.

    ALBERT_ACT_FAST_PYTHONS="python3.10 python3.12" ALBERT_ACT_FAST_TORCH="torch==2.11.0" \\
        .venv/bin/pytest -m slow tests/packaging/test_fresh_environment.py

By default with the Python and the release of torch that run the tests. pip brings the
dependencies: it needs a package index, and for most releases of torch gigabytes.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARITY = Path(__file__).parent / "check_parity.py"
PYTHONS = os.environ.get("ALBERT_ACT_FAST_PYTHONS", sys.executable).split()
INSTALLED = f"torch=={importlib.metadata.version('torch').partition('+')[0]}"
TORCH = os.environ.get("ALBERT_ACT_FAST_TORCH", INSTALLED)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("packaging"),
    pytest.mark.skipif(
        shutil.which(os.environ.get("CXX", "c++").split()[0]) is None,
        reason="no C++ compiler on the PATH to build the wheel with",
    ),
]


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("python", PYTHONS)
def test_a_wheel_runs_where_there_is_no_compiler(python: str, tmp_path: Path) -> None:
    if shutil.which(python) is None:
        pytest.skip(f"{python} is not here")
    tree, fresh = tmp_path / "tree", tmp_path / "fresh"
    junk = shutil.ignore_patterns(".venv", ".git", "build", "dist", "*.so", "__pycache__")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=junk)
    wheel = ["-m", "pip", "wheel", "--no-cache-dir", "--no-deps", "-w", tmp_path, tree]
    run(python, *wheel, cwd=tmp_path, ALBERT_ACT_FAST_SKIP_CUDA="1")
    (built,) = tmp_path.glob("*.whl")
    run(python, "-m", "venv", fresh, cwd=tmp_path)
    bare = {"PATH": str(fresh / "bin"), "CXX": "/nowhere/c++", "CC": "/nowhere/cc"}
    inside = fresh / "bin" / "python"
    run(inside, "-m", "pip", "install", "--no-compile", TORCH, built, cwd=tmp_path, **bare)
    run(inside, "-m", "pip", "check", cwd=tmp_path, **bare)
    said = run(inside, PARITY, cwd=tmp_path, **bare)
    assert said.startswith(f"cpp agrees with reference in {fresh}")
    assert "cpp on cpu" in run(fresh / "bin" / "albert-act-fast", "depth", "Quiet.", cwd=tmp_path)
