"""What the dispatcher is told of every operator: mutation, fakes, shape errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from albert_act_fast import native, ops
from albert_act_fast.ops.contracts import HALTING_WORKSPACE_HEADER, IMPLEMENTATIONS, NAMESPACE
from suite.operator_calls import MAKERS, Call, Maker

OVERLOADS = [
    (name, implementation)
    for name in ops.OPERATORS
    for implementation in IMPLEMENTATIONS
    if ops.registered(name, implementation, "cpu")
]
every_overload = pytest.mark.parametrize(
    ("name", "implementation"), OVERLOADS, ids=[f"{n}.{i}" for n, i in OVERLOADS]
)


def small_call(name: str, dtype: torch.dtype = torch.float32) -> Call:
    extra = {"heads": 3, "distances": "relative_key_query"} if name == "ragged_attention" else {}
    call = MAKERS[name](Maker(0, dtype, False), 6, [4, 3, 2], **extra)
    for output in call.outputs:
        call.arguments[output].zero_()  # comparing before and after would take NaN for a change
    return call


@every_overload
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_opcheck(name, implementation, dtype):
    torch.library.opcheck(
        ops.implementation_of(name, implementation),
        tuple(small_call(name, dtype).arguments.values()),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


@pytest.mark.parametrize("name", ops.OPERATORS)
def test_all_overloads_share_one_schema(name):
    """Also those that no library implements here."""
    schemas = [ops.implementation_of(name, i)._schema for i in IMPLEMENTATIONS]
    assert {s.name for s in schemas} == {f"{NAMESPACE}::{name}"}
    assert len({str(s).split("(", 1)[1] for s in schemas}) == 1
    written = [a.name for a in schemas[0].arguments if a.alias_info and a.alias_info.is_write]
    call = small_call(name)
    assert tuple(written) == call.outputs
    assert [a.name for a in schemas[0].arguments] == list(call.arguments)


def test_arguments_have_the_schema_s_names_in_its_order():
    for name, arguments in ops.ARGUMENTS.items():
        implementation = "torch" if name in ops.OPERATORS else "triton"
        schema = ops.implementation_of(name, implementation)._schema
        assert arguments._fields == tuple(a.name for a in schema.arguments)


def test_every_operator_is_in_the_table_of_the_documentation():
    root = Path(__file__).parents[2]
    page = (root / "docs" / "operators.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == set(ops.ARGUMENTS)
    for path in re.findall(r"`((?:csrc|kernels|tests|benchmarks|albert_act_fast)/[\w./]+)`", page):
        assert (root / path).exists(), path


@pytest.mark.skipif(native.library is None, reason=str(native.why_no_cpp))
def test_constants_that_c_plus_plus_shares_are_the_same_there():
    assert native.library.HALTING_WORKSPACE_HEADER == HALTING_WORKSPACE_HEADER


@pytest.mark.parametrize("name", ops.OPERATORS)
def test_the_torch_implementation_has_every_operator_on_every_device(name):
    assert ops.registered(name, "torch", "cpu")
    assert ops.registered(name, "torch", "cuda")
    assert not ops.registered(name, "triton", "cpu")


# Tables: any number of rows is right.
TABLES = {"word", "token_type", "position", "distance_embedding"}
SHAPES = [
    (name, argument, dimension)
    for name in ops.OPERATORS
    for argument, value in small_call(name).arguments.items()
    if isinstance(value, torch.Tensor)
    for dimension in range(value.dim())
    if not (dimension == 0 and (argument in TABLES or (name, argument) == ("scatter_rows", "out")))
]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("name", "argument", "dimension"), SHAPES)
def test_a_wrong_shape_is_named(name, argument, dimension, device):
    """By the kernels' check and by the fake alike."""
    call = small_call(name)
    wrong = call.arguments[argument]
    extra = wrong.narrow(dimension, 0, 1)
    call.arguments[argument] = torch.cat([wrong, extra], dimension)
    implementations = ["torch"] if device == "cpu" else IMPLEMENTATIONS
    for implementation in implementations:
        operator = ops.implementation_of(name, implementation)
        with pytest.raises(ValueError, match=rf"^{name}: ") as caught:
            operator(*call.to(device).arguments.values())
        if dimension == 0:
            # It, or another that has to be as long as it.
            named = re.match(rf"{name}: (\w+) has shape", str(caught.value))[1]
            assert named == argument or call.arguments[named].size(0) == wrong.size(0)
        assert "expected" in str(caught.value) or "cannot be divided" in str(caught.value)


def test_heads_must_divide_the_columns():
    call = small_call("ragged_attention")
    call.arguments["heads"] = 4
    with pytest.raises(ValueError, match="6 columns cannot be divided among 4 heads"):
        ops.implementation_of("ragged_attention", "torch")(*call.arguments.values())
