"""What the operators' shared tests leave out: the products, and many blocks and sequences."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

import triton.language as tl
from support import triton_interpreter
from support.operator_parity import DTYPES, apply, check
from torch.nn import functional as F

from albert_act_fast import ops
from albert_act_fast.kernels import halting_step, launch_tables
from albert_act_fast.ops import triton_ops
from albert_act_fast.ops.contracts import ARGUMENTS, implementation_of
from suite.operator_calls import MAKERS, Maker, poisoned

pytestmark = pytest.mark.usefixtures("interpreted")
ACTIVATIONS = {
    "none": lambda x: x,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def assert_as_exact_as_pytorch(given, truth, plain) -> None:
    """At most twice plain PyTorch's error in the same dtype against float64, plus one rounding."""
    floor = torch.finfo(given.dtype).eps * truth.abs().max()
    allowed = 2 * (plain.double() - truth).abs().max() + floor
    assert (given.double() - truth).abs().max() <= allowed


def plain_linear(x, weight, bias):
    """PyTorch's, of rows with nothing but zeros behind them: on a processor with AMX its bfloat16
    products multiply what follows a row by 0, and NaN times 0 is NaN."""
    return F.linear(F.pad(x, (0, 0, 0, 1)), weight.contiguous(), bias)[:-1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    ("rows", "live", "depth", "columns"),
    # The last two have fewer live rows than tiles for the launch's size are made for.
    [(70, 67, 48, 33), (5, 1, 5, 96), (140, 129, 77, 130), (140, 64, 9, 70), (600, 70, 20, 150)],
)
def test_linear(dtype, activation, added, rows, live, depth, columns):
    make = Maker(rows + columns, dtype, wide=True)
    x, weight = make.rows(live, depth, rows - live), make.rows(columns, depth, scale=depth**-0.5)
    bias, out = make.normal(columns), poisoned(rows, columns, dtype=dtype)
    residual = make.rows(live, columns, rows - live) if added else None
    count = torch.tensor([live])
    implementation_of("linear", "triton")(x, weight, bias, residual, count, activation, out)
    act = ACTIVATIONS[activation]
    truth = act(F.linear(x[:live].double(), weight.double(), bias.double()))
    plain = act(plain_linear(x[:live], weight, bias))
    if added:
        residual = residual[:live]
        truth, plain = truth + residual, plain + residual
    assert_as_exact_as_pytorch(out[:live], truth, plain)
    assert out[live:].isnan().all()
    whole = poisoned(live, columns, dtype=dtype)
    implementation_of("linear", "triton")(x[:live], weight, bias, residual, None, activation, whole)
    assert torch.equal(whole, out[:live])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    ("rows", "live", "depth", "columns", "splits"),
    # A part without a column of its own, fewer live rows than the launch's tiles are for, none.
    [(70, 67, 300, 33, 4), (5, 1, 5, 96, 2), (140, 64, 513, 70, 3), (40, 0, 20, 9, 2)],
)
def test_split_linear(dtype, added, rows, live, depth, columns, splits):
    make = Maker(rows + columns, dtype, wide=True)
    x, weight = make.rows(live, depth, rows - live), make.rows(columns, depth, scale=depth**-0.5)
    bias, residual = make.normal(columns), make.rows(live, columns, rows - live) if added else None
    parts = poisoned(splits, rows, columns, dtype=torch.float32)
    arrived = torch.zeros(launch_tables.split_marks(rows, columns), dtype=torch.int32)
    results = []
    for _ in range(3):  # programs finish in another order each time
        out = poisoned(rows, columns, dtype=dtype)
        implementation_of("split_linear", "triton")(
            x, weight, bias, residual, torch.tensor([live]), parts, arrived, out
        )
        assert not arrived.any()
        results.append(out)
    assert all(torch.equal(out[:live], results[0][:live]) for out in results)
    assert results[0][live:].isnan().all()
    truth = F.linear(x[:live].double(), weight.double(), bias.double())
    plain = plain_linear(x[:live], weight, bias)
    if added:
        truth, plain = truth + residual[:live], plain + residual[:live]
    if live:
        assert_as_exact_as_pytorch(results[0][:live], truth, plain)


