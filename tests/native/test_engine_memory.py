"""What the native engine keeps in memory, and short sequences that share a panel of it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from support.models import random_config, random_model

from albert_act_fast import native, ops
from albert_act_fast.engine.layer import layer_weights
from albert_act_fast.engine.native_engine import NativeEngine
from suite.operator_calls import MAKERS, Maker

pytestmark = pytest.mark.skipif(native.why_no_cpp is not None, reason=str(native.why_no_cpp))
DTYPES = (torch.float32, torch.bfloat16)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def engine(dtype: torch.dtype = torch.float32, onednn: bool = False, **config):
    model = random_model(3, dtype=dtype, **config)
    weights = layer_weights(model.encoder.albert_layer)
    return NativeEngine(weights, int8=False, onednn=onednn)


def run(
    packed,
    lengths: list[int],
    dtype: torch.dtype = torch.float32,
    width: int = 48,
    max_iterations: int = 12,
):
    """Hidden states, n_updates and remainders; a row's input depends on its place alone."""
    tokens = sum(lengths)
    hidden = torch.randn(tokens, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    out = torch.empty_like(hidden), torch.empty(tokens), torch.empty(tokens)
    packed.run(
        hidden=hidden,
        offsets=torch.tensor([0, *lengths]).cumsum(0),
        positions=torch.cat([torch.arange(length) for length in lengths]),
        **random_config(num_hidden_layers=max_iterations).halting_limits._asdict(),
        **dict(zip(("out", "n_updates", "remainders"), out, strict=True)),
    )
    return out


@every_dtype
def test_many_short_sequences_take_no_more_than_few_long_ones(dtype):
    """But for a few numbers for each sequence."""
    tokens = 3200
    sizes = {}
    for length in (1, 2, 5, 15, 16, 20, 32, 400):
        packed = engine(dtype)
        run(packed, [length] * (tokens // length), dtype)
        sizes[length] = packed.workspace_bytes / tokens
    for length, size in sizes.items():
        assert size <= 2 * sizes[400] + 64, (length, sizes)


@every_dtype
@pytest.mark.parametrize("position", ["absolute", "relative_key_query"])
def test_a_sequence_does_not_depend_on_those_beside_it(dtype, position):
    """Bit for bit, wherever in a shared panel it begins."""
    packed = engine(dtype, position_embedding_type=position)
    hidden, n_updates, remainders = run(packed, [7], dtype)
    for after in ([1], [3, 1], [16], [9, 0, 15], [33], [16] * 7):
        together = run(packed, [7, *after], dtype)
        assert torch.equal(together[0][:7], hidden)
        assert torch.equal(together[1][:7], n_updates)
        assert torch.equal(together[2][:7], remainders)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("distances", ["absolute", "relative_key", "relative_key_query"])
def test_nan_stays_in_its_sequence_and_reaches_all_of_it(dtype, distances):
    lengths = [3, 1, 4, 2, 16, 5, 40]
    attend = ops.implementation_of("ragged_attention", "cpp")

    def attended(poisoned: int | None, table: str = "key_store") -> torch.Tensor:
        call = MAKERS["ragged_attention"](Maker(3, dtype, False), 48, lengths, 4, distances, 0)
        a = call.arguments
        a["key_store"].nan_to_num_(1.0)
        a["value_store"].nan_to_num_(1.0)
        tokens = torch.arange(sum(lengths))
        a["queries"] = a["key_store"].flip(0).contiguous()
        a["query_offsets"], a["token_index"] = a["key_offsets"], tokens
        a["out"] = torch.empty_like(a["queries"])
        if poisoned is not None:
            a[table][poisoned] = float("nan")
        attend(*a.values())
        return a["out"]

    clean = attended(None)
    assert clean.isfinite().all()
    bounds = torch.tensor([0, *lengths]).cumsum(0).tolist()
    for start, stop in pairwise(bounds):
        for table in ("key_store", "value_store"):
            result = attended(stop - 1, table)
            assert result[start:stop].isnan().all()
            assert torch.equal(result[:start], clean[:start])
            assert torch.equal(result[stop:], clean[stop:])


@pytest.mark.parametrize("onednn", [False, True])
def test_memory_beyond_a_bound_is_given_back(onednn):
    bound = 256 << 20
    packed = engine(onednn=onednn, hidden_size=512, intermediate_size=64, num_attention_heads=1)
    small = [8] * 10
    before = run(packed, small, width=512)
    kept = packed.workspace_bytes
    assert 0 < kept <= bound
    run(packed, [16] * 3500, width=512, max_iterations=1)
    assert packed.workspace_bytes <= bound
    after = run(packed, small, width=512)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert packed.workspace_bytes <= kept
