"""One build of the C++ operators under every Python that is here, with or without torch for it.

torch's Python packages are for one Python each; its own library is not, nor is ours.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import pythons

from albert_act_fast import native
from albert_act_fast.engine.layer import LayerWeights
from albert_act_fast.engine.native_engine import PAIRS, NativeEngine
from albert_act_fast.ops.contracts import ENGINE_SCHEMAS

pytestmark = [
    pytest.mark.skipif(native.why_no_cpp is not None, reason=str(native.why_no_cpp)),
    pytest.mark.skipif(sys.platform != "linux", reason="torch's library has another name here"),
]
CHECK = Path(__file__).parent / "check_library.py"
PYTHONS = pythons.found()


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_library", CHECK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def computed(check) -> tuple[list[int], torch.Tensor]:
    """What the script computes, by the engine's Python class."""

    def pair(name: str, i: int):
        rows = check.PAIRS[name]
        shape = (rows, check.WIDTH) if rows else (check.WIDTH,)
        weight = torch.tensor(check.numbers((rows or 1) * check.WIDTH, 7 * i)).view(shape)
        bias = [-1.0] if name == "halting" else check.numbers(rows or check.WIDTH, 11 * i)
        return weight, torch.tensor(bias)

    pairs = {name: pair(name, i) for i, name in enumerate(PAIRS)}
    weights = LayerWeights(**pairs, distance_embedding=None, key_distances=False, heads=check.HEADS,
                           activation="gelu", attention_eps=1e-12, output_eps=1e-12)  # fmt: skip
    hidden = torch.tensor(check.numbers(check.TOKENS * check.WIDTH, 3)).view(check.TOKENS, -1)
    out = torch.empty_like(hidden)
    rows = NativeEngine(weights, int8=False, onednn=False).run(
        hidden=hidden,
        offsets=torch.tensor([0, check.TOKENS]),
        positions=torch.arange(check.TOKENS),
        threshold=0.99,
        max_iterations=6,
        out=out,
        n_updates=torch.empty(check.TOKENS),
        remainders=torch.empty(check.TOKENS),
    )
    return rows, out.flatten()


def test_it_is_built_for_the_stable_abi():
    assert Path(native.library.__file__).name == "_cpp_ops.abi3.so"


@pytest.mark.parametrize("version", PYTHONS)
def test_one_build_runs_under_every_python(version, check):
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    command = [PYTHONS[version], CHECK, native.library.__file__, path, json.dumps(ENGINE_SCHEMAS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert ".".join(map(str, found["python"])) == version
    assert found["build_info"] == native.build_info()
    rows, out = computed(check)
    assert found["rows"] == rows
    assert torch.equal(torch.tensor(found["out"]), out)
    assert found["interrupted"]
