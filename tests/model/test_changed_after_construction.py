"""A configuration, or a module, that changes once the model is made."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_parity, run, trace_reference
from support.engines import ON_CPU
from support.models import mask_of, random_batch, random_model
from torch import nn

from albert_act_fast.configuration import POSITION_TYPES

every_implementation = pytest.mark.parametrize("implementation", [*ON_CPU, "reference", "auto"])
every_engine = pytest.mark.parametrize("implementation", ON_CPU)
POSITIONS = tuple(POSITION_TYPES)


def batch_of(model, lengths=(5, 9, 2)):
    return random_batch(2, model.config, mask_of(lengths))


@every_implementation
@pytest.mark.parametrize("limit", [0, -1])
def test_no_iteration_at_all_is_refused(implementation, limit):
    model = random_model(1)
    batch = batch_of(model)
    run(model, implementation, **batch)
    model.config.num_hidden_layers = limit
    with pytest.raises(ValueError, match=f"num_hidden_layers: got {limit}, expected at least 1"):
        run(model, implementation, **batch)


@every_implementation
@pytest.mark.parametrize("epsilon", [1.0, -0.1])
def test_a_threshold_that_is_none_is_refused(implementation, epsilon):
    model = random_model(1)
    model.config.act_epsilon = epsilon
    with pytest.raises(ValueError, match=f"act_epsilon: got {epsilon}"):
        run(model, implementation, **batch_of(model))


@every_implementation
@pytest.mark.parametrize("positions", POSITIONS)
def test_more_positions_than_the_table_has_are_refused(implementation, positions):
    """Whether or not the batch is long enough to reach beyond it."""
    model = random_model(1, max_position_embeddings=12, position_embedding_type=positions)
    model.config.max_position_embeddings = 40
    for lengths in ([5, 9, 2], [5, 13, 2]):
        with pytest.raises(
            ValueError, match=r"max_position_embeddings: got 40, but .* made for 12"
        ):
            run(model, implementation, **batch_of(model, lengths))


@every_implementation
@pytest.mark.parametrize("positions", POSITIONS)
def test_fewer_positions_and_iterations_hold_at_once(implementation, positions):
    model = random_model(1, max_position_embeddings=12, position_embedding_type=positions)
    batch = batch_of(model)
    run(model, implementation, **batch)
    model.config.num_hidden_layers = 2
    assert run(model, implementation, **batch).n_updates.max() == 2
    model.config.max_position_embeddings = 8
    with pytest.raises(ValueError, match=r"9 tokens a sequence, expected at most .*=8"):
        run(model, implementation, **batch)


NORMS = (
    "embeddings.LayerNorm",
    "encoder.albert_layer.LayerNorm",
    "encoder.albert_layer.full_layer_layer_norm",
)


@every_engine
@pytest.mark.parametrize("kind", [{"bias": False}, {"elementwise_affine": False}], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_a_layer_norm_without_bias_or_weight(implementation, name, kind):
    model = random_model(1)
    norm = model.get_submodule(name)
    plain = nn.LayerNorm(norm.normalized_shape, norm.eps, **kind)
    if plain.weight is not None:
        plain.weight = norm.weight
    model.set_submodule(name, plain)
    batch = batch_of(model)
    assert_parity(
        run(model, implementation, **batch),
        trace_reference(model, **batch),
        batch["attention_mask"],
    )


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_by_a_name_that_changes_no_number(name):
    model = random_model(1)
    batch = batch_of(model)
    expected = run(model, "auto", **batch)
    model.set_attn_implementation(name)
    assert model.config._attn_implementation == name
    assert torch.equal(run(model, "auto", **batch).last_hidden_state, expected.last_hidden_state)


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_attention_of_another_kind_is_refused_in_our_words(name, tmp_path):
    model = random_model(1)
    message = f"attn_implementation: got '{name}', expected 'eager', 'sdpa'"
    with pytest.raises(ValueError, match=message):
        model.set_attn_implementation(name)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        type(model).from_pretrained(tmp_path, attn_implementation=name)
