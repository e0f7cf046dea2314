"""What the CUDA kernels take of a GPU, found out by compiling them for it; needs no GPU.

make resources      # compiles everything and writes docs/cuda_resources.csv
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from support.gpu_resources import (
    Resources,
    cuobjdump,
    disassemble,
    extract,
    read_cubin,
    write_table,
)

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "cuda_resources.csv"
TARGETS = ("sm_80", "sm_90", "sm_100")
# The release of nvcc that the table was made with.
RELEASE = "13.0"
WARPS = 8  # of every block (kThreads in csrc/cuda/device.cuh)
_DTYPES = {"f": ("float32", 4), "NS_8BFloat16E": ("bfloat16", 2), "NS_4HalfE": ("float16", 2)}
_NAME = re.compile(
    r"\d+(?P<kernel>[a-z_]+)_kernelI"
    r"(?:NS0_6LayoutI(?P<dtype>f|NS_8BFloat16E|NS_4HalfE)"
    r"Li(?P<vector>\d+)ELi(?P<warps>\d+)ELi(?P<vectors>\d+)E|(?P<word>t|5uint4)E)"
)


def why_not() -> str | None:
    """None where the kernels can be compiled and read, else the reason."""
    if shutil.which("nvcc") is None:
        return "nvcc is not on the PATH"
    if cuobjdump() is None:
        return "Triton, which brings cuobjdump, is not installed"
    return None


def release() -> str:
    """Of the nvcc on the PATH, as in "13.0"."""
    version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True)
    return re.search(r"release (\d+\.\d+)", version.stdout)[1]


def compile_cubin(target: str, output: Path) -> str:
    """Warnings, spilled registers and local memory are errors; what nvcc said."""
    command = ["nvcc", "-cubin", "-std=c++17", "-O3", "-Werror=all-warnings", f"-arch={target}"]
    command += ["-Xptxas=-warn-spills,-warn-lmem-usage,-Werror"]
    command += [str(ROOT / "csrc" / "cuda" / "kernels.cu"), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def built_cubin(target: str, folder: Path) -> Path | None:
    """That in the package's own library, where it was built for the target and no source has
    changed since: to compile them takes twenty seconds."""
    sources = (path for path in (ROOT / "csrc").rglob("*") if path.is_file())
    changed = max(path.stat().st_mtime for path in sources)
    for library in (ROOT / "albert_act_fast").glob("_cpp_ops*.so"):
        if library.stat().st_mtime > changed:
            extract(library, target, folder)
            return next(folder.glob("*.cubin"), None)
    return None


def measure(target: str) -> tuple[list[Resources], dict[str, str]]:
    """Of every kernel; and the machine code by what the kernel is called there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cubin = built_cubin(target, folder)
        if cubin is None:
            cubin = folder / "kernels.cubin"
            compile_cubin(target, cubin)
        code = disassemble(cubin)
        kernels = read_cubin(cubin, code)
    rows = []
    for name, used in kernels.items():
        kernel, case = _describe(name)
        rows.append(Resources(kernel=kernel, case=case, target=target, warps=WARPS, **used))
    return sorted(rows), code


# Rows that a kernel reads, each of so many vectors a thread as its layout says.
_ROWS_READ = {"halting_step": 3, "add_layer_norm": 2, "embed_tokens": 3}


def waits_between_rows(name: str, code: str) -> str | None:
    """What is wrong where a kernel that sums rows does so before it has begun to load all of them,
    16 bytes at a time: a thread would wait for memory again and again. name: mangled."""
    found = _NAME.search(name)
    if found["kernel"] not in _ROWS_READ or int(found["vector"]) == 1:
        return None
    expected = _ROWS_READ[found["kernel"]] * int(found["vectors"])
    before_sums = re.split(r"\s(?:FADD|FFMA|FMUL)\b", code, maxsplit=1)[0]
    loads = len(re.findall(r"\sLDG\.E\.\S*128", before_sums))
    if loads == expected:
        return None
    return f"{_describe(name)}: {loads} wide loads before the first sum, expected {expected}"


def _describe(mangled: str) -> tuple[str, str]:
    """The kernel's name, and what of it is a template's argument, in words."""
    found = _NAME.search(mangled)
    if found["word"]:
        return found["kernel"], f"{16 if found['word'] == '5uint4' else 2} bytes"
    dtype, size = _DTYPES[found["dtype"]]
    vector, warps, vectors = (int(found[name]) for name in ("vector", "warps", "vectors"))
    case = f"{dtype}, {vector * size} bytes"
    if found["kernel"] != "ragged_attention":
        case += f", to {32 * warps * vectors * vector} columns"
    return found["kernel"], case


def main() -> None:
    rows: list[Resources] = []
    for target in TARGETS:
        print(f"compiling for {target}", file=sys.stderr)
        rows += measure(target)[0]
    write_table(TABLE, rows)


if __name__ == "__main__":
    main()
