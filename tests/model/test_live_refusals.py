"""What `accelerate` and `restore` refuse, with the reason; a refusal changes nothing."""

import pytest
import torch
import transformers
from support import models as builders
from torch import nn

import albert_act_fast as aaf
from tests.model import published

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
}


def assert_refused(model: nn.Module, reason: str) -> None:
    before = {id(module): dict(vars(module)) for module in model.modules()}
    with pytest.raises(ValueError, match=reason) as error:
        aaf.accelerate(model)
    assert str(error.value).startswith("model: ")
    assert {id(module): dict(vars(module)) for module in model.modules()} == before


@pytest.mark.parametrize("cls", [transformers.AlbertModel, transformers.AlbertForMaskedLM])
def test_albert_of_fixed_depth(cls):
    model = cls(transformers.AlbertConfig(**SMALL, embedding_size=8))
    assert_refused(model, rf"got {cls.__name__}, .*fixed depth .*no token ever halts")


def test_bert():
    model = transformers.BertModel(transformers.BertConfig(**SMALL))
    assert_refused(model, r"got BertModel, .*no part of it has `embeddings` and `encoder.albert_l")


def test_no_transformer_at_all():
    assert_refused(nn.Linear(2, 2), "got Linear, expected act.AlbertActModel")


def test_further_parameters_in_the_layer():
    model = published.model()
    model.encoder.albert_layer.adapter = nn.Linear(16, 16)
    assert_refused(model, r"adapter\.weight is not part of ALBERT-ACT")


def test_further_parameters_beside_the_encoder():
    model = published.model()
    model.scale = nn.Parameter(torch.ones(1))
    assert_refused(model, "scale is not part of ALBERT-ACT")


def test_no_halting_unit():
    model = published.model()
    del model.encoder.albert_layer.act.dense
    assert_refused(model, r"act\.dense\.weight is missing; .*act\.dense\.bias is missing")


def test_a_linear_map_without_bias():
    model = published.model()
    model.encoder.albert_layer.attention.query = nn.Linear(16, 16, bias=False)
    assert_refused(model, r"attention\.query\.bias is missing")


def test_wrong_shapes():
    model = published.model()
    model.encoder.albert_layer.ffn = nn.Linear(16, 30)
    assert_refused(model, r"ffn\.weight has shape \(30, 16\), expected \(24, 16\)")


def test_a_halting_unit_of_several_outputs():
    model = published.model()
    model.encoder.albert_layer.act.dense = nn.Linear(16, 4)
    assert_refused(model, r"act\.dense\.weight has shape \(4, 16\), expected \(1, 16\)")


def test_no_threshold():
    model = published.model()
    del model.config.act_epsilon
    assert_refused(model, "no `act_epsilon`")


def test_a_threshold_out_of_range():
    model = published.model()
    model.config.act_epsilon = 1.5
    with pytest.raises(ValueError, match=r"act_epsilon: got 1.5, expected a number in \[0, 1\)"):
        aaf.accelerate(model)
    assert "forward" not in vars(model)


def test_an_unknown_activation():
    with pytest.raises(ValueError, match="hidden_act: got 'swishy', expected one of"):
        aaf.accelerate(published.model(hidden_act="swishy"))


def test_no_configuration():
    model = published.model()
    del model.config
    assert_refused(model, "has no `config`")


def test_positions_that_the_configuration_does_not_speak_of():
    model = published.model(position_embedding_type="relative_key")
    model.config.position_embedding_type = "absolute"
    assert_refused(model, r"distance_embedding\.weight is not part of ALBERT-ACT")


def test_one_bad_encoder_among_good_ones_changes_none():
    bad = published.model()
    bad.encoder.albert_layer.adapter = nn.Linear(16, 16)
    assert_refused(nn.ModuleList([published.model(), bad]), "adapter")


def test_restoring_what_was_never_accelerated():
    model = published.model()
    with pytest.raises(ValueError, match="got PublishedModel with no accelerated part"):
        aaf.restore(model)
    aaf.accelerate(model)
    aaf.restore(model)
    with pytest.raises(ValueError, match="no accelerated part"):
        aaf.restore(model)


@pytest.mark.parametrize("cls", [aaf.AlbertActModel, aaf.AlbertActForMaskedLM])
def test_restoring_a_model_of_this_package(cls):
    with pytest.raises(ValueError, match="no accelerated part"):
        aaf.restore(builders.model(cls))
