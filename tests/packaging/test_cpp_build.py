"""What setup.py decides about the C++ operators; nothing is compiled here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEADERS = ROOT / "third_party" / "torch"

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++").split()[0]) is None,
    reason="no C++ compiler on the PATH",
)


def decide(prelude: str = "", **variables: str) -> tuple[int, list[str]]:
    """setup.py's exit status and the lines it prints, after some Python code ran."""
    code = f"import runpy, sys\n{prelude}\nsys.argv = ['setup.py', '--name']\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "runpy.run_path('setup.py', run_name='__main__')"],
        cwd=ROOT,
        env=os.environ | {"ALBERT_ACT_FAST_SKIP_CUDA": "1"} | variables,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr.splitlines()


@needs_compiler
def test_it_says_what_is_built():
    status, (cpp, cuda) = decide()
    assert status == 0
    assert cpp.startswith("albert_act_fast: the C++ operators are built for ")
    assert "portable" in cpp
    assert cuda.startswith("albert_act_fast: the CUDA operators are left out: ")


@pytest.mark.parametrize(
    ("missing", "prelude", "variables"),
    [
        ("no C++ compiler: no-such-compiler is not", "", {"CXX": "no-such-compiler -m64"}),
        pytest.param(
            "no Python headers: there is no /nowhere/Python.h",
            "import sysconfig\nsysconfig.get_path = lambda *_, **__: '/nowhere'",
            {},
            marks=needs_compiler,
        ),
        pytest.param(
            "free-threaded Python has no limited API",
            "import sysconfig\nown = sysconfig.get_config_var\n"
            "sysconfig.get_config_var = lambda name: name == 'Py_GIL_DISABLED' or own(name)",
            {},
            marks=needs_compiler,
        ),
        pytest.param(
            "pybind11 is not installed: pip install 'pybind11>=2.13'",
            "sys.modules['pybind11'] = None",
            {},
            marks=needs_compiler,
        ),
    ],
)
def test_a_missing_tool_ends_the_build_in_one_line(missing, prelude, variables):
    status, said = decide(prelude, **variables)
    assert status != 0
    (line,) = said
    assert line.startswith(f"albert_act_fast: {missing}")
    assert line.endswith("set ALBERT_ACT_FAST_SKIP_CPP=1.")
    # ... which is the way out.
    status, said = decide(prelude, ALBERT_ACT_FAST_SKIP_CPP="1", **variables)
    assert status == 0
    assert "the C++ operators are left out: ALBERT_ACT_FAST_SKIP_CPP is set" in said[0]


@needs_compiler
def test_a_library_of_an_earlier_build_is_not_taken(tmp_path):
    """It may have been built for other GPUs, or to be run under sanitizers."""
    log, fake = tmp_path / "log", tmp_path / "compiler"
    real = os.environ.get("CXX", "c++")
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec {real} "$@"\n'
        f'echo "$@" >> {log}\nwhile [ "$1" != -o ]; do shift; done\ntouch "$2"\n'
    )
    fake.chmod(0o755)
    build = ["build_ext", "--build-lib", tmp_path / "lib", "--build-temp", tmp_path / "temp"]
    built = []
    for variables in ({"ALBERT_ACT_FAST_SANITIZE": "1"}, {}):
        log.write_text("")
        subprocess.run(
            [sys.executable, "setup.py", "-q", *build],
            cwd=ROOT,
            env=os.environ | {"CXX": str(fake), "ALBERT_ACT_FAST_SKIP_CUDA": "1"} | variables,
            capture_output=True,
            check=True,
        )
        built.append([line for line in log.read_text().splitlines() if " -c " in line])
    sanitized, plain = built
    assert len(sanitized) == len(plain) > 10
    assert all("-fsanitize" in line for line in sanitized)
    assert not any("-fsanitize" in line for line in plain)


def test_the_headers_are_those_of_torch():
    version = (HEADERS / "VERSION").read_text().strip()
    there = importlib.metadata.version("torch").partition("+")[0]
    if there != version:
        pytest.skip(f"torch {there} is installed, the headers are those of {version}")
    spec = importlib.util.spec_from_file_location("update", HEADERS / "update.py")
    update = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(update)
    theirs = {name: path.read_bytes() for name, path in update.installed().items()}
    ours = {
        path.relative_to(HEADERS).as_posix(): path.read_bytes()
        for path in [HEADERS / "LICENSE", *HEADERS.glob("include/**/*.h")]
    }
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
