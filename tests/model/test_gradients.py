"""The reference loop's gradients against finite differences, in double precision."""

import pytest
import torch
from support import models as builders
from torch.func import functional_call

CHECKED = (
    "embeddings.LayerNorm.weight",
    "encoder.embedding_hidden_mapping_in.bias",
    "encoder.albert_layer.attention.query.weight",
    "encoder.albert_layer.attention.value.bias",
    "encoder.albert_layer.act.dense.weight",
    "encoder.albert_layer.act.dense.bias",
    "encoder.albert_layer.full_layer_layer_norm.weight",
    "pooler.bias",
)


def tiny_model(**overrides):
    return builders.model(
        hidden_size=4,
        embedding_size=4,
        num_attention_heads=2,
        intermediate_size=4,
        num_hidden_layers=5,
        **overrides,
    ).double()


@pytest.mark.parametrize("positions", ["absolute", "relative_key_query"])
@pytest.mark.parametrize("of", ["hidden states", "ponder cost"])
def test_gradients_are_those_of_the_function(positions, of):
    model = tiny_model(position_embedding_type=positions)
    attention_mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    embeds = model.get_input_embeddings()(builders.ids(2, 4)).detach().requires_grad_()
    parameters = {name: model.get_parameter(name) for name in CHECKED}
    if of == "ponder cost":
        del parameters["pooler.bias"]
    depths = []

    def function(embeds, *tensors):
        output = functional_call(
            model,
            dict(zip(parameters, tensors, strict=True)),
            kwargs={"inputs_embeds": embeds, "attention_mask": attention_mask},
        )
        depths.append(output.n_updates)
        if of == "ponder cost":
            return output.ponder_cost.sum()
        return output.last_hidden_state, output.pooler_output

    assert torch.autograd.gradcheck(function, (embeds, *parameters.values()))
    # At a tie the depth would jump, and the function have no gradient there.
    assert all(torch.equal(depth, depths[0]) for depth in depths)
    halted = depths[0][depths[0] > 0]
    assert halted.unique().numel() > 1


def test_the_state_is_double_where_the_model_is():
    output = tiny_model()(builders.ids(2, 4))
    assert output.remainders.dtype == torch.float64
    assert output.last_hidden_state.dtype == torch.float64
