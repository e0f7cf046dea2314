"""The engine against the reference loop in float32, over random models and batches."""

from __future__ import annotations

import pytest
import torch
from support.compare import HIDDEN, assert_parity, double, run, trace_reference
from support.engines import ENGINES
from support.models import PADDINGS, mask_of, random_batch, random_lengths, random_model

from albert_act_fast.configuration import POSITION_TYPES

every_engine = pytest.mark.parametrize(("device", "implementation"), ENGINES)


def compare(model, inputs, implementation, device="cpu", record=None, ties_allowed=0):
    """Both on the device; also how far either is from the reference in float64."""
    model = model.to(device)
    inputs = {k: v.to(device) for k, v in inputs.items()}
    mask = inputs["attention_mask"]
    traced = trace_reference(model, **inputs)
    engine = run(model, implementation, **inputs)
    ties = assert_parity(engine, traced, mask)
    if record is not None:
        record("tokens within 1e-6 of the threshold", ties)
    assert ties <= ties_allowed, "these tokens were left out of the comparison"
    assert_as_near_the_truth(model, inputs, engine, traced)
    return engine, traced


def assert_as_near_the_truth(model, inputs, engine, traced) -> None:
    """In float64 the reference must agree, and the engine must be as near it as fp32 can be."""
    wide = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    truth = run(double(model), "reference", **wide)
    # A token may halt elsewhere in float64 where fp32 is at its limits; it and its sequence differ.
    same = (truth.n_updates == traced.output.n_updates) | (inputs["attention_mask"] == 0)
    same_sequence = same.all(1)
    assert same_sequence.float().mean() >= 0.9
    scale = truth.last_hidden_state.abs().max().item()
    error, of_reference = (
        (x.last_hidden_state - truth.last_hidden_state)[same_sequence].abs().max().item()
        for x in (engine, traced.output)
    )
    assert error <= HIDDEN * scale
    assert error <= 2 * of_reference + 1e-6 * scale


@pytest.mark.parametrize("size", ["even", "odd", "one head"])
def test_random_models_differ_in_depth(size):
    """Or everything below would compare next to nothing."""
    for seed in range(3):
        model = random_model(seed, size, num_hidden_layers=24)
        mask = mask_of(random_lengths(seed, 8, 40))
        traced = trace_reference(model, **random_batch(seed, model.config, mask))
        depths = traced.output.n_updates[mask.bool()]
        assert depths.unique().numel() >= 10
        assert depths.std() > 1.5
        assert depths.min() >= 1
        share_halted = (traced.output.remainders[mask.bool()] > 0).float().mean()
        assert share_halted > 0.5


@every_engine
@pytest.mark.parametrize("size", ["even", "odd", "one head", "one column a head"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
@pytest.mark.parametrize("epsilon", [0, 0.01, 0.4])
def test_models(size, activation, epsilon, device, implementation, record_property):
    for seed in range(2):
        model = random_model(seed, size, hidden_act=activation, act_epsilon=epsilon)
        lengths = random_lengths(seed, 7, 30)
        mask = mask_of(lengths, padding=PADDINGS[seed], seed=seed)
        inputs = random_batch(seed, model.config, mask)
        engine, _ = compare(model, inputs, implementation, device, record_property)
        assert engine.n_updates.unique().numel() > 2


@every_engine
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 17, 24])
@pytest.mark.parametrize("position", POSITION_TYPES)
def test_depth_limits(limit, position, device, implementation):
    model = random_model(limit, num_hidden_layers=limit, position_embedding_type=position)
    inputs = random_batch(limit, model.config, mask_of(random_lengths(limit, 6, 21)))
    engine, traced = compare(model, inputs, implementation, device)
    assert engine.n_updates.max() == min(limit, int(traced.output.n_updates.max()))
    if limit <= 6:
        unhalted = engine.n_updates == limit
        assert bool((unhalted & (engine.remainders == 0)).any()), "nothing reached the limit"


@every_engine
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("position", POSITION_TYPES)
@pytest.mark.parametrize("batch", [1, 2, 32])
def test_padding(padding, position, batch, device, implementation, record_property):
    model = random_model(batch, "odd", position_embedding_type=position)
    mask = mask_of(random_lengths(batch, batch, 20), 23, padding, seed=batch)
    inputs = random_batch(batch, model.config, mask)
    compare(model, inputs, implementation, device, record_property, ties_allowed=1)


@every_engine
@pytest.mark.parametrize(("batch", "length"), [(3, 512), (1, 511), (32, 65), (1, 1), (5, 1)])
@pytest.mark.parametrize("position", ["absolute", "relative_key"])
def test_lengths(batch, length, position, device, implementation, record_property):
    model = random_model(
        length, max_position_embeddings=512, position_embedding_type=position, num_hidden_layers=8
    )
    inputs = random_batch(length, model.config, mask_of(random_lengths(length, batch, length)))
    compare(model, inputs, implementation, device, record_property, ties_allowed=1)


@every_engine
def test_base_size(device, implementation):
    model = random_model(0, "base", num_hidden_layers=24, max_position_embeddings=128)
    inputs = random_batch(0, model.config, mask_of([5, 24, 17]))
    engine, _ = compare(model, inputs, implementation, device)
    assert engine.n_updates.unique().numel() > 8


