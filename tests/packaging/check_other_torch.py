"""Whether the native library of this installation loads, unchanged, in another build of torch.

    python tests/packaging/check_other_torch.py "torch==2.14.1"      # a CUDA build: gigabytes

Not a test: it downloads that torch into an environment of its own, which it removes again. It runs
the parity tests of the C++ operators there, and on a GPU, if there is one, those of the CUDA
operators.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOADS = """
import torch
from albert_act_fast import native
from albert_act_fast.ops.contracts import OPERATORS, registered
print("torch", torch.__version__, "CUDA", torch.version.cuda, native.build_info())
assert native.library is not None, native.why_no_cpp
assert all(registered(name, "cpp", "cpu") for name in OPERATORS)
assert native.why_no_cuda() is None, native.why_no_cuda()
assert all(registered(name, "cuda", "cuda") for name in OPERATORS)
"""


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"

        def run(*command: str) -> None:
            print("+", *command, file=sys.stderr)
            subprocess.run([str(python), *command], cwd=ROOT, check=True)

        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        run("-m", "pip", "install", sys.argv[1], "hypothesis", "pytest")
        # The dependencies, but of torch what is there already; the package itself is this tree,
        # library and all, under the name and version it is installed with here.
        run("-m", "pip", "install", "transformers>=5.17,<6", "sentencepiece", "protobuf", "typer")
        (site,) = (Path(folder) / "lib").glob("python*/site-packages")
        (site / "albert_act_fast_tree.pth").write_text(f"{ROOT}\n")
        (installed,) = Path(sysconfig.get_path("purelib")).glob("albert_act_fast-*.dist-info")
        shutil.copytree(installed, site / installed.name)
        run("-c", LOADS)
        run("-m", "pytest", "-q", "-k", "cpp or .cuda-cuda", "tests/ops/test_operators.py")


if __name__ == "__main__":
    main()
