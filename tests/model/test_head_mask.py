"""head_mask: multiplies the attention weights of one head, in all iterations or in one."""

import pytest
import torch
from support import models as builders
from support.models import assert_close


def silenced(model, head: int):
    """The same model with that head's values zeroed, so that it adds nothing."""
    attention = model.encoder.albert_layer.attention
    size = attention.attention_head_size
    rows = slice(head * size, (head + 1) * size)
    with torch.no_grad():
        attention.value.weight[rows] = 0
        attention.value.bias[rows] = 0
    return model


@pytest.mark.parametrize("per_iteration", [False, True], ids=["[A]", "[N, A]"])
@torch.no_grad()
def test_a_masked_head_has_no_effect(per_iteration):
    inputs = builders.batch()
    head_mask = torch.tensor([1.0, 0.0, 1.0, 1.0])
    if per_iteration:
        head_mask = head_mask.expand(8, 4)
    masked = builders.model()(**inputs, head_mask=head_mask)
    expected = silenced(builders.model(), head=1)(**inputs)
    unmasked = builders.model()(**inputs)
    assert_close(masked.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(masked.n_updates, expected.n_updates)
    assert not torch.allclose(masked.last_hidden_state, unmasked.last_hidden_state, atol=1e-3)


@torch.no_grad()
def test_a_mask_for_one_iteration_acts_in_that_iteration_alone():
    model, inputs = builders.model(), builders.batch()
    head_mask = torch.ones(8, 4)
    head_mask[1, 2] = 0
    masked = model(**inputs, head_mask=head_mask, output_attentions=True, output_hidden_states=True)
    plain = model(**inputs, output_attentions=True, output_hidden_states=True)
    assert torch.equal(masked.hidden_states[1], plain.hidden_states[1])
    assert not torch.allclose(masked.hidden_states[2], plain.hidden_states[2])
    heads_of_masked = [[head.any().item() for head in w.unbind(1)] for w in masked.attentions]
    assert heads_of_masked[1] == [True, True, False, True]
    assert all(heads == [True] * 4 for heads in heads_of_masked[:1] + heads_of_masked[2:])


@torch.no_grad()
def test_a_mask_of_ones_changes_nothing():
    model, inputs = builders.model(), builders.batch()
    plain, masked = model(**inputs), model(**inputs, head_mask=torch.ones(4))
    assert_close(masked.last_hidden_state, plain.last_hidden_state)


def test_gradients_reach_the_head_mask():
    model, inputs = builders.model(), builders.batch()
    head_mask = torch.tensor([1.0, 0.0, 1.0, 1.0], requires_grad=True)
    output = model(**inputs, head_mask=head_mask)
    output.last_hidden_state.pow(2).sum().backward()
    assert head_mask.grad.shape == (4,)
    assert (head_mask.grad != 0).all()


def test_a_masked_head_s_value_projection_gets_no_gradient():
    model, inputs = builders.model(), builders.batch()
    model(**inputs, head_mask=torch.tensor([0.0, 1.0, 1.0, 1.0])).last_hidden_state.pow(
        2
    ).sum().backward()
    gradient = model.encoder.albert_layer.attention.value.weight.grad
    assert not gradient[:4].any()
    assert gradient[4:].any(1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mask_dtype", [torch.float32, torch.int64, torch.bool])
@torch.no_grad()
def test_the_mask_need_not_have_the_model_s_dtype(dtype, mask_dtype):
    model, inputs = builders.model().to(dtype), builders.batch()
    output = model(**inputs, head_mask=torch.tensor([1, 0, 1, 1], dtype=mask_dtype))
    expected = model(**inputs, head_mask=torch.tensor([1, 0, 1, 1], dtype=dtype))
    assert output.last_hidden_state.dtype == dtype
    assert torch.equal(output.last_hidden_state, expected.last_hidden_state)


def test_a_mask_of_another_shape_is_refused_before_any_work():
    model, inputs = builders.model(), builders.batch()
    with pytest.raises(ValueError, match=r"head_mask: got shape \(8, 3\), expected \[num_att"):
        model(**inputs, head_mask=torch.ones(8, 3))
