"""What importing the package touches: itself, transformers, what reads tokenizers, no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# sitecustomize and .pth files of this environment have run by then; connecting anywhere raises.
WATCH = """
import sys
opened = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        opened.append((event, args[1:]))
        raise OSError(f"{event}: importing the package opens no connection")
sys.addaudithook(watch)
"""
# Beyond what `import transformers.models.albert.modeling_albert` has imported (of torch: more).
MAY_IMPORT = {"albert_act_fast", "transformers", "tokenizers", "sentencepiece", "torch"}
# Of these what costs time, and only some users need: loaded when it is first used.
LATER = {
    *(f"albert_act_fast.{name}" for name in ("cli", "glue", "kernels", "text")),
    *(f"torch.{name}" for name in ("_dynamo", "_inductor", "onnx", "utils.cpp_extension")),
    *(f"transformers.{name}" for name in ("generation", "pipelines", "trainer")),
}
# Nobody's, not even transformers' ALBERT's.
NEVER = {"flax", "jax", "keras", "tensorflow"}


def run(code: str, cwd: Path, env: dict[str, str] | None = None) -> tuple[str, str]:
    """What code prints to standard output and to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


def test_import_prints_nothing_and_asks_nobody(tmp_path: Path) -> None:
    code = (
        "from albert_act_fast import AlbertActConfig, AlbertActModel\nassert not opened, opened\n"
    )
    assert run(WATCH + code, tmp_path) == ("", "")


def test_import_is_light(tmp_path: Path) -> None:
    """Beside transformers' own ALBERT; what that pulls in is not ours to avoid. How long it takes
    stands in docs/packaging.md: what decides that is what is loaded."""
    code = (
        "import sys\n"
        "import transformers.models.albert.modeling_albert\n"
        "before = set(sys.modules)\n"
        "from albert_act_fast import AlbertActConfig, AlbertActModel\n"
        "print(*set(sys.modules) - before)\n"
        "print(*before)\n"
        "import torch\n"
        "assert not torch.cuda.is_initialized(), 'CUDA was initialised'\n"
    )
    new, before = (set(line.split()) for line in run(code, tmp_path)[0].splitlines())
    packages = {name.partition(".")[0] for name in new} - set(sys.stdlib_module_names)
    assert "albert_act_fast" in packages
    assert packages <= MAY_IMPORT
    assert new & LATER == set()
    assert (new | before) & NEVER == set()


def test_import_works_without_compiler_and_triton(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in {"CC", "CXX"}}
    env["PATH"] = str(tmp_path)
    code = (
        "import sys\n"
        "sys.modules['triton'] = None  # makes `import triton` fail\n"
        "from albert_act_fast import AlbertActConfig, AlbertActModel\n"
        "config = AlbertActConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8,\n"
        "                         embedding_size=4, num_hidden_layers=2, vocab_size=10)\n"
        "import torch\n"
        "with torch.no_grad():\n"
        "    out = AlbertActModel(config).eval()(torch.tensor([[2, 5, 3]]))\n"
        "print(tuple(out.last_hidden_state.shape))\n"
    )
    out, _ = run(code, tmp_path, env)
    assert out == "(1, 3, 8)"