@every_engine
@pytest.mark.parametrize("epsilon", [0, 0.01, 0.4])
def test_everything_halts_at_once(epsilon, device, implementation):
    model = random_model(0, halting_bias=20.0, act_epsilon=epsilon)
    mask = mask_of([4, 9, 1])
    inputs = random_batch(0, model.config, mask)
    traced = trace_reference(model, **inputs)
    engine = run(model.to(device), implementation, **{k: v.to(device) for k, v in inputs.items()})
    assert traced.weights.size(0) == 1
    assert torch.equal(engine.n_updates.cpu(), mask.float())
    # p is 1 in float32; a threshold of 1 is reached and not passed, which leaves no remainder.
    expected = mask.float() if epsilon > 0 else torch.zeros(mask.shape)
    assert torch.equal(traced.output.remainders, expected)
    assert torch.equal(engine.remainders.cpu(), expected)
    torch.testing.assert_close(
        engine.last_hidden_state.cpu(), traced.output.last_hidden_state, rtol=0, atol=4e-5
    )


@every_engine
@pytest.mark.parametrize("limit", [1, 5])
def test_nothing_halts(limit, device, implementation):
    model = random_model(0, halting_bias=-20.0, num_hidden_layers=limit)
    mask = mask_of([4, 9, 1])
    engine, traced = compare(model, random_batch(0, model.config, mask), implementation, device)
    assert torch.equal(engine.n_updates.cpu(), mask * float(limit))
    assert engine.remainders.abs().max() == 0
    assert traced.weights.size(0) == limit


@every_engine
def test_one_token_goes_on_alone(device, implementation):
    """All others halted long before; its keys and values are all in the store."""
    model = random_model(1, num_hidden_layers=24)
    table = model.embeddings.word_embeddings.weight
    inputs = random_batch(1, model.config, mask_of([9, 12]))
    inputs["input_ids"][inputs["input_ids"] == 7] = 8
    inputs["input_ids"][0, 4] = 7
    with torch.no_grad():
        # The halting logit looks at one column, in which only token 7 is negative.
        layer = model.encoder.albert_layer
        model.embeddings.LayerNorm.weight[0] = 1.0
        table[:, 0] = 4.0
        table[7, 0] = -4.0
        model.encoder.embedding_hidden_mapping_in.weight[0] = 0.0
        model.encoder.embedding_hidden_mapping_in.weight[0, 0] = 20.0
        layer.act.dense.weight.zero_()
        layer.act.dense.weight[0, 0] = 3.0
        layer.act.dense.bias.fill_(0.0)
    engine, _ = compare(model, inputs, implementation, device)
    depths = engine.n_updates[inputs["attention_mask"].bool()].sort().values
    assert depths[-1] >= depths[-2] + 3


@every_engine
@pytest.mark.parametrize("position", ["absolute", "relative_key_query"])
def test_sequences_of_padding_alone(position, device, implementation):
    model = random_model(3, position_embedding_type=position)
    mask = mask_of([0, 6, 0, 11, 0])
    engine, _ = compare(model, random_batch(3, model.config, mask), implementation, device)
    assert engine.last_hidden_state[mask == 0].abs().max() == 0

    nothing = random_batch(3, model.config, torch.zeros(2, 5, dtype=torch.int64))
    for chosen in (implementation, "reference"):
        output = run(model, chosen, **{k: v.to(device) for k, v in nothing.items()})
        assert output.last_hidden_state.shape == (2, 5, 48)
        for name in ("last_hidden_state", "n_updates", "remainders", "ponder_cost", "updates"):
            assert bool((output[name] == 0).all()), name
        assert bool(output.pooler_output.isfinite().all())


@every_engine
def test_given_positions_and_embeddings(device, implementation):
    model = random_model(4)
    mask = mask_of([6, 13, 9], padding="left")
    inputs = random_batch(4, model.config, mask)
    inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    from_ids, _ = compare(model, inputs, implementation, device)
    ids = inputs.pop("input_ids").to(device)
    with torch.no_grad():
        inputs["inputs_embeds"] = model.embeddings.word_embeddings(ids)
    inputs["inputs_embeds"][mask.to(device) == 0] = float("nan")
    traced = trace_reference(model, **{k: v.to(device) for k, v in inputs.items()})
    engine = run(model, implementation, **{k: v.to(device) for k, v in inputs.items()})
    assert assert_parity(engine, traced, mask.to(device)) == 0
    assert torch.equal(engine.last_hidden_state, from_ids.last_hidden_state)
    assert torch.equal(engine.n_updates, from_ids.n_updates)


def test_a_tie_within_the_tolerance_is_not_compared_and_anything_else_is():
    """The comparison itself can fail: on one iteration too many, on one wrong element."""
    model = random_model(5)
    inputs = random_batch(5, model.config, mask_of([9, 9]))
    traced = trace_reference(model, **inputs)
    good = run(model, "reference", **inputs)
    assert assert_parity(good, traced, inputs["attention_mask"]) == 0
    for name, change in (("n_updates", 1.0), ("last_hidden_state", 1e-3), ("remainders", 1e-3)):
        wrong = run(model, "reference", **inputs)
        wrong[name][0, 3] += change
        wrong.ponder_cost = wrong.n_updates + wrong.remainders
        with pytest.raises(AssertionError):
            assert_parity(wrong, traced, inputs["attention_mask"])
        open_to_rounding = trace_reference(model, **inputs)
        open_to_rounding.is_open[0, 5] = True
        assert assert_parity(wrong, open_to_rounding, inputs["attention_mask"]) == 1
