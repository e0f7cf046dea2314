"""Every operator, in every implementation that exists here, against plain PyTorch in float64."""

from __future__ import annotations

import re

import pytest
import torch
from support.huge_scores import check_huge_scores, with_huge_scores
from support.operator_parity import DTYPES, apply, check, copied, same_bits

from albert_act_fast import ops
from albert_act_fast.ops import torch_ops
from albert_act_fast.ops.contracts import IMPLEMENTATIONS
from suite.operator_calls import (
    MAKERS,
    PLAIN,
    RAGGED,
    Call,
    Maker,
    candidate_and_probability,
)

WIDTHS = (1, 5, 48, 65, 768)
OVERLOADS = [
    pytest.param(
        name,
        implementation,
        device,
        id=f"{name}.{implementation}-{device}",
        marks=[pytest.mark.gpu] if device == "cuda" else [],
    )
    for name in ops.OPERATORS
    for implementation in IMPLEMENTATIONS
    for device in ("cpu", "cuda")
    if ops.registered(name, implementation, device)
]
CPU_OVERLOADS = [p for p in OVERLOADS if p.values[2] == "cpu"]
every_overload = pytest.mark.parametrize(("name", "implementation", "device"), OVERLOADS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def test_every_operator_is_covered():
    assert set(MAKERS) == set(PLAIN) == set(ops.OPERATORS)
    assert {p.values[0] for p in CPU_OVERLOADS if p.values[1] == "torch"} == set(ops.OPERATORS)


@pytest.mark.parametrize(
    "implementation",
    [i for i in ("cpp", "triton", "cuda") if ops.registered("add_layer_norm", i, "cpu")],
)
def test_every_dtype_of_rows_is_tested(implementation):
    """Asks the kernels that are for a list of dtypes: they name it."""
    call = MAKERS["add_layer_norm"](Maker(0, torch.float32, False), 5, [3])
    integers = {k: v.int() if k in ("x", "residual", "weight", "bias", "out") else v
                for k, v in call.arguments.items()}  # fmt: skip
    with pytest.raises(Exception, match="expected") as refused:
        ops.implementation_of("add_layer_norm", implementation)(*integers.values())
    named = set(re.findall(r"\w*float\w+", str(refused.value)))
    assert named - {"float64"} == {str(dtype).removeprefix("torch.") for dtype in DTYPES}


@every_overload
@every_dtype
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("wide", [False, True], ids=["dense", "slices"])
def test_parity(name, implementation, device, dtype, width, wide):
    for seed, lengths in enumerate(RAGGED.values()):
        make = Maker(100 * width + seed, dtype, wide)
        extra = {"heads": _heads(width)} if name == "ragged_attention" else {}
        call = MAKERS[name](make, width, lengths, **extra)
        exact = name in ("write_kv", "scatter_rows")
        check(call, apply(call, implementation, device), exact=exact)


def _heads(width: int) -> int:
    return {48: 4, 65: 5, 768: 12}.get(width, 1)


@every_overload
@every_dtype
def test_no_rows(name, implementation, device, dtype):
    """All tokens halted, or a batch of padding alone."""
    for lengths in ([], [0], [0, 0]):
        if name in ("ragged_attention", "halting_step"):
            call = _without_rows(MAKERS[name](Maker(0, dtype, False), 5, [3, 1]))
        else:
            call = MAKERS[name](Maker(0, dtype, False), 5, lengths)
        ran = apply(call, implementation, device)
        for output in call.outputs:
            if output == "next_query_offsets":
                assert ran.arguments[output].tolist() == [0, 0, 0]
            else:
                assert same_bits(ran.arguments[output], call.arguments[output]), output


def _without_rows(call: Call) -> Call:
    call.arguments["query_offsets"].zero_()
    return call


@pytest.mark.parametrize(
    ("name", "implementation", "device"), [p for p in OVERLOADS if p.values[0] == "embed_tokens"]
)
@every_dtype
def test_embeddings_without_positions(name, implementation, device, dtype):
    call = MAKERS[name](Maker(1, dtype, True), 48, [5, 7], position=False)
    check(call, apply(call, implementation, device))


def every_attention(*sizes: tuple[int, int]):
    """In Triton's interpreter a head of the published size takes seconds, so two of them there;
    and as it rounds a head's columns up to a power of two, one size that is none will do."""
    cases = []
    for p in OVERLOADS:
        name, implementation, device = p.values
        if name == "ragged_attention":
            chosen = (*sizes, (768, 12))
            if (implementation, device) == ("triton", "cpu"):
                chosen = (*(size for size in sizes if size != (48, 4)), (128, 2))
            for width, heads in chosen:
                size = f"{width}-{heads}"
                cases.append(
                    pytest.param(*p.values, width, heads, id=f"{p.id}-{size}", marks=p.marks)
                )
    return pytest.mark.parametrize(("name", "implementation", "device", "width", "heads"), cases)


@every_attention((5, 5), (48, 4), (65, 5))
@every_dtype
@pytest.mark.parametrize("distances", ["absolute", "relative_key", "relative_key_query"])
def test_attention(name, implementation, device, dtype, distances, width, heads):
    for seed, lengths in enumerate(RAGGED.values()):
        make = Maker(1000 + seed, dtype, wide=seed % 2 == 0)
        call = MAKERS[name](make, width, lengths, heads=heads, distances=distances)
        check(call, apply(call, implementation, device))


@every_attention((48, 4), (65, 5))
@every_dtype
@pytest.mark.parametrize("distances", ["absolute", "relative_key", "relative_key_query"])
@pytest.mark.parametrize("equal", [False, True], ids=["", "equal keys"])
def test_huge_scores(name, implementation, device, dtype, distances, equal, width, heads):
    """Of up to 1e13: a rounding of a score is a large number, which no weight may be exp of."""
    for seed, lengths in enumerate(RAGGED.values()):
        make = Maker(4000 + seed, dtype, wide=True)
        call = MAKERS[name](make, width, lengths, heads=heads, distances=distances)
        with_huge_scores(call, equal)
        check_huge_scores(call, apply(call, implementation, device), equal)


@every_dtype
@pytest.mark.parametrize("distances", ["absolute", "relative_key", "relative_key_query"])
@pytest.mark.parametrize("path", ["attend_one_sequence", "attend_padded"])
def test_both_ways_the_torch_implementation_attends(path, distances, dtype):
    """On a CPU the operator goes sequence by sequence, on a GPU with all of them padded."""
    for seed, lengths in enumerate(RAGGED.values()):
        make = Maker(2000 + seed, dtype, wide=True)
        call = MAKERS["ragged_attention"](make, 48, lengths, heads=4, distances=distances)
        ran = Call(call.operator, copied(call.arguments, "cpu"), call.outputs)
        a = ran.arguments
        spans = [list(zip(a[k].tolist(), a[k].tolist()[1:], strict=False))
                 for k in ("query_offsets", "key_offsets")]  # fmt: skip
        running = [b for b, (start, stop) in enumerate(spans[0]) if stop > start]
        groups = [running] if path == "attend_padded" else [[b] for b in running]
        for group in groups:
            getattr(torch_ops, path)(
                ops.ARGUMENTS["ragged_attention"](**a),
                [spans[0][b] for b in group],
                [spans[1][b] for b in group],
            )
        check(call, ran)


@pytest.mark.parametrize(
    ("name", "implementation", "device"), [p for p in OVERLOADS if p.values[0] == "halting_step"]
)
@every_dtype
@pytest.mark.parametrize("last", [False, True], ids=["", "last"])
@pytest.mark.parametrize("threshold", [0.5, 0.6000000238418579, 0.9900000095367432, 1.0])
def test_halting_step_at_every_threshold(name, implementation, device, dtype, threshold, last):
    for seed in range(4):
        make = Maker(3000 + seed, dtype, wide=seed % 2 == 0)
        options = {"threshold": threshold, "last": last, "summed": seed > 1}
        call = MAKERS[name](make, 48, RAGGED["ragged"], **options)
        check(call, apply(call, implementation, device))


@pytest.mark.parametrize(
    ("name", "implementation", "device"), [p for p in OVERLOADS if p.values[0] == "halting_step"]
)
@pytest.mark.parametrize("threshold", [0.6000000238418579, 0.9900000095367432, 1.0])
def test_halting_step_at_every_probability(name, implementation, device, threshold):
    """The whole of the rule; in the other tests nearly all p are below one half."""
    make, options = Maker(7, torch.float32, True), {"spread": 5.0, "margin": 1e-4}
    call = MAKERS[name](make, 5, [4000], threshold=threshold, **options)
    a = call.in_float64()
    rows = int(a["query_offsets"][-1])
    _, p = candidate_and_probability(a, rows)
    pairs = torch.stack([p, a["accumulated_probability"][:rows]], 1)
    of_each = torch.histogramdd(pairs, [10, 10], range=[0.0, 1.0, 0.0, 1.0]).hist
    assert int((of_each > 0).sum()) > 95, "some p do not meet some accumulated probabilities"
    check(call, apply(call, implementation, device))


# accumulated probability, threshold, then (with p = 0.5 exactly): does the row run on as long as
# another one asks for an iteration, does it ask for one itself, its remainder once it is finished.
TIES = {
    "below": (0.0, 0.99, True, True, 0.0),
    "reaches the threshold": (0.0, 0.5, True, False, 0.0),
    "at the threshold already": (0.5, 0.5, False, False, 0.5),
    "passes": (0.25, 0.5, False, False, 0.75),
    "reaches a threshold of 1": (0.5, 1.0, False, False, 0.0),
    "passes a threshold of 1": (0.625, 1.0, False, False, 0.375),
    "one rounding below": (0.25, 0.75 + 2**-24, True, True, 0.0),
    "one rounding above": (0.25, 0.75 - 2**-24, False, False, 0.75),
}


@pytest.mark.parametrize(
    ("name", "implementation", "device"), [p for p in OVERLOADS if p.values[0] == "halting_step"]
)
@every_dtype
@pytest.mark.parametrize("tie", TIES.values(), ids=list(TIES))
@pytest.mark.parametrize("beyond", [0, 3])
@pytest.mark.parametrize("last", [False, True], ids=["", "last"])
@pytest.mark.parametrize("company", [False, True], ids=["alone", "another-asks"])
def test_halting_step_at_the_edges(name, implementation, device, dtype, tie, beyond, last, company):
    hp, threshold, runs_on, asks, remainder = tie
    lengths = [1, 1] if company else [1]
    call = MAKERS[name](Maker(5, dtype, False), 5, lengths, beyond=beyond)
    a = call.arguments
    rows = len(lengths)
    a["token_index"][:rows] = torch.arange(rows)
    a["query_offsets"][:] = torch.arange(rows + 1)
    a["halting_weight"].zero_()
    a["halting_bias"].zero_()
    a["accumulated_probability"][:rows] = torch.tensor([hp, threshold - 0.75])[:rows]
    a["threshold"], a["last"] = threshold, last
    ran = apply(call, implementation, device).arguments
    goes_on = runs_on and not last and (asks or company)
    assert ran["next_query_offsets"].diff().tolist() == [int(goes_on), *([int(not last)] * company)]
    assert not ran["workspace"].any()
    if goes_on:
        assert ran["next_token_index"][0] == 0
        assert ran["next_accumulated_probability"][0] == hp + 0.5
        assert ran["out"][0].isnan().all()
        assert ran["n_updates"][0].isnan()
        assert ran["remainders"][0].isnan()
    else:
        slot = ran["next_token_index"][:rows].tolist().index(0)
        assert torch.equal(ran["out"][0], ran["next_hidden"][slot])
        assert ran["n_updates"][0] == 3
        assert ran["remainders"][0] == remainder


@pytest.mark.parametrize(
    ("name", "implementation", "device"), [p for p in OVERLOADS if p.values[0] == "halting_step"]
)
@every_dtype
def test_a_row_that_is_nan_leaves_alone(name, implementation, device, dtype):
    call = MAKERS[name](Maker(6, dtype, False), 48, [7], beyond=2)
    without = apply(call, implementation, device).arguments
    row = 1
    token = int(call.arguments["token_index"][row])
    call.arguments["ffn_output"][row, 3] = float("nan")
    ran = apply(call, implementation, device).arguments
    assert ran["out"][token].isnan().all()
    assert ran["n_updates"][token] == call.arguments["iteration"] - 1
    assert ran["remainders"][token] == 0
    others = torch.arange(7) != token
    for output in ("out", "n_updates", "remainders"):
        assert same_bits(ran[output][others], without[output][others])
    live = int(call.arguments["query_offsets"][-1])
    moved = dict(zip(ran["next_token_index"][:live].tolist(), ran["next_hidden"], strict=False))
    before = dict(
        zip(without["next_token_index"][:live].tolist(), without["next_hidden"], strict=False)
    )
    assert moved.keys() == before.keys()
    for other, hidden in moved.items():
        assert hidden.isnan().all() if other == token else torch.equal(hidden, before[other])
    survivors = ran["next_token_index"][: int(ran["next_query_offsets"][-1])].tolist()
    assert token not in survivors
