"""The strict interpreter itself: right kernels pass, each kind of wrong one is caught."""

from __future__ import annotations

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")
tl = pytest.importorskip("triton.language")

from support import interpreter_arithmetic  # noqa: E402

from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before  # noqa: E402

pytestmark = pytest.mark.usefixtures("interpreted")


@triton.jit
def add_one(x, out, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < count).to(tl.float32)
    tl.store(out + i, (value + 1.0).to(out.dtype.element_ty), mask=i < count)


@triton.jit
def add_one_past_the_end(x, out, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < count) + 1.0, mask=i <= count)


@triton.jit
def add_one_without_upcast(x, out, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < count) + 1.0, mask=i < count)


@triton.jit
def sum_without_upcast(x, out, count, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out, tl.sum(tl.load(x + i, mask=i < count, other=0.0), 0))


@triton.jit
def sum_of_poison(x, out, count, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out, tl.sum(tl.load(x + i, mask=i < count), 0))


@triton.jit
def overlapping(x, out, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * (BLOCK - 1) + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < count, other=0.0), mask=i < count)


@triton.jit
def reads_its_neighbour(x, out, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + (i + BLOCK) % count, mask=i < count)
    tl.store(x + i, value, mask=i < count)


@triton.jit
def two_values_for_one_place(x, out, count, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i // 2, i.to(tl.float32), mask=i < count)


@triton.jit
def last_one_sums(
    x, out, count, BLOCK: tl.constexpr, ATOMIC: tl.constexpr,
    SCOPE: tl.constexpr = "gpu", BEFORE: tl.constexpr = True, AFTER: tl.constexpr = True,
):  # fmt: skip
    """Each program leaves a value; the last to finish adds them up."""
    program = tl.program_id(0)
    tl.store(x + 1 + program, program.to(tl.float32))
    if BEFORE:
        tl.debug_barrier()
    finished = tl.atomic_add(x, 1.0, sem="acq_rel", scope=SCOPE) + 1.0 if ATOMIC else program + 1.0
    if AFTER:
        tl.debug_barrier()
    if finished == tl.num_programs(0):
        i = tl.arange(0, BLOCK)
        mask = i < tl.num_programs(0)
        tl.store(out, tl.sum(tl.load(x + 1 + i, mask=mask, other=0.0), 0))


@triton.jit
def first_column(x, out, x_stride, weight_stride, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.arange(0, BLOCK)
    if WIDE:
        row = row.to(tl.int64)
    column = tl.arange(0, BLOCK) * weight_stride  # of what is small
    tl.store(out + row, tl.load(x + row * x_stride) + tl.load(x + column))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_right_kernel_passes(dtype):
    x = torch.randn(37).to(dtype)
    out = torch.full_like(x, float("nan"))
    add_one[(5,)](x, out, 37, BLOCK=8)
    assert torch.equal(out, (x.float() + 1).to(dtype))


def test_only_elements_of_a_view_may_be_touched():
    table = torch.zeros(6, 5)
    flat = torch.arange(4.0)
    add_one[(1,)](flat, table[2, :4], 4, BLOCK=8)
    assert table.sum() == 10
    with pytest.raises(Exception, match="store of what is no element of out"):
        add_one[(1,)](torch.arange(10.0), table[:, :4], 10, BLOCK=16)
    with pytest.raises(Exception, match="load of what is no element of x: place 4 of its 4"):
        add_one[(1,)](flat, torch.zeros(8), 8, BLOCK=8)
    # Only the second program leaves `x`, whose 32 bytes are followed by unused ones.
    with pytest.raises(Exception, match="load outside every argument"):
        add_one[(2,)](torch.arange(8.0), torch.zeros(10), 10, BLOCK=8)


WRONG = {
    "past the end": (add_one_past_the_end, "no element of out|outside every argument"),
    "overlap": (overlapping, "race: out"),
    "neighbour": (reads_its_neighbour, "race: x"),
    "two values": (two_values_for_one_place, "two lanes .* store different values to out"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_kernel_is_caught(wrong):
    kernel, message = WRONG[wrong]
    x, out = torch.randn(32), torch.zeros(32)
    with pytest.raises(Exception, match=message):
        kernel[(4,)](x, out[:30], 30, BLOCK=8)


@pytest.mark.parametrize("kernel", [add_one_without_upcast, sum_without_upcast])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_arithmetic_in_16_bits_is_refused(kernel, dtype):
    x = torch.randn(8).to(dtype)
    with pytest.raises(Exception, match="upcast on load"):
        kernel[(1,)](x, torch.zeros(8, dtype=dtype), 8, BLOCK=8)


def test_masked_lanes_are_poison():
    out = torch.zeros(1)
    sum_of_poison[(1,)](torch.ones(8), out, 8, BLOCK=8)
    assert out.item() == 8
    sum_of_poison[(1,)](torch.ones(8), out, 5, BLOCK=8)
    assert out.isnan().all()


def test_an_atomic_orders_what_a_plain_count_does_not():
    for _ in range(5):
        out, x = torch.zeros(1), torch.zeros(9)
        last_one_sums[(8,)](x, out, 0, BLOCK=8, ATOMIC=True)
        assert out.item() == 28
    with pytest.raises(Exception, match="race: x"):
        last_one_sums[(8,)](torch.zeros(9), out, 0, BLOCK=8, ATOMIC=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"SCOPE": "cta"}, 'scope "cta" orders nothing between programs'),
        ({"BEFORE": False}, "no tl.debug_barrier between an access and this atomic operation"),
        ({"AFTER": False}, "no tl.debug_barrier between an atomic operation and this access"),
    ],
)
def test_an_atomic_that_orders_nothing_is_caught(wrong, message):
    with pytest.raises(Exception, match=message):
        last_one_sums[(8,)](torch.zeros(9), torch.zeros(1), 0, BLOCK=8, ATOMIC=True, **wrong)


@triton.jit
def copies_x(x, out, place, PDL: tl.constexpr, EARLY: tl.constexpr):
    if EARLY:
        value = tl.load(x + place)
    wait_for_the_kernel_before(PDL)
    if not EARLY:
        value = tl.load(x + place)
    tl.store(out, value)


@triton.jit
def stores_nothing_early(x, PDL: tl.constexpr):
    tl.store(x, 1.0, mask=False)
    wait_for_the_kernel_before(PDL)


@triton.jit
def copies_weight(weight, out, place, PDL: tl.constexpr):
    value = tl.load(weight + place)
    wait_for_the_kernel_before(PDL)
    tl.store(out, value)


def test_an_access_before_the_wait_is_caught():
    for dependent, early in ((True, False), (False, False), (False, True)):
        out = torch.zeros(1)
        copies_x[(1,)](torch.ones(1), out, 0, PDL=dependent, EARLY=early)
        assert out.item() == 1
    with pytest.raises(Exception, match="load of x before the program has waited"):
        copies_x[(1,)](torch.ones(1), torch.zeros(1), 0, PDL=True, EARLY=True)
    with pytest.raises(Exception, match="store before the program has waited"):
        stores_nothing_early[(1,)](torch.ones(1), PDL=True)
    # But a load of a weight is none.
    copies_weight[(1,)](torch.ones(1), out := torch.zeros(1), 0, PDL=True)
    assert out.item() == 1
    with pytest.raises(Exception, match="what is no element of weight"):
        copies_weight[(1,)](torch.ones(2)[:1], torch.zeros(1), 1, PDL=True)


def test_offsets_of_rows_have_64_bits():
    x, out = torch.arange(24.0).view(8, 3), torch.zeros(8)
    first_column[(1,)](x, out, x_stride=3, weight_stride=1, WIDE=True, BLOCK=8)
    assert torch.equal(out, x[:, 0] + x.flatten()[:8])
    with pytest.raises(Exception, match="a row's offset of 32 bits"):
        first_column[(1,)](x, out, 3, 1, WIDE=False, BLOCK=8)


def test_the_order_of_programs_changes():
    @triton.jit
    def remember(x, out, count, BLOCK: tl.constexpr):
        turn = tl.atomic_add(x, 1.0)
        tl.debug_barrier()
        tl.store(out + tl.program_id(0), turn)

    orders = set()
    for _ in range(4):
        out = torch.zeros(16)
        remember[(16,)](torch.zeros(1), out, 16, BLOCK=8)
        assert sorted(out.tolist()) == list(range(16))
        orders.add(tuple(out.tolist()))
    assert len(orders) > 1


def test_casts_round_to_the_nearest_and_ties_to_even():
    rounding = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3e38, float("inf")])
    values = torch.cat([rounding, torch.randn(1000), torch.tensor([float("nan"), -0.0])])
    bits = interpreter_arithmetic.to_bfloat16(values.numpy())
    expected = values.to(torch.bfloat16)
    given = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    assert torch.equal(given.isnan(), expected.isnan())
    assert torch.equal(given.nan_to_num(7.0), expected.nan_to_num(7.0))
    assert torch.equal(
        torch.from_numpy(interpreter_arithmetic.to_float32(bits)).nan_to_num(7.0),
        expected.float().nan_to_num(7.0),
    )
