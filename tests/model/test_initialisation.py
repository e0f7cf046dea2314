"""Initialisation from the configuration, and that nothing is left to chance."""

import pytest
import torch
from support import models as builders
from support.models import MODELS
from torch import nn
from transformers import set_seed

import albert_act_fast as aaf


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("made_by", ["class", "_from_config"])
def test_weights_follow_the_configuration(cls, made_by):
    set_seed(0)
    config = builders.config(
        initializer_range=0.07, hidden_size=64, embedding_size=64, intermediate_size=64
    )
    model = cls(config) if made_by == "class" else cls._from_config(config)
    seen = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name
        elif isinstance(module, nn.Linear | nn.Embedding):
            weight = module.weight
            if getattr(module, "padding_idx", None) is not None:
                assert not weight[module.padding_idx].any(), name
                weight = weight[1:]
            expected = 0.07
            sampling_error = 4 * expected / (2 * weight.numel()) ** 0.5
            assert abs(weight.std().item() - expected) < sampling_error + 0.001, name
            assert abs(weight.mean().item()) < 5 * expected / weight.numel() ** 0.5, name
            if getattr(module, "bias", None) is not None:
                assert (module.bias == 0).all(), name
        seen |= {id(p) for p in module.parameters(recurse=False)}
    assert seen == {id(p) for p in model.parameters()}
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("cls", MODELS)
def test_the_vocabulary_bias_starts_at_zero(cls):
    model = cls(builders.config())
    if hasattr(model, "predictions"):
        assert not model.predictions.bias.any()


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_distance_embeddings_are_initialised_too(kind):
    model = builders.model(position_embedding_type=kind, initializer_range=0.07)
    weight = model.encoder.albert_layer.attention.distance_embedding.weight
    assert weight.shape == (2 * 20 - 1, 4)
    assert 0.05 < weight.std() < 0.09


@pytest.mark.parametrize("cls", MODELS)
def test_the_seed_decides_the_weights(cls):
    def weights(seed: int) -> torch.Tensor:
        set_seed(seed)
        model = cls(builders.config())
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("implementation", ["reference", "auto"])
@torch.no_grad()
def test_the_same_input_gives_the_same_output(cls, implementation):
    model = builders.model(cls, hidden_dropout_prob=0.5, classifier_dropout_prob=0.5)
    inputs = builders.batch(cls)
    first = model(**inputs, implementation=implementation)
    second = model(**inputs, implementation=implementation)
    for name in first:
        assert torch.equal(first[name], second[name])


def test_buffers_hold_the_positions_after_building_and_loading(tmp_path):
    model = builders.model()
    model.save_pretrained(tmp_path)
    for built in (model, aaf.AlbertActModel.from_pretrained(tmp_path)):
        assert torch.equal(built.embeddings.position_ids, torch.arange(20)[None])
        assert not built.embeddings.token_type_ids.any()


def test_parameters_are_those_of_one_layer_whatever_the_depth():
    def count(depth: int) -> int:
        return sum(p.numel() for p in builders.model(num_hidden_layers=depth).parameters())

    assert count(1) == count(24)
