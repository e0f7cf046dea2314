"""A plain ALBERT's weights carried over: the same layer, with a halting unit that is new."""

from __future__ import annotations

import pytest
import torch
from support import models
from transformers import AlbertConfig, AlbertForMaskedLM, AlbertModel, BertConfig, BertModel

from albert_act_fast import AlbertActModel

SIZES = {
    "vocab_size": 40,
    "embedding_size": 8,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "num_hidden_layers": 5,
    "max_position_embeddings": 20,
    "initializer_range": 0.3,
    "hidden_act": "gelu_new",
}


@pytest.fixture(scope="module")
def albert() -> AlbertModel:
    torch.manual_seed(0)
    model = AlbertModel(AlbertConfig(**SIZES)).eval()
    for name, parameter in model.named_parameters():  # all of them, LayerNorms too, tell apart
        if "LayerNorm" in name or "layer_norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.2)
    return model


@torch.no_grad()
def test_at_a_fixed_depth_it_is_that_albert(albert):
    model = AlbertActModel.from_albert(albert)
    assert not model.training
    ids, mask = models.ids(4, 9), models.mask()
    theirs = albert(ids, attention_mask=mask).last_hidden_state
    ours = model.fixed_depth(ids, mask)
    torch.testing.assert_close(ours[mask == 1], theirs[mask == 1], rtol=1e-4, atol=1e-5)
    pooled = model.pooler_activation(model.pooler(theirs[:, 0]))
    torch.testing.assert_close(pooled, albert(ids, attention_mask=mask).pooler_output)
    assert (model.config.hidden_act, model.config.num_hidden_layers) == ("gelu_new", 5)


@torch.no_grad()
def test_a_token_that_halts_at_once_is_that_albert_of_one_layer(albert):
    """With p near 1 the weight of the first candidate is 1, so nothing is mixed."""
    model = AlbertActModel.from_albert(albert, halting_bias=30.0)
    ids = models.ids(2, 6)
    out = model(ids)
    assert out.n_updates.unique().tolist() == [1]
    one = AlbertModel(AlbertConfig(**SIZES | {"num_hidden_layers": 1})).eval()
    one.load_state_dict(albert.state_dict())
    torch.testing.assert_close(
        out.last_hidden_state, one(ids).last_hidden_state, rtol=1e-4, atol=1e-5
    )


def test_folders_task_models_and_fields(albert, tmp_path):
    torch.manual_seed(1)
    AlbertForMaskedLM(AlbertConfig(**SIZES)).save_pretrained(tmp_path)
    model = AlbertActModel.from_albert(tmp_path, act_epsilon=0.1, num_hidden_layers=9)
    assert (model.config.act_epsilon, model.config.num_hidden_layers) == (0.1, 9)
    assert model.pooler is None  # the folder has none, and a random one is no ALBERT's
    task = AlbertForMaskedLM.from_pretrained(tmp_path)
    assert AlbertActModel.from_albert(task).pooler is None
    model = AlbertActModel.from_albert(albert.to(torch.bfloat16), halting_bias=-2)
    albert.to(torch.float32)
    assert model.dtype == torch.bfloat16
    assert model.encoder.albert_layer.act.dense.bias.item() == -2


def test_what_is_no_such_albert_is_refused(albert):
    for name in ("num_hidden_groups", "inner_group_num"):
        other = AlbertModel(AlbertConfig(**SIZES | {name: 2, "num_hidden_layers": 4}))
        with pytest.raises(ValueError, match=f"{name}: got an ALBERT with 2, expected 1"):
            AlbertActModel.from_albert(other)
    bert = BertModel(BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1))
    with pytest.raises(TypeError, match="source: got BertModel, expected transformers' AlbertMo"):
        AlbertActModel.from_albert(bert)
    with pytest.raises(TypeError, match="depth: AlbertActConfig has no such field"):
        AlbertActModel.from_albert(albert, depth=3)


def test_a_folder_of_another_model_is_refused(tmp_path):
    AlbertActModel(models.config()).save_pretrained(tmp_path)
    config = AlbertConfig(**SIZES)
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is no ALBERT's; weights are missing: .*albert_layer_gr"):
        AlbertActModel.from_albert(tmp_path)


def test_it_trains_with_the_ponder_cost(albert):
    model = AlbertActModel.from_albert(albert, halting_bias=-1.0).train()
    out = model(models.ids(2, 6))
    (out.last_hidden_state.square().mean() + 0.01 * out.ponder_cost.mean()).backward()
    assert model.encoder.albert_layer.act.dense.weight.grad.abs().sum() > 0
