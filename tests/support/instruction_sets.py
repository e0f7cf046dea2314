"""Python processes whose C++ operators run on an instruction set that is asked for."""

from __future__ import annotations

import os

import pytest

from support import forked

_CHECK = """
from albert_act_fast import native
assert native.instruction_set() == {!r}, native.instruction_set()
"""


def run_under(instruction_set: str, code: str, pytestconfig) -> str:
    """The output of `code` where the operators run on `instruction_set`; skips without it."""
    flags = ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = file.read()
    needed = {"avx2": "avx2", "avx512": "avx512bw", "avx512_vnni": "avx512_bf16", "amx": "amx_int8"}
    if instruction_set != "portable" and needed[instruction_set] not in flags:
        pytest.skip(f"this machine has no {instruction_set}")
    done = forked.run(
        _CHECK.format(instruction_set) + code,
        cwd=pytestconfig.rootpath,
        ALBERT_ACT_FAST_INSTRUCTION_SET=instruction_set,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def run_tests_under(instruction_set: str, arguments: list[str], pytestconfig) -> str:
    """The same of pytest with these arguments."""
    code = f"import pytest, sys\nsys.exit(pytest.main({['-q', *arguments]!r}))\n"
    return run_under(instruction_set, code, pytestconfig)
