"""What the operators' shared tests leave out: wide rows, many blocks, and the order of threads."""

from __future__ import annotations

import pytest
import torch
from support.models import mask_of, random_batch, random_model
from support.operator_parity import DTYPES, apply, check, same_bits

from albert_act_fast.ops.contracts import implementation_of
from suite.operator_calls import MAKERS, Call, Maker

pytestmark = pytest.mark.usefixtures("schedule")
ROWS_OF_A_BLOCK = 8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 256, 264, 1000, 1024, 2048, 4093, 4096])
@pytest.mark.parametrize("name", ["halting_step", "add_layer_norm", "embed_tokens"])
def test_every_width(name, width, dtype):
    call = MAKERS[name](Maker(width, dtype, False), width, [4, 0, 3, 1])
    check(call, apply(call, "cuda"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [96, 128, 256])
def test_wide_heads(dtype, size):
    call = MAKERS["ragged_attention"](Maker(size, dtype, True), size, [41, 2])
    check(call, apply(call, "cuda"))


def many_rows(seed: int, rows: int, **options):
    """Sequences of all lengths, and more of them than a warp looks at at a time."""
    make = Maker(seed, torch.float32, False)
    lengths = [17]
    while sum(lengths) < rows:
        lengths.append(int(make.integers(400, 1)) * int(make.integers(3, 1)))
    return MAKERS["halting_step"](make, 8, lengths, beyond=1000, **options)


def halting_step_in_many_orders(schedule, rows: int, orders: range) -> None:
    """Some 40 % of the tokens are running rows."""
    calls = [
        many_rows(1, rows * 3),
        many_rows(2, rows * 3, last=True),
        many_rows(3, rows * 3, threshold=1.0),
    ]
    live = [int(call.arguments["query_offsets"][-1]) for call in calls]
    assert min(live) >= rows
    assert min(live) > 300 * ROWS_OF_A_BLOCK
    for order in orders:
        schedule(order, 1 + order % 13)
        call = calls[0] if order % 5 else calls[1 + order // 5 % 2]
        check(call, apply(call, "cuda"))


# A hundred orders, half of them among the slow tests.
PARTS = [0, 1, *(pytest.param(part, marks=pytest.mark.slow) for part in (2, 3))]
every_part = pytest.mark.parametrize("part", PARTS)


@every_part
def test_halting_step_in_a_hundred_orders(schedule, part):
    """Of more than 5,000 rows in more than 625 blocks, which look back over 256 at a time."""
    halting_step_in_many_orders(schedule, 5_000, range(25 * part, 25 * (part + 1)))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_halting_step_over_20_000_rows(schedule, part):
    halting_step_in_many_orders(schedule, 20_000, range(25 * part, 25 * (part + 1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MAKERS)
@every_part
def test_every_operator_in_a_hundred_orders(schedule, name, dtype, part):
    call = MAKERS[name](Maker(6, dtype, True), 65, [5, 0, 1, 13, 33, 2])
    exact = name in ("write_kv", "scatter_rows")
    for order in range(25 * part, 25 * (part + 1)):
        schedule(order, 1 + order % 13)
        check(call, apply(call, "cuda"), exact=exact)


def test_no_order_changes_a_bit(schedule):
    call = many_rows(4, 500)
    results = []
    for order in range(3):
        schedule(order, 1 + 3 * order)
        results.append(apply(call, "cuda").arguments)
    for name in call.outputs:
        assert all(same_bits(result[name], results[0][name]) for result in results), name


def test_halting_step_finishes_rows_at_the_threshold(schedule):
    """All p are 0.5; rows that would run on equal the threshold, in many blocks."""
    call = many_rows(5, 600)
    a = call.arguments
    live = int(a["query_offsets"][-1])
    a["halting_weight"].zero_()
    a["halting_bias"].zero_()
    a["threshold"] = 0.75
    a["accumulated_probability"][:live] = torch.where(torch.rand(live) < 0.5, 0.25, 0.5)
    schedule(7, 5)
    # What the last block finishes was given a place among the running rows at first.
    without = tuple(name for name in call.outputs if name != "next_accumulated_probability")
    finished = Call(call.operator, a, without)
    check(finished, apply(call, "cuda"))
    # One row that asks keeps them all.
    a["accumulated_probability"][live // 2] = 0.0
    ran = apply(call, "cuda")
    check(call, ran)
    assert ran.arguments["next_query_offsets"][-1] > live // 4


def test_bad_calls_are_named():
    make = Maker(0, torch.float32, False)
    call = MAKERS["ragged_attention"](make, 257, [3])
    with pytest.raises(Exception, match="a head has 257 columns, expected at most 256"):
        implementation_of("ragged_attention", "cuda")(*call.arguments.values())
    call = MAKERS["add_layer_norm"](make, 4097, [3])
    with pytest.raises(Exception, match="rows have 4097 columns, expected at most 4096"):
        implementation_of("add_layer_norm", "cuda")(*call.arguments.values())
    a = MAKERS["add_layer_norm"](make, 8, [3]).in_float64()
    with pytest.raises(Exception, match="expected float32, bfloat16 or float16 rows"):
        implementation_of("add_layer_norm", "cuda")(*a.values())
    call = MAKERS["halting_step"](make, 8, [3])
    call.arguments["workspace"] = call.arguments["workspace"][1:]
    with pytest.raises(Exception, match=r"halting_step: workspace has shape"):
        implementation_of("halting_step", "cuda")(*call.arguments.values())


@pytest.mark.parametrize("position", ["absolute", "relative_key_query"])
def test_the_model_runs_on_them(schedule, position):
    schedule(3, 4)
    model = random_model(0, position_embedding_type=position)
    batch = random_batch(0, model.config, mask_of([9, 1, 5]))
    with torch.no_grad():
        expected = model(**batch, implementation="reference")
        result = model(**batch, implementation="cuda")
    assert torch.equal(result.n_updates, expected.n_updates)
    assert (result.last_hidden_state - expected.last_hidden_state).abs().max() < 1e-5
