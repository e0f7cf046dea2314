"""Compiles the CUDA kernels as C++ that runs on the CPU (tests/cuda/simt.h says how).

`install` registers them as implementation `cuda` for CPU tensors, so that every test of the
operators and of the engine runs on them. That is asked for by an environment variable, because
operators are registered for a whole process: ALBERT_ACT_FAST_CUDA_ON_CPU=1 (make simulate).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from albert_act_fast.flags import is_set

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "csrc" / "cuda" / "kernels.cu"
SIMT = ROOT / "tests" / "cuda"
COMPILER = os.environ.get("CXX", "g++").split()


def asked_for() -> bool:
    return is_set("ALBERT_ACT_FAST_CUDA_ON_CPU")


def why_not() -> str | None:
    """None where the kernels can run on this CPU, else the reason."""
    if shutil.which(COMPILER[0]) is None:
        return f"no C++ compiler: {COMPILER[0]} is not on the PATH"
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "fibers are written for x86-64"
    return None


def compile_cpp(*arguments: str | Path) -> None:
    command = [*COMPILER, "-std=c++17", "-Wall", "-fPIC", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def compile_scheduler(output: Path) -> None:
    compile_cpp("-O2", "-c", SIMT / "simt.cpp", "-o", output)


def compile_kernels(output: Path, *options: str, source: Path = KERNELS) -> None:
    """Vectors of 16 bytes are read where rows of smaller elements lie, as CUDA allows."""
    compile_cpp(
        "-O1", "-g", "-fno-strict-aliasing", "-Wno-unknown-pragmas", *options,
        "-include", SIMT / "simt.h", "-x", "c++", "-c", source, "-o", output,
    )  # fmt: skip


def _torch_target_version() -> str:
    """The one that the package is built for."""
    return re.search(r'^TORCH_TARGET_VERSION = "(\w+)"$', (ROOT / "setup.py").read_text(), re.M)[1]


@cache
def install() -> ctypes.CDLL:
    """Loads the operators; `simt_schedule` of the result chooses the order of threads."""
    import torch

    import albert_act_fast.ops  # noqa: F401  (the schemas)

    library = _build(Path(torch.__file__).parent, torch.__version__)
    torch.ops.load_library(library)
    loaded = ctypes.CDLL(str(library))
    loaded.simt_schedule.argtypes = (ctypes.c_uint64, ctypes.c_uint)
    return loaded


def _build(torch_root: Path, torch_version: str) -> Path:
    """Once for these sources, by whichever process comes first."""
    sources = [p for f in (ROOT / "csrc", SIMT) for p in sorted(f.rglob("*")) if p.is_file()]
    state = hashlib.sha256(" ".join([torch_version, *COMPILER]).encode())
    for source in (*sources, Path(__file__)):
        state.update(source.read_bytes())
    library = ROOT / "build" / "cuda_on_cpu" / f"{state.hexdigest()[:16]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        folder = Path(name)
        compile_scheduler(folder / "simt.o")
        compile_kernels(folder / "kernels.o")
        compile_cpp(
            "-O1", "-c", ROOT / "csrc" / "binding" / "cuda_ops.cpp", "-o", folder / "cuda_ops.o",
            f"-DTORCH_TARGET_VERSION={_torch_target_version()}", "-DAAF_CUDA_DISPATCH_KEY=CPU",
            f"-I{torch_root / 'include'}",
        )  # fmt: skip
        compile_cpp(
            "-shared", "-o", folder / "library.so", *sorted(folder.glob("*.o")),
            f"-L{torch_root / 'lib'}", "-Wl,--no-as-needed", "-lc10", "-ltorch_cpu", "-ltorch",
        )  # fmt: skip
        (folder / "library.so").rename(library)
    return library
