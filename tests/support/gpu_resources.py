"""What a kernel takes of a GPU, read from its machine code; and tables of it that are committed."""

from __future__ import annotations

import csv
import importlib.util
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, order=True)
class Resources:
    """One kernel on one target. registers: per thread; spilled: bytes per thread (registers on
    gfx942); shared: bytes per program or block; wide, narrow: loads and stores of global memory of
    128 bits and of fewer, in the machine code; matrix: tensor core instructions."""

    kernel: str
    case: str
    target: str
    warps: int
    registers: int
    spilled: int
    shared: int
    wide: int
    narrow: int
    matrix: int


def cuobjdump() -> Path | None:
    """NVIDIA's tool, which comes with Triton; None where Triton is not installed."""
    triton = importlib.util.find_spec("triton")
    if triton is None:
        return None
    return Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def _dump(option: str, path: str | Path) -> str:
    command = [cuobjdump(), option, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def extract(library: Path, target: str, folder: Path) -> None:
    """Writes the library's cubins for the target into the folder; it may have none."""
    command = [cuobjdump(), "--extract-elf", f".{target}.cubin", library]
    subprocess.run(command, cwd=folder, capture_output=True)


def disassemble(path: str | Path) -> dict[str, str]:
    """The machine code of every kernel of a cubin, by its (mangled) name."""
    _, *functions = re.split(r"Function : (\S+)\n", _dump("-sass", path))
    return dict(zip(functions[::2], functions[1::2], strict=True))


def read_cubin(path: str | Path, code: dict[str, str]) -> dict[str, dict[str, int]]:
    """Resources of every kernel by its (mangled) name; `shared` is what is statically known."""
    kernels, usage = {}, _dump("-res-usage", path)
    for name, line in re.findall(r"Function (\S+):\n(.*)", usage):
        used = {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", line)}
        kernels[name] = {
            "registers": used["REG"],
            "spilled": max(used["STACK"], used["LOCAL"]),
            "shared": used["SHARED"],
        }
    for name, text in code.items():
        kernels[name] |= {
            "wide": len(re.findall(r"\s(?:LDG|STG|LDGSTS)\.E\.\S*128", text)),
            "narrow": len(re.findall(r"\s(?:LDG|STG|LDGSTS)\.E(?!\S*128)", text)),
            "matrix": len(re.findall(r"\s\S*[A-Z]MMA", text)),
        }
    return kernels


def read_table(path: Path) -> list[Resources]:
    numbers = {f.name for f in fields(Resources)} - {"kernel", "case", "target"}
    with path.open(newline="") as file:
        return [
            Resources(**{k: int(v) if k in numbers else v for k, v in row.items()})
            for row in csv.DictReader(file)
        ]


def write_table(path: Path, rows: Iterable[Resources]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(f.name for f in fields(Resources))
        for row in rows:
            writer.writerow(getattr(row, f.name) for f in fields(Resources))


def worse(table: list[Resources], measured: list[Resources], exactly: bool) -> list[str]:
    """Where kernels spill at all, or, asked `exactly`, are not as the table says."""
    known = {(row.kernel, row.case): row for row in table}
    problems = []
    for row in measured:
        allowed = known.get((row.kernel, row.case))
        if allowed is None:
            problems.append(f"{row.kernel}, {row.case}: not in the table (make resources)")
        elif row.spilled > 0:
            problems.append(f"{row.kernel}, {row.case}: spills {row.spilled} bytes")
        elif exactly and row not in table:
            problems.append(f"{row.kernel}, {row.case}: {row}, in the table {allowed}")
    return problems
