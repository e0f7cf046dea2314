"""The native operators refuse what would make them read or write outside what they were given."""

from __future__ import annotations

import re

import pytest
import torch
from support.operator_parity import check, copied

from albert_act_fast import ops
from suite.operator_calls import MAKERS, Call, Maker

NATIVE = [i for i in ("cpp", "cuda") if ops.registered("halting_step", i, "cpu")]
pytestmark = pytest.mark.skipif(not NATIVE, reason="no native operator runs on this CPU")
LENGTHS = [3, 0, 5]


def set_to(name: str, place: int, value: int):
    def change(a):
        a[name][place] = value

    return change


def replaced(name: str, value):
    def change(a):
        a[name] = value(a[name]) if callable(value) else value

    return change


def without_memory(name: str):
    return lambda a: a[name].untyped_storage().resize_(0)


def no_keys(a):
    a["query_offsets"][:] = torch.tensor([0, 1, 2, 2])


# What no host of a GPU may look at: only `cpp` can.
VALUES = {
    "embed_tokens": [
        (set_to("token_ids", 1, 29), r"token_ids\[1\] is 29, expected 0 to 28"),
        (set_to("token_ids", 0, -1), r"token_ids\[0\] is -1, expected 0 to 28"),
        (set_to("token_type_ids", 2, 2), r"token_type_ids\[2\] is 2, expected 0 to 1"),
        (set_to("position_ids", 0, 40), r"position_ids\[0\] is 40, expected 0 to 39"),
        (set_to("row_count", 0, 13), r"row_count\[0\] is 13, expected 0 to 12"),
    ],
    "write_kv": [
        (set_to("token_index", 0, 8), r"token_index\[0\] is 8, expected 0 to 7"),
        (set_to("row_count", 0, -1), r"row_count\[0\] is -1"),
    ],
    "scatter_rows": [(set_to("row_index", 0, -1), r"row_index\[0\] is -1, expected 0 to 7")],
    "add_layer_norm": [(set_to("row_count", 0, 99), r"row_count\[0\] is 99, expected 0 to 12")],
    "ragged_attention": [
        (set_to("query_offsets", 0, 1), r"query_offsets\[0\] is 1, expected 0"),
        (set_to("query_offsets", 1, 99), "query_offsets must not fall"),
        (set_to("query_offsets", 3, 99), "query_offsets ends at 99, expected at most"),
        (set_to("key_offsets", 3, 9), "key_offsets ends at 9, expected at most 8 rows"),
        (set_to("token_index", 0, 8), r"token_index\[0\] is 8, expected 0 to 7"),
        (set_to("positions", 0, 10), r"positions\[0\] is 10, expected 0 to 9"),
        (set_to("positions", 7, -1), r"positions\[7\] is -1, expected 0 to 9"),
        (no_keys, "sequence 1 has queries, but no keys"),
    ],
    "halting_step": [
        (set_to("query_offsets", 0, -1), r"query_offsets\[0\] is -1, expected 0"),
        (set_to("query_offsets", 3, 99), "query_offsets ends at 99"),
        (set_to("token_index", 0, 8), r"token_index\[0\] is 8, expected 0 to 7"),
    ],
}
FORMS = {
    "embed_tokens": [
        (replaced("word", lambda x: x[0]), r"word has shape \(48,\), expected a matrix"),
        (replaced("token_ids", lambda x: x[None]), r"token_ids has shape \(1, 12\), expected a v"),
        (replaced("position", lambda x: x[:, 1:]), r"position has shape \(40, 47\)"),
        (replaced("token_ids", lambda x: x.int()), "token_ids has another dtype"),
        (without_memory("token_type"), "token_type has no memory"),
    ],
    "write_kv": [
        (replaced("keys", lambda x: x[0]), r"keys has shape \(48,\), expected a matrix"),
        (replaced("value_store", lambda x: x[1:]), r"value_store has shape \(7, 48\), expected"),
    ],
    "scatter_rows": [
        (replaced("out", lambda x: x[0]), r"out has shape \(48,\), expected a matrix"),
        (without_memory("out"), "out has no memory"),
    ],
    "add_layer_norm": [
        (replaced("x", lambda x: x.T.contiguous().T), "x has column stride"),
        (replaced("residual", lambda x: x[1:]), r"residual has shape \(11, 48\), expected \(12, "),
    ],
    "ragged_attention": [
        (replaced("key_offsets", lambda x: x[:0]), r"key_offsets has shape \(0,\), expected \(seq"),
        (replaced("query_offsets", lambda x: x[:0]), r"query_offsets has shape \(0,\), expected"),
        (replaced("queries", lambda x: x[0]), r"queries has shape \(48,\), expected a matrix"),
        (replaced("heads", 0), "48 columns cannot be divided among 0 heads"),
        (replaced("heads", -4), "48 columns cannot be divided among -4 heads"),
        (replaced("distance_embedding", lambda x: x[0]), "distance_embedding has shape .*"),
        (without_memory("key_store"), "key_store has no memory"),
    ],
    "halting_step": [
        (replaced("query_offsets", lambda x: x[:0]), r"query_offsets has shape \(0,\), expected"),
        (replaced("next_query_offsets", lambda x: x[1:]), r"next_query_offsets has shape \(3,\)"),
        (replaced("threshold", float("nan")), "threshold is NaN, expected a number"),
        (replaced("workspace", lambda x: x[1:]), r"workspace has shape"),
        (replaced("hidden", lambda x: x[0]), r"hidden has shape \(48,\), expected a matrix"),
    ],
}  # fmt: skip
CASES = [
    pytest.param(name, implementation, change, message, id=f"{name}.{implementation}-{message}")
    for implementation in NATIVE
    for cases in ((VALUES, FORMS) if implementation == "cpp" else (FORMS,))
    for name, changes in cases.items()
    for change, message in changes
]


@pytest.mark.parametrize(("name", "implementation", "change", "message"), CASES)
def test_a_bad_call_is_refused_and_writes_nothing(name, implementation, change, message):
    extra = {"distances": "relative_key", "heads": 4} if name == "ragged_attention" else {}
    call = MAKERS[name](Maker(1, torch.float32, False), 48, LENGTHS, **extra)
    change(call.arguments)
    with pytest.raises(ValueError, match=f"{name}: {message}") as error:
        ops.implementation_of(name, implementation)(*call.arguments.values())
    assert not re.search(r"csrc|\.cpp:|\.h:|site-packages", str(error.value))
    for output in call.outputs:
        tensor = call.arguments[output]
        if output != "workspace" and tensor.untyped_storage().nbytes():
            unwritten = tensor.isnan() if tensor.is_floating_point() else tensor < 0
            assert unwritten.all()


@pytest.mark.skipif("cpp" not in NATIVE, reason="the C++ operators were not built")
def test_the_cpp_halting_step_reads_nothing_of_its_workspace():
    """What stands there decides where rows go, and would send them anywhere."""
    call = MAKERS["halting_step"](Maker(1, torch.float32, False), 48, [70, 0, 5], beyond=0)
    call.arguments["workspace"].fill_(7)
    outputs = tuple(name for name in call.outputs if name != "workspace")
    call = Call(call.operator, call.arguments, outputs)
    ran = Call(call.operator, copied(call.arguments, "cpu"), outputs)
    ops.implementation_of("halting_step", "cpp")(*ran.arguments.values())
    check(call, ran)
