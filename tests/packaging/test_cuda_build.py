"""What setup.py decides about the CUDA operators; nothing is built here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NVCC = Path(shutil.which("nvcc") or "/nowhere/nvcc")

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler on the PATH"
)
needs_nvcc = pytest.mark.skipif(not NVCC.exists(), reason="no nvcc on the PATH")
NO_NVCC = {"CUDA_HOME": "/nowhere"}


def decide(**variables: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "setup.py", "--name"],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


def test_without_nvcc_they_are_left_out():
    status, said = decide(**NO_NVCC)
    assert status == 0
    assert "the CUDA operators are left out: no nvcc on the PATH (CUDA_HOME names" in said


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        (NO_NVCC, "no nvcc on the PATH"),
        ({"ALBERT_ACT_FAST_SKIP_CUDA": "1"}, "ALBERT_ACT_FAST_SKIP_CUDA is set"),
        ({"ALBERT_ACT_FAST_SKIP_CPP": "1"}, "same library as the C++ operators"),
    ],
)
def test_forced_they_must_not_be_missing(variables, reason):
    status, said = decide(ALBERT_ACT_FAST_FORCE_CUDA="1", **variables)
    assert status != 0
    assert "ALBERT_ACT_FAST_FORCE_CUDA is set, but: " in said
    assert reason in said


@needs_nvcc
def test_architectures():
    _, said = decide()
    assert "the CUDA operators are built with CUDA " in said
    _, said = decide(ALBERT_ACT_FAST_CUDA_ARCHITECTURES="80;90")
    assert " for sm_80, sm_90 and PTX for newer ones" in said
    status, said = decide(ALBERT_ACT_FAST_CUDA_ARCHITECTURES="80,12")
    assert status != 0
    assert "ALBERT_ACT_FAST_CUDA_ARCHITECTURES: got '80,12', expected some of" in said
