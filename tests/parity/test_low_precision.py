"""float16 and bfloat16: as near the float32 reference as plain PyTorch in the same dtype is."""

from __future__ import annotations

import copy

import pytest
import torch
from support.compare import assert_nothing_at_padding, run
from support.engines import ENGINES
from support.models import mask_of, random_batch, random_lengths, random_model

every_engine = pytest.mark.parametrize(("device", "implementation"), ENGINES)
MODELS = 4


def deviations(output, truth, mask) -> tuple[float, float, float]:
    """Sum of squared errors of the hidden states, count of them, tokens at another depth."""
    mask = mask.bool()
    error = (output.last_hidden_state.float() - truth.last_hidden_state)[mask]
    other_depth = (output.n_updates != truth.n_updates)[mask].sum()
    return error.square().sum().item(), error.numel(), other_depth.item()


@every_engine
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("size", ["even", "odd"])
@pytest.mark.parametrize("position", ["absolute", "relative_key_query"])
def test_error_of_the_dtype(size, position, dtype, device, implementation, record_property):
    """Over several models together, because one token that halts elsewhere outweighs the rest."""
    totals = {"engine": [0.0, 0, 0], "reference": [0.0, 0, 0]}
    for seed in range(MODELS):
        low = random_model(seed, size, position_embedding_type=position, dtype=dtype).to(device)
        # The float32 model has the same rounded weights: only the arithmetic differs.
        full = copy.deepcopy(low).float()
        mask = mask_of(random_lengths(seed, 8, 40))
        inputs = {k: v.to(device) for k, v in random_batch(seed, low.config, mask).items()}
        truth = run(full, "reference", **inputs)
        for name, total in totals.items():
            output = run(low, implementation if name == "engine" else name, **inputs)
            assert output.last_hidden_state.dtype == dtype
            assert output.n_updates.dtype == output.remainders.dtype == torch.float32
            assert output.last_hidden_state.isfinite().all()
            assert_nothing_at_padding(output, inputs["attention_mask"])
            for i, x in enumerate(deviations(output, truth, inputs["attention_mask"])):
                total[i] += x
    tokens = totals["engine"][1] // low.config.hidden_size
    root_mean_square, shares = {}, {}
    for name, (squares, count, other_depth) in totals.items():
        root_mean_square[name] = (squares / count) ** 0.5
        shares[name] = other_depth / tokens
        record_property(f"error of {name}", root_mean_square[name])
        record_property(f"share of tokens of {name} at another depth", shares[name])
    assert root_mean_square["engine"] <= 2 * root_mean_square["reference"]
    # Counts of a rare event: twice as many, and three tokens for chance.
    assert shares["engine"] <= 2 * shares["reference"] + 3 / tokens


@every_engine
def test_halting_is_float32_in_every_dtype(device, implementation):
    """20 times p = 1/32 + 2^-12 drifts in bfloat16; in float32 it adds up."""
    model = random_model(0, num_hidden_layers=24, dtype=torch.bfloat16).to(device)
    p = 1 / 32 + 2**-12
    with torch.no_grad():
        model.encoder.albert_layer.act.dense.weight.zero_()
        model.encoder.albert_layer.act.dense.bias.fill_(torch.tensor(p).logit().item())
    bias = model.encoder.albert_layer.act.dense.bias.detach().float()
    expected = bias.sigmoid().item()
    model.config.act_epsilon = 1 - expected * 20.5  # passed in iteration 21
    inputs = random_batch(0, model.config, mask_of([3, 5]))
    inputs = {k: v.to(device) for k, v in inputs.items()}
    for name in (implementation, "reference"):
        output = run(model, name, **inputs)
        depths = output.n_updates[inputs["attention_mask"].bool()]
        assert set(depths.tolist()) == {21.0}
        remainders = output.remainders[inputs["attention_mask"].bool()].cpu()
        torch.testing.assert_close(
            remainders, torch.full_like(remainders, 1 - 20 * expected), rtol=0, atol=1e-6
        )
