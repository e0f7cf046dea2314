"""Products whose tiles the GPU copies by itself, several for each program."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from support import triton_interpreter
from support.device_loop import layer_and_rows, on_device
from torch.nn import functional as F

from albert_act_fast.kernels import launch_tables
from albert_act_fast.kernels.launch_tables import Products
from albert_act_fast.ops.contracts import implementation_of
from suite.operator_calls import Maker, poisoned
from tests.triton.test_kernels import (
    ACTIVATIONS,
    assert_as_exact_as_pytorch,
    check_project_qkv,
    plain_linear,
)

pytestmark = pytest.mark.usefixtures("interpreted")
DTYPES = (torch.bfloat16, torch.float16)
FEW_ROWS, PROGRAMS = 20, 3


@pytest.fixture(autouse=True)
def small_tiles(request, monkeypatch):
    """As of a GPU of three multiprocessors, with tiles small enough to be interpreted; weights are
    copied at once, or in two blocks, as tests ask for it."""
    tiles = Products(32, getattr(request, "param", 64), 32, FEW_ROWS, 16, 32, 16, 4, 2)
    monkeypatch.setattr(launch_tables, "wide_products", lambda *_: tiles)
    monkeypatch.setattr(launch_tables, "multiprocessors", lambda device: PROGRAMS)


def last_launch() -> tuple[str, tuple[int, ...]]:
    return triton_interpreter.launches[-1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("added", "small_tiles"), [(False, 64), (True, 64), (True, 48)], indirect=["small_tiles"]
)
@pytest.mark.parametrize(
    ("rows", "live", "depth", "columns"),
    # All rows, few of them, fewer than small tiles are for, none; sizes that no tile divides.
    [(97, 97, 64, 130), (140, 65, 72, 96), (140, FEW_ROWS, 40, 72), (33, 0, 32, 64)],
)
def test_linear(dtype, activation, added, rows, live, depth, columns):
    make = Maker(rows + columns, dtype, wide=False)
    x, weight = make.rows(live, depth, rows - live), make.rows(columns, depth, scale=depth**-0.5)
    # Of wider rows, which begin at multiples of 16 bytes.
    x, weight = (F.pad(m, (0, 8), value=float("nan"))[:, :depth] for m in (x, weight))
    bias, out = make.normal(columns), poisoned(rows, columns, dtype=dtype)
    residual = make.rows(live, columns, rows - live) if added else None
    implementation_of("linear", "triton")(
        x, weight, bias, residual, torch.tensor([live]), activation, out
    )
    assert last_launch() == ("wide_linear", (PROGRAMS, 1, 1))
    assert out[live:].isnan().all()
    if not live:
        return
    act = ACTIVATIONS[activation]
    truth = act(F.linear(x[:live].double(), weight.double(), bias.double()))
    plain = act(plain_linear(x[:live], weight, bias))
    if added:
        truth, plain = truth + residual[:live], plain + residual[:live]
    assert_as_exact_as_pytorch(out[:live], truth, plain)


@pytest.mark.parametrize(
    ("dtype", "small_tiles"),
    [(DTYPES[0], 64), (DTYPES[1], 64), (DTYPES[1], 48)],
    indirect=["small_tiles"],
)
@pytest.mark.parametrize(
    ("running", "moved", "beyond"),
    [(97, 97, 0), (70, 97, 6), (5, 90, 30), (0, 90, 6), (0, 0, 40), (9, FEW_ROWS, 40)],
)
def test_project_qkv(dtype, running, moved, beyond):
    check_project_qkv(Maker(running, dtype, wide=False), 72, running, moved, beyond)
    assert last_launch() == ("wide_project_qkv", (PROGRAMS, 1, 1))


@pytest.mark.parametrize("which", ["x", "weight"])
def test_rows_that_cannot_be_copied_are_read_in_the_ordinary_way(which):
    make, dtype = Maker(1, torch.bfloat16, wide=False), torch.bfloat16
    given = {"x": make.rows(40, 32), "weight": make.rows(128, 32)}
    bias = make.normal(128)
    results = []
    for stride in (32, 40, 33):
        matrix = given[which].new_zeros(given[which].size(0), stride)
        matrix[:, :32] = given[which]
        operands = given | {which: matrix[:, :32]}
        out = poisoned(40, 128, dtype=dtype)
        linear = implementation_of("linear", "triton")
        linear(operands["x"], operands["weight"], bias, None, None, "none", out)
        assert last_launch()[0] == ("linear" if stride == 33 else "wide_linear")
        results.append(out)
    assert all(torch.equal(out, results[0]) for out in results[1:])
    shifted = given[which].new_zeros(given[which].numel() + 1)[1:].view_as(given[which])
    linear(*(given | {which: shifted}).values(), bias, None, None, "none", out)
    assert last_launch()[0] == "linear"


@pytest.mark.parametrize("small_tiles", [64, 48], indirect=True)
def test_the_whole_loop():
    lengths = [31, 3, 40, 0, 17]
    overrides = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    layer, hidden, limits = layer_and_rows(
        7, lengths, num_hidden_layers=5, halting_bias=-0.6, **overrides
    )
    layer, hidden = layer.bfloat16(), hidden.bfloat16()
    before = len(triton_interpreter.launches)
    wide = on_device(layer, hidden, lengths, limits)
    names = {name for name, _ in triton_interpreter.launches[before:]}
    assert {"wide_linear", "wide_project_qkv"} < names
    # Every row is multiplied in the same steps, so that nothing may differ but the sums' rounding.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch_tables, "wide_products", lambda *_: None)
        plain = on_device(layer, hidden, lengths, limits)
    assert (wide.n_updates == plain.n_updates).float().mean() > 0.95
    same = wide.n_updates == plain.n_updates
    difference = (wide.hidden - plain.hidden)[same].float()
    assert difference.square().mean().sqrt() < 0.02
