"""Few rows' products fetch their weights into the cache before they wait for the kernel before."""

from __future__ import annotations

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")
tl = pytest.importorskip("triton.language")

from support import triton_interpreter  # noqa: E402

from albert_act_fast.kernels import launch_tables  # noqa: E402
from albert_act_fast.kernels.dependent_launch import prefetch, wait_for_the_kernel_before  # noqa: E402
from albert_act_fast.ops import implementation_of  # noqa: E402
from suite.operator_calls import Maker, poisoned  # noqa: E402

pytestmark = pytest.mark.usefixtures("interpreted")
DTYPES = (torch.float32, torch.bfloat16)


def lines_of(weight: torch.Tensor) -> set[int]:
    """Where every row begins, and every 128 bytes of it on."""
    size = weight.element_size()
    starts = [weight.data_ptr() + i * weight.stride(0) * size for i in range(weight.size(0))]
    return {start + at for start in starts for at in range(0, weight.size(1) * size, 128)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("splits", [None, 3])
@pytest.mark.parametrize(
    ("rows", "columns", "depth"), [(5, 70, 200), (64, 33, 64), (1, 1, 3), (64, 2, 5000)]
)
def test_linear(dtype, splits, rows, columns, depth):
    make = Maker(rows, dtype, wide=True)  # of weights with gaps between their rows
    x, weight = make.rows(rows, depth), make.rows(columns, depth)
    given, out = [x, weight, make.normal(columns), None, None], poisoned(rows, columns, dtype=dtype)
    if splits is None:
        implementation_of("linear", "triton")(*given, "none", out)
    else:
        parts = poisoned(splits, rows, columns, dtype=torch.float32)
        arrived = torch.zeros(launch_tables.split_marks(rows, columns), dtype=torch.int32)
        implementation_of("split_linear", "triton")(*given, parts, arrived, out)
    assert dict(triton_interpreter.fetched) == {"weight": lines_of(weight)}


@pytest.mark.parametrize("rows", [9, 64, 65])
def test_project_qkv(rows):
    make, width = Maker(rows, torch.bfloat16, wide=True), 72
    weights = [make.rows(width, width) for _ in range(3)]
    outputs = [poisoned(rows, width, dtype=make.dtype) for _ in range(3)]
    count = torch.tensor([rows])
    implementation_of("project_qkv", "triton")(
        make.rows(rows, width), weights, [make.normal(width)] * 3, torch.arange(rows), count, count,
        *outputs,
    )  # fmt: skip
    names = ("query_weight", "key_weight", "value_weight")
    expected = {name: lines_of(weight) for name, weight in zip(names, weights, strict=True)}
    assert dict(triton_interpreter.fetched) == (expected if rows <= 64 else {})


@triton.jit
def fetches(x, out, count, PDL: tl.constexpr, LATE: tl.constexpr):
    i = tl.arange(0, 16)
    if not LATE:
        prefetch(x + i, i < count)
    wait_for_the_kernel_before(PDL)
    if LATE:
        prefetch(x + i, i < count)
    tl.store(out + i, tl.load(x + i, mask=i < 8, other=0.0), mask=i < 8)


def test_a_fetch_is_checked():
    x = torch.randn(8)
    fetches[(1,)](x, out := torch.empty(8), 8, PDL=True, LATE=False)
    assert torch.equal(out, x)
    with pytest.raises(triton.runtime.errors.InterpreterError, match="fetch of what is no element"):
        fetches[(1,)](torch.randn(16)[:8], out, 9, PDL=True, LATE=False)
    with pytest.raises(triton.runtime.errors.InterpreterError, match="a fetch after the program"):
        fetches[(1,)](x, out, 8, PDL=True, LATE=True)