def test_products_are_split_where_they_are_deep_and_rows_few():
    sizes = (16, 64, 128, 1024, 1025, 2048, 2049, 4096, 4097)

    def splits(arch, depth, element_size=2):
        # In the interpreter all of them load weights ahead.
        ahead = "multiplies_where_it_lies"
        with mock.patch.object(launch_tables, ahead, lambda arch: arch == "sm_90"):
            return [launch_tables.splits(arch, n, depth, 768, element_size, 132) for n in sizes]

    assert splits("sm_80", 3072) == [2, 2, 4, 4, 4, 4, 2, 2, 1]
    assert splits("sm_80", 768) == [1, 1, 2, 2, 1, 1, 1, 1, 1]
    # Where weights are loaded ahead, parts are no deeper than fits; where tiles are copied depth is
    # not split.
    assert splits("sm_90", 3072) == [4, 4, 4, 4, 4, 4, 2, 1, 1]
    assert set(splits("sm_90", 3072, element_size=4)) == {1}
    arrived, rows = torch.zeros(3, dtype=torch.int32), torch.zeros(17, 4)
    with pytest.raises(ValueError, match="arrived has 3 entries, expected at least 4"):
        implementation_of("split_linear", "triton")(
            rows, torch.zeros(40, 4), torch.zeros(40), None, None, torch.zeros(2, 17, 40), arrived,
            torch.zeros(17, 40),
        )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("running", "moved", "beyond"),
    [
        (3, 9, 6),
        (9, 9, 6),
        (0, 9, 6),
        (0, 0, 6),
        (70, 97, 6),
        (50, 64, 30),
        (5, 90, 6),
        (0, 20, 90),
        (5, 70, 470),
    ],
)
def test_project_qkv(dtype, running, moved, beyond):
    check_project_qkv(Maker(running, dtype, wide=True), 65, running, moved, beyond)


def check_project_qkv(make: Maker, width: int, running: int, moved: int, beyond: int) -> None:
    """Of the rows that moved the first `running` run; `beyond` more are in the buffers."""
    tokens = moved + 5
    hidden = make.rows(moved, width, beyond)
    weights = [make.rows(width, width, scale=width**-0.5) for _ in range(3)]
    biases = [make.normal(width) for _ in range(3)]
    index = torch.randperm(tokens, generator=make.generator)[:moved]
    token_index = torch.cat([index, torch.full((beyond,), 2**40)])
    queries = poisoned(moved + beyond, width, dtype=make.dtype)
    stores = [poisoned(tokens, width, dtype=make.dtype) for _ in range(2)]
    implementation_of("project_qkv", "triton")(
        hidden, weights, biases, token_index, torch.tensor([running]), torch.tensor([moved]),
        queries, *stores,
    )  # fmt: skip
    written = moved if running else 0
    for out, rows, count, weight, bias in zip(
        (queries, *stores),
        (torch.arange(running), index[:written], index[:written]),
        (running, written, written),
        weights,
        biases,
        strict=True,
    ):
        x = hidden[:count]
        truth = F.linear(x.double(), weight.double(), bias.double())
        if count:
            assert_as_exact_as_pytorch(out[rows], truth, plain_linear(x, weight, bias))
        untouched = torch.ones(out.size(0), dtype=torch.bool)
        untouched[rows] = False
        assert out[untouched].isnan().all()


