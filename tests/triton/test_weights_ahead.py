"""Few rows' products load their weights before they wait for the kernel before, where the caller
says that it writes none."""

from __future__ import annotations

from collections import Counter
from unittest import mock

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from support import triton_interpreter
from support.compare import run
from support.models import mask_of, random_batch, random_model

from albert_act_fast.kernels import launch_tables
from albert_act_fast.ops import contracts, implementation_of, triton_ops
from suite.operator_calls import Maker, poisoned

pytestmark = pytest.mark.usefixtures("interpreted")
DTYPES = (torch.float16, torch.bfloat16)
# Rows of the launch, live ones, columns and depth of the product.
SHAPES = [(5, 5, 70, 200), (64, 33, 33, 64), (1, 1, 1, 3), (64, 64, 3, 1024), (40, 0, 32, 257)]


def elements_of(weight: torch.Tensor) -> Counter[int]:
    """Of every element the address, once."""
    size = weight.element_size()
    starts = [weight.data_ptr() + i * weight.stride(0) * size for i in range(weight.size(0))]
    return Counter(start + at * size for start in starts for at in range(weight.size(1)))


@pytest.fixture(autouse=True)
def the_same_tile_always(monkeypatch):
    """So that what is loaded ahead is added up as the loop does it, to the bit; `test_kernels`
    compares that with the truth."""
    monkeypatch.setattr(launch_tables, "products", lambda *_: launch_tables.AHEAD_TILE)


def both(name: str, make: Maker, rows: int, live: int, columns: int, depth: int, splits: int):
    """The operator's results with weights that are settled and with such that are not."""
    x, weight = make.rows(live, depth, rows - live), make.rows(columns, depth, scale=depth**-0.5)
    bias, residual = make.normal(columns), make.rows(live, columns, rows - live)
    count, outs = torch.tensor([live]), []
    for settled in (True, False):
        outs.append(poisoned(rows, columns, dtype=make.dtype))
        parts = poisoned(splits, rows, columns, dtype=torch.float32)
        arrived = torch.zeros(launch_tables.split_marks(rows, columns), dtype=torch.int32)
        between = {"linear": ["gelu"], "split_linear": [parts, arrived]}[name]
        given = [x, weight, bias, residual, count, *between, outs[-1], settled]
        implementation_of(name, "triton")(*given)
        if settled:
            ahead = dict(triton_interpreter.loaded_ahead)
    assert not triton_interpreter.loaded_ahead  # by the last one
    return weight, ahead, outs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "splits"), [("linear", 1), ("split_linear", 3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product(dtype, name, splits, shape):
    live = shape[1]
    make = Maker(sum(shape), dtype, wide=True)
    weight, ahead, (ours, plain) = both(name, make, *shape, splits)
    assert ahead == {"weight": elements_of(weight)}
    assert torch.equal(ours[:live], plain[:live])
    assert ours[live:].isnan().all()
    assert plain[live:].isnan().all()


@pytest.mark.parametrize(("running", "moved"), [(9, 9), (3, 64), (0, 20), (0, 0)])
def test_project_qkv(running, moved):
    rows, width = 64, 72
    make = Maker(moved, torch.bfloat16, wide=True)
    hidden = make.rows(moved, width, rows - moved)
    weights = [make.rows(width, width, scale=0.1) for _ in range(3)]
    biases = [make.normal(width) for _ in range(3)]
    given = [hidden, weights, biases, torch.randperm(rows)]
    given += [torch.tensor([running]), torch.tensor([moved])]
    results = []
    for settled in (True, False):
        outs = [torch.full((rows, width), 7.0, dtype=make.dtype) for _ in range(3)]
        implementation_of("project_qkv", "triton")(*given, *outs, settled)
        results.append(torch.stack(outs))
        if settled:
            names = ("query_weight", "key_weight", "value_weight")
            expected = {name: elements_of(w) for name, w in zip(names, weights, strict=True)}
            assert triton_interpreter.loaded_ahead == expected
    assert not triton_interpreter.loaded_ahead
    assert torch.equal(*results)


def test_the_iterations_say_that_weights_are_settled(monkeypatch):
    """What stands before them does not: it may have been preceded by anything."""
    said, choose = [], triton_ops._steps_ahead_and_tile

    def chosen(a, *more):
        said.append((type(a).__name__, a.weights_settled))
        return choose(a, *more)

    monkeypatch.setattr(triton_ops, "_steps_ahead_and_tile", chosen)
    model = random_model(3, num_hidden_layers=3, intermediate_size=1600).bfloat16()
    run(model, "triton", **random_batch(3, model.config, mask_of([6, 11])))
    before, *iterations = said
    assert before == ("linear", False)
    names = ["project_qkv", "linear", "linear", "split_linear"]
    assert iterations == 3 * [(name, True) for name in names]


def test_where_they_are_not_loaded_ahead():
    """More rows than one tile, a depth that does not fit, 32 bits, or other GPUs."""
    steps = launch_tables.steps_ahead
    assert [steps("sm_90", 64, depth, 2) for depth in (1, 768, 1024, 1025)] == [1, 3, 4, 0]
    assert [steps("sm_90", 64, 3072, 2, splits) for splits in (1, 3, 4)] == [0, 4, 3]
    assert steps("sm_90", 65, 768, 2) == steps("sm_90", 64, 768, 4) == 0
    with mock.patch.object(launch_tables, "multiplies_where_it_lies", return_value=False):
        assert steps("sm_80", 64, 768, 2) == 0
    # By default nothing is known of the weights.
    for name in ("linear", "split_linear", "project_qkv"):
        assert contracts.ARGUMENTS[name]._field_defaults == {"weights_settled": False}
