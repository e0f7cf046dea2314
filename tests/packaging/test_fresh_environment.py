"""One wheel in environments of their own, without a compiler.

    make test-wheel
    make test-wheel PYTHONS="python3.10 python3.12"
    ALBERT_ACT_FAST_TORCH="torch==2.13.0 torch==2.11.0" make test-wheel

pip accepts the wheel under every Python that is here, and the native engine in it runs there. With
all that the package needs it is run where the tests' own release of torch can be had, or where
ALBERT_ACT_FAST_TORCH says: pip then needs a package index, and for most builds of torch gigabytes.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import pythons

from albert_act_fast.ops.contracts import ENGINE_SCHEMAS

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PYTHONS = pythons.found()
INSTALLED = f"torch=={importlib.metadata.version('torch').partition('+')[0]}"
TORCH = os.environ.get("ALBERT_ACT_FAST_TORCH", "").split()
# Pythons that get all dependencies.
WHOLE = PYTHONS if TORCH else [v for v in PYTHONS if PYTHONS[v] == sys.executable]

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of `make wheel`, or one that is built here."""
    if os.environ.get("ALBERT_ACT_FAST_WHEEL"):
        return Path(os.environ["ALBERT_ACT_FAST_WHEEL"]).absolute()
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    junk = shutil.ignore_patterns(".venv", ".git", "build", "dist", "*.so", "__pycache__")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=junk)
    build = ["-m", "pip", "wheel", "--no-cache-dir", "--no-deps", "-w", folder, tree]
    run(sys.executable, *build, cwd=folder, ALBERT_ACT_FAST_SKIP_CUDA="1")
    (built,) = folder.glob("*.whl")
    return built


class Fresh:
    """An environment whose PATH holds nothing but itself."""

    def __init__(self, python: str, folder: Path):
        self.folder = folder
        run(python, "-m", "venv", folder, cwd=folder.parent)
        # CXX: Python's own settings name a compiler too.
        self._bare = {"PATH": str(folder / "bin"), "CXX": "/nowhere/c++", "CC": "/nowhere/cc"}

    def __call__(self, command: str, *arguments: str | Path) -> str:
        return run(self.folder / "bin" / command, *arguments, cwd=self.folder, **self._bare)


@pytest.mark.parametrize("version", PYTHONS)
def test_every_python_takes_the_wheel(version: str, wheel: Path, tmp_path: Path) -> None:
    fresh = Fresh(PYTHONS[version], tmp_path / "fresh")
    fresh("python", "-m", "pip", "install", "--no-compile", "--no-deps", wheel)
    (native,) = fresh.folder.glob("lib/python*/site-packages/albert_act_fast/_cpp_ops.abi3.so")
    theirs = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    schemas = json.dumps(ENGINE_SCHEMAS)
    found = json.loads(fresh("python", HERE / "check_library.py", native, theirs, schemas))
    assert ".".join(map(str, found["python"])) == version
    assert found["interrupted"]


@pytest.mark.parametrize("requirement", TORCH or [INSTALLED])
@pytest.mark.parametrize("version", WHOLE)
def test_it_runs_where_there_is_no_compiler(
    version: str, requirement: str, wheel: Path, tmp_path: Path
) -> None:
    fresh = Fresh(PYTHONS[version], tmp_path / "fresh")
    fresh("python", "-m", "pip", "install", "--no-compile", requirement, wheel)
    fresh("python", "-m", "pip", "check")
    said = fresh("python", HERE / "check_parity.py")
    assert said.startswith(f"cpp agrees with reference in {fresh.folder}")
    assert "cpp on cpu" in fresh("albert-act-fast", "depth", "Quiet.")
