"""What must hold for any model and batch: no token's result depends on its batch or its padding."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.compare import HIDDEN, run, trace_reference
from support.engines import ON_CPU
from support.models import mask_of, random_batch, random_model

from albert_act_fast.configuration import POSITION_TYPES

every_implementation = pytest.mark.parametrize("implementation", [*ON_CPU, "reference"])
seeds = st.integers(0, 2**31)
lengths_of_batches = st.lists(st.integers(0, 17), min_size=1, max_size=6).filter(any)
POSITIONS = tuple(POSITION_TYPES)


@functools.lru_cache(maxsize=64)
def model_of(seed: int, position: str = "absolute", limit: int = 12):
    return random_model(seed, "odd", position_embedding_type=position, num_hidden_layers=limit)


def assert_tokens_equal(a, b, close: torch.Tensor) -> None:
    """Two results for the same tokens [.., S]; `close`: a sequence the reference leaves open."""
    if bool(close):
        return
    assert torch.equal(a.n_updates, b.n_updates)
    for name in ("last_hidden_state", "remainders"):
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=4 * HIDDEN)


def rows(output, index):
    """Some sequences of an output."""
    return type(output)(
        last_hidden_state=output.last_hidden_state[index],
        n_updates=output.n_updates[index],
        remainders=output.remainders[index],
    )


def is_open(model, inputs) -> torch.Tensor:
    """Whether the reference's own rounding decides any token's depth, in any sequence."""
    return (trace_reference(model, **inputs).is_open & inputs["attention_mask"].bool()).any()


@every_implementation
@given(seed=seeds, lengths=lengths_of_batches, position=st.sampled_from(POSITIONS))
def test_permuting_the_batch_permutes_the_result(implementation, seed, lengths, position):
    model = model_of(seed % 4, position)
    inputs = random_batch(seed, model.config, mask_of(lengths, padding="holes", seed=seed))
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed))
    result = run(model, implementation, **inputs)
    permuted = run(model, implementation, **{k: v[order] for k, v in inputs.items()})
    assert_tokens_equal(rows(result, order), permuted, is_open(model, inputs))


@every_implementation
@given(seed=seeds, lengths=lengths_of_batches, position=st.sampled_from(POSITIONS))
def test_a_sequence_alone_equals_itself_in_a_batch(implementation, seed, lengths, position):
    model = model_of(seed % 4, position)
    inputs = random_batch(seed, model.config, mask_of(lengths))
    together = run(model, implementation, **inputs)
    open_to_rounding = is_open(model, inputs)
    for b, length in enumerate(lengths):
        if length == 0:
            continue
        alone = run(model, implementation, **{k: v[b : b + 1, :length] for k, v in inputs.items()})
        shown = rows(together, slice(b, b + 1))
        for name in ("last_hidden_state", "n_updates", "remainders"):
            setattr(shown, name, shown[name][:, :length])
        assert_tokens_equal(shown, alone, open_to_rounding)


@every_implementation
@given(seed=seeds, lengths=lengths_of_batches, position=st.sampled_from(POSITIONS))
def test_what_stands_at_padding_never_matters(implementation, seed, lengths, position):
    model = model_of(seed % 4, position)
    mask = mask_of(lengths, padding="holes", seed=seed)
    inputs = random_batch(seed, model.config, mask)
    garbage = random_batch(seed + 1, model.config, mask)
    garbage = {k: torch.where(mask == 1, inputs[k], garbage[k]) for k in inputs}
    a, b = (run(model, implementation, **x) for x in (inputs, garbage))
    for name in ("last_hidden_state", "n_updates", "remainders"):
        assert torch.equal(a[name][mask == 1], b[name][mask == 1]), name
        assert a[name][mask == 0].abs().sum() == b[name][mask == 0].abs().sum() == 0


@every_implementation
@given(seed=seeds, lengths=lengths_of_batches, extra=st.integers(1, 9))
def test_more_padding_never_matters(implementation, seed, lengths, extra):
    model = model_of(seed % 4)
    inputs = random_batch(seed, model.config, mask_of(lengths))
    wider = {k: torch.nn.functional.pad(v, (0, extra)) for k, v in inputs.items()}
    a, b = (run(model, implementation, **x) for x in (inputs, wider))
    for name in ("last_hidden_state", "n_updates", "remainders"):
        assert b[name][:, max(lengths) :].abs().sum() == 0
        setattr(b, name, b[name][:, : max(lengths)])
    assert_tokens_equal(a, b, is_open(model, inputs))


@every_implementation
@given(seed=seeds, lengths=lengths_of_batches, extra=st.integers(0, 9))
def test_moving_the_padding_never_matters_if_positions_move_along(
    implementation, seed, lengths, extra
):
    model = model_of(seed % 4)
    width = max(lengths) + extra
    right, left = (mask_of(lengths, width, p) for p in ("right", "left"))
    inputs = random_batch(seed, model.config, right)
    moved = {"attention_mask": left, "position_ids": (left.cumsum(1) - 1).clamp(min=0)}
    for name in ("input_ids", "token_type_ids"):
        moved[name] = torch.zeros_like(inputs[name])
        moved[name][left == 1] = inputs[name][right == 1]
    a, b = (run(model, implementation, **x) for x in (inputs, moved))
    if not is_open(model, inputs):
        assert torch.equal(a.n_updates[right == 1], b.n_updates[left == 1])
        torch.testing.assert_close(
            a.last_hidden_state[right == 1], b.last_hidden_state[left == 1], rtol=0, atol=4 * HIDDEN
        )


@given(
    seed=seeds,
    lengths=lengths_of_batches,
    epsilon=st.sampled_from([0, 0.01, 0.4]),
    limit=st.integers(1, 24),
)
def test_weights_of_a_halted_token_sum_to_one(seed, lengths, epsilon, limit):
    model = random_model(seed % 7, "one head", act_epsilon=epsilon, num_hidden_layers=limit)
    mask = mask_of(lengths)
    traced = trace_reference(model, **random_batch(seed, model.config, mask))
    # In float64: the weights' own sum, without the rounding of summing them.
    sums = traced.weights.double().sum(0)
    halted = (traced.output.remainders > 0) & (mask == 1)
    assert ((sums - 1).abs()[halted] <= 24 * 2**-24).all()
    not_halted = ~halted & (mask == 1)
    assert (sums[not_halted] <= 1 - epsilon + 1e-6).all()
    assert (traced.output.n_updates[not_halted] == limit).all()
    if traced.is_open[mask == 1].any():
        return
    before_halting = (sums - traced.output.remainders)[halted]
    for implementation in ON_CPU:
        engine = run(model, implementation, **random_batch(seed, model.config, mask))
        assert torch.allclose(
            engine.remainders[halted] + before_halting, torch.ones(()).double(), rtol=0, atol=HIDDEN
        )


@given(seed=seeds, lengths=lengths_of_batches, position=st.sampled_from(POSITIONS))
def test_a_halted_row_is_frozen_to_the_bit_in_the_reference(seed, lengths, position):
    model = model_of(seed % 4, position)
    mask = mask_of(lengths)
    with torch.no_grad():
        output = model(**random_batch(seed, model.config, mask), output_hidden_states=True)
    states = torch.stack(output.hidden_states)
    for iteration in range(1, states.size(0)):
        finished = (output.n_updates <= iteration) & (mask == 1)
        assert torch.equal(states[iteration][finished], output.last_hidden_state[finished])
        moving = (output.n_updates >= iteration) & (mask == 1)
        assert (states[iteration] != states[iteration - 1]).any(-1)[moving].all()


@pytest.mark.parametrize("implementation", ON_CPU)
@given(seed=st.integers(0, 2**31), lengths=lengths_of_batches)
def test_a_halted_row_is_final_whatever_the_limit(implementation, seed, lengths):
    """Up to the limit the iterations are the same, so a token that halted by then is final."""
    model = random_model(seed % 4, "odd", num_hidden_layers=12)
    mask = mask_of(lengths)
    inputs = random_batch(seed, model.config, mask)
    final = run(model, implementation, **inputs)
    for limit in (1, 2, 3, 5, 8, 11):
        model.config.num_hidden_layers = limit
        cut = run(model, implementation, **inputs)
        # `n_updates` at the limit may have halted or not; only halting leaves a remainder.
        halted = (mask == 1) & (cut.remainders > 0)
        for name in ("last_hidden_state", "n_updates", "remainders"):
            assert torch.equal(cut[name][halted], final[name][halted]), name
        running = (mask == 1) & ~halted
        assert (cut.n_updates[running] == limit).all()
        assert (final.n_updates[running] > limit).all()