def test_few_live_rows_take_small_tiles():
    """In a launch large enough that there are two kinds, and enough programs for both."""
    for arch in ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942"):
        for rows in (16, 64, 65, 512, 513, 8192):
            tiles = launch_tables.products(arch, rows, 2)
            assert rows > tiles.FEW_ROWS
            assert (tiles.FEW_ROWS > 0) == (rows > 64)
            if not tiles.FEW_ROWS:
                continue
            assert tiles.FEW_M * tiles.FEW_N < tiles.BLOCK_M * tiles.BLOCK_N
            for columns in (768, 3072):
                for live in (tiles.FEW_ROWS, rows):
                    m, n = (
                        (tiles.BLOCK_M, tiles.BLOCK_N)
                        if live > tiles.FEW_ROWS
                        else (tiles.FEW_M, tiles.FEW_N)
                    )
                    assert tiles.programs(rows, columns) >= -(-live // m) * -(-columns // n)


@pytest.mark.parametrize("name", ["linear", "project_qkv"])
def test_what_the_dispatcher_is_told(name):
    make, rows, width = Maker(0, torch.float32, False), 5, 6
    count = torch.tensor([rows])
    weight = [make.rows(width, width) for _ in range(3)]
    bias = [make.normal(width) for _ in range(3)]
    out = [torch.zeros(rows, width) for _ in range(3)]
    hidden = make.rows(rows, width)
    arguments = {
        "linear": (hidden, weight[0], bias[0], hidden, count, "gelu", out[0]),
        "project_qkv": (hidden, weight, bias, torch.arange(rows), count, count, *out),
    }[name]
    operator = implementation_of(name, "triton")
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
    with pytest.raises(ValueError, match=rf"^{name}: .* has shape"):
        operator(hidden[:, :5], *arguments[1:])


def test_bad_calls_are_named():
    make = Maker(0, torch.float32, False)
    x, weight, bias, out = make.rows(3, 4), make.rows(4, 4), make.normal(4), torch.zeros(3, 4)
    linear = implementation_of("linear", "triton")
    with pytest.raises(ValueError, match=r"linear: activation is 'tanh', expected one of none"):
        linear(x, weight, bias, None, None, "tanh", out)
    with pytest.raises(ValueError, match=r"linear: x is torch.float64, expected one of"):
        linear(x.double(), weight.double(), bias.double(), None, None, "none", out.double())
    with pytest.raises(ValueError, match=r"linear: weight has column stride 4, expected 1"):
        linear(x, weight.t(), bias, None, None, "none", out)
    # Not one that exists: on the meta device, by the launcher itself.
    large = torch.empty(2**20, 2**11, device="meta")
    rows, bias = torch.empty(1, 2**11, device="meta"), torch.empty(2**20, device="meta")
    arguments = ARGUMENTS["linear"](rows, large, bias, None, None, "none", bias[None])
    with pytest.raises(ValueError, match="weight spans 2147483648 elements, expected fewer than"):
        triton_ops.linear(arguments)
    call = MAKERS["ragged_attention"](make, 257, [3])
    with pytest.raises(ValueError, match="a head has 257 columns, expected at most 256"):
        implementation_of("ragged_attention", "triton")(*call.arguments.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [128, 192, 256])
def test_wide_heads(dtype, size):
    call = MAKERS["ragged_attention"](Maker(size, dtype, True), size, [21, 2])
    check(call, apply(call, "triton"))


@pytest.mark.parametrize(("threshold", "last"), [(0.99, False), (1.0, False), (0.99, True)])
def test_halting_step_over_many_blocks_and_sequences(threshold, last, monkeypatch):
    """More blocks, groups of them, and offsets than a program looks at at a time."""
    monkeypatch.setattr(halting_step, "CHUNK", tl.constexpr(16))
    monkeypatch.setattr(halting_step, "GROUP", tl.constexpr(4))
    make = Maker(7, torch.float32, False)
    lengths = torch.randint(0, 60, (200,), generator=make.generator).tolist()
    call = MAKERS["halting_step"](make, 7, lengths, threshold=threshold, last=last, beyond=300)
    check(call, apply(call, "triton"))
    name, grid = triton_interpreter.launches[-1]
    assert name == "move"
    assert grid[0] > 3 * 16
    assert len(lengths) > 3 * halting_step.OFFSETS.value
    # A probability for each row, and of the counts its group's and one for each other group.
    rows = sum(lengths)
    blocks = -(-rows // 32)
    assert triton_interpreter.loaded["workspace"] <= rows + blocks * (4 + -(-blocks // 4))
    assert blocks * (4 + -(-blocks // 4)) < blocks * blocks / 3


@pytest.mark.parametrize("seed", range(3))
def test_each_offset_is_found_by_the_block_that_has_it(seed, monkeypatch):
    """With sequences of no token, one, and many blocks; offsets few at a time."""
    monkeypatch.setattr(halting_step, "OFFSETS", tl.constexpr(4))
    make = Maker(seed, torch.float32, False)
    lengths = torch.randint(0, 3, (150,), generator=make.generator).tolist()
    lengths[70], lengths[0], lengths[-1] = 130, 0, 0
    call = MAKERS["halting_step"](make, 7, lengths, beyond=5)
    check(call, apply(call, "triton"))
    blocks, steps = -(-sum(lengths) // 32), 4  # 4 ** 4 is more than 151
    found = triton_interpreter.loaded["query_offsets"]
    # The last offset, the search's probes, then what the block has and up to 4 beyond.
    assert found <= blocks * (1 + 4 * steps + 2 * 4) + len(lengths)
    assert found < blocks * len(lengths) / 2


def test_the_fields_of_a_block_s_count_hold_the_most_there_can_be():
    most, group = 32, halting_step.GROUP.value
    assert max(launch_tables.rows(width).ROWS for width in range(1, 8193)) == most
    assert most < halting_step.GROUP_ROWS.value
    rows_of_group = group * most * halting_step.GROUP_ROWS.value
    assert most + rows_of_group < halting_step.GROUP_ASKS.value
    assert most + rows_of_group + group * halting_step.GROUP_ASKS.value < 2**31


def test_halting_step_takes_two_launches():
    call = MAKERS["halting_step"](Maker(1, torch.float32, False), 7, [4, 2])
    before = len(triton_interpreter.launches)
    ops.implementation_of("halting_step", "triton")(*call.arguments.values())
    assert [name for name, _ in triton_interpreter.launches[before:]] == ["decide", "move"]
