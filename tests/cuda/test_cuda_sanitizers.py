"""The kernels on the CPU under sanitizers, and faults planted in them, which must be found.

What is run and how it is checked: run_kernels.cpp.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import cuda_on_cpu

pytestmark = pytest.mark.skipif(
    cuda_on_cpu.why_not() is not None, reason=str(cuda_on_cpu.why_not())
)

SANITIZERS = {
    "none": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-fsanitize=thread"],
}
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "TSAN_OPTIONS": "halt_on_error=1",
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> list[Path]:
    """What never has a sanitizer: the scheduler, and the program that calls and checks."""
    folder = tmp_path_factory.mktemp("parts")
    cuda_on_cpu.compile_scheduler(folder / "simt.o")
    cuda_on_cpu.compile_cpp(
        "-O2", "-c", cuda_on_cpu.SIMT / "run_kernels.cpp", "-o", folder / "run_kernels.o"
    )
    return [folder / "simt.o", folder / "run_kernels.o"]


def build(parts: list[Path], folder: Path, sanitizer: str, source: Path) -> Path:
    options = SANITIZERS[sanitizer]
    program, kernels = folder / "run_kernels", folder / "kernels.o"
    # All that run_kernels.cpp calls; the other dtypes are three fifths of the compiler's time.
    dtypes = "-DAAF_CUDA_DTYPES(DO)=DO(float)"
    cuda_on_cpu.compile_kernels(kernels, dtypes, *options, source=source)
    try:
        cuda_on_cpu.compile_cpp(*options, *parts, kernels, "-o", program)
    except RuntimeError as error:
        if "cannot find" in str(error):
            pytest.skip(f"the compiler has no runtime of -fsanitize={sanitizer}")
        raise
    return program


def run(program: Path, rows: int, orders: int, width: int) -> tuple[int, str]:
    done = subprocess.run(
        [program, str(rows), str(orders), str(width)],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("sanitizer", "sizes"),
    [
        # 750 blocks, whose scan looks back over 256 at a time.
        ("none", [(6_000, 5, 8), (100, 14, 5)]),
        (
            "address",
            [(300, 8, 8), (61, 4, 5), (9, 4, 300), (3, 4, 1000), (1, 4, 64), (6_000, 2, 8)],
        ),
        ("thread", [(41, 4, 8), (2, 1, 5)]),
    ],
)
def test_nothing_is_found_in_the_kernels(parts, tmp_path, sanitizer, sizes):
    program = build(parts, tmp_path, sanitizer, cuda_on_cpu.KERNELS)
    for rows, orders, width in sizes:
        assert run(program, rows, orders, width) == (0, "right\n")


@dataclass(frozen=True)
class Fault:
    """`right` stands once in `file`; with `wrong` in its place, `found` is what is to be said."""

    file: str
    right: str
    wrong: str
    sanitizer: str
    found: str


FAULTS = {
    "a tie halts": Fault(
        "semantics/halting.h", "reached > threshold", "reached >= threshold",
        "none", "wrong: ",
    ),
    "a row too many": Fault(
        "cuda/scatter_rows.cuh", "if (r >= live) return;", "if (r > live) return;",
        "address", "AddressSanitizer",
    ),
    "past the end of shared memory": Fault(
        "cuda/ragged_attention.cuh",
        "float weight[kQueries][kWarp];", "float weight[kQueries - 1][kWarp];",
        "address", "AddressSanitizer: heap-buffer-overflow",
    ),
    "no barrier after the ticket": Fault(
        "cuda/halting_step.cuh",
        "shared.tile = int64_t(add_relaxed(ticket, 1));\n    __syncthreads();",
        "shared.tile = int64_t(add_relaxed(ticket, 1));",
        "thread", "ThreadSanitizer",
    ),
    "no barrier before the flags are read": Fault(
        "cuda/halting_step.cuh",
        "}\n    __syncthreads();\n    if (threadIdx.x < kWarp) {",
        "}\n    if (threadIdx.x < kWarp) {",
        "thread", "ThreadSanitizer: data race",
    ),
    "the last block looks too early": Fault(
        "cuda/halting_step.cuh",
        "__syncthreads();\n    if (threadIdx.x == 0) shared.is_last",
        "if (threadIdx.x == 0) shared.is_last",
        "thread", "ThreadSanitizer: data race",
    ),
    "no ticket: tiles are numbered as blocks are": Fault(
        "cuda/halting_step.cuh",
        "shared.tile = int64_t(add_relaxed(ticket, 1));",
        "shared.tile = int64_t(blockIdx.x);",
        "none", "threads wait for what never comes",
    ),
    "a running sum is never published": Fault(
        "cuda/look_back.cuh",
        "store_relaxed(status + tile, Status::word(Status::kRunning,",
        "static_cast<void>(Status::word(Status::kRunning,",
        "none", "threads wait for what never comes",
    ),
    "a thread does not come to the barrier": Fault(
        "cuda/halting_step.cuh",
        "const bool is_row = r < live;", "const bool is_row = r < live;\n    if (!is_row) return;",
        "none", "wrong: simt: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_found(parts, tmp_path, name):
    fault = FAULTS[name]
    sources = tmp_path / "csrc"
    for folder in ("cuda", "semantics"):
        shutil.copytree(cuda_on_cpu.ROOT / "csrc" / folder, sources / folder)
    text = (sources / fault.file).read_text()
    assert text.count(fault.right) == 1
    (sources / fault.file).write_text(text.replace(fault.right, fault.wrong))
    program = build(parts, tmp_path, fault.sanitizer, sources / "cuda" / "kernels.cu")
    status, output = run(program, 41, 4, 8)
    assert status != 0
    assert fault.found in output
