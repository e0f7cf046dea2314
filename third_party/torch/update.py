"""Copies the headers of the torch that is installed: .venv/bin/python third_party/torch/update.py

They are those of LibTorch's stable ABI, which stand on nothing else of torch's.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

HERE = Path(__file__).parent
HEADERS = [
    "torch/headeronly/**/*.h",
    "torch/csrc/stable/**/*.h",
    "torch/csrc/inductor/aoti_torch/c/macros.h",
    "torch/csrc/inductor/aoti_torch/c/shim.h",
    "torch/csrc/inductor/aoti_torch/c/shim_deprecated.h",
    "torch/csrc/inductor/aoti_torch/generated/c_shim_aten.h",
]


def installed() -> dict[str, Path]:
    """The licence and the headers of the torch that is installed, by their paths in this folder."""
    torch = importlib.metadata.distribution("torch")
    include = Path(torch.locate_file("torch/include"))
    headers = {path for pattern in HEADERS for path in include.glob(pattern)}
    found = {f"include/{path.relative_to(include).as_posix()}": path for path in sorted(headers)}
    (licence,) = (f for f in torch.files or () if f.match("*.dist-info/licenses/LICENSE"))
    return {"LICENSE": Path(torch.locate_file(licence)), **found}


if __name__ == "__main__":
    shutil.rmtree(HERE / "include", ignore_errors=True)
    for name, path in installed().items():
        (HERE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, HERE / name)
    version = importlib.metadata.version("torch").partition("+")[0]
    (HERE / "VERSION").write_text(f"{version}\n")
