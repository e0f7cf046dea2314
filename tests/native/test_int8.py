"""int8 products: what rounding they do, and that nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from support.models import mask_of, random_batch, random_lengths, random_model
from torch import nn
from transformers.activations import ACT2FN

from albert_act_fast import native

pytestmark = pytest.mark.skipif(native.why_no_cpp is not None, reason=str(native.why_no_cpp))


# Where there are instructions for it, attention between int8 products is computed in bfloat16.
BFLOAT16_ATTENTION = native.instruction_set() in ("avx512_vnni", "amx")


class RoundedLinear(nn.Module):
    """A linear layer on rounded weights and rounded rows, in float64.

    gives, takes: a dtype that its results, or rows, are rounded to beside.
    """

    def __init__(self, linear: nn.Linear, gives=None, takes=None):
        super().__init__()
        self.bias = linear.bias.double()
        self.weight = self.rounded(linear.weight.double())
        self.gives, self.takes = gives, takes

    @staticmethod
    def rounded(x):
        scale = (x.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-300)
        return (x / scale).round() * scale

    def forward(self, x):
        rows = self.rounded(x.to(self.takes or x.dtype).double())
        result = nn.functional.linear(rows, self.weight, self.bias)
        return result.to(self.gives or x.dtype).to(x.dtype)


def rounded_model(model):
    """The model in plain PyTorch with the layer's linear modules replaced."""
    model = copy.deepcopy(model)
    layer = model.encoder.albert_layer
    attention = layer.attention
    between = torch.bfloat16 if BFLOAT16_ATTENTION else None
    for owner, names, more in (
        (attention, "query key value", {"gives": between}),
        (attention, "dense", {"takes": between}),
        (layer, "ffn ffn_output", {}),
    ):
        for name in names.split():
            setattr(owner, name, RoundedLinear(getattr(owner, name), **more))
    return model


def rms(x):
    return x.double().square().mean().sqrt().item()


def models_and_batch(**config):
    sizes = {"hidden_size": 96, "intermediate_size": 200, "num_attention_heads": 4}
    model = random_model(1, "base", **(sizes | config))
    return model, random_batch(2, model.config, mask_of(random_lengths(2, 7, 40)))


@pytest.mark.parametrize("intermediate_size", [200, 77])
@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new", "relu", "silu"])
@torch.no_grad()
def test_the_rounding_is_that_of_rows_and_outputs(hidden_act, intermediate_size):
    """One iteration, so that a depth decided otherwise hides nothing."""
    model, batch = models_and_batch(
        num_hidden_layers=1, hidden_act=hidden_act, intermediate_size=intermediate_size
    )
    exact = model(**batch, implementation="reference").last_hidden_state
    expected = rounded_model(model)(**batch, implementation="reference").last_hidden_state
    result = model.quantize("int8")(**batch).last_hidden_state
    assert rms(result - exact) > 0
    if BFLOAT16_ATTENTION:
        # What its own rounding moves by little may pass a half of the next one. Measured: 0.98 to
        # 1.03.
        assert rms(result - exact) < 1.1 * rms(expected - exact)
    else:
        # A value halfway between two integers may be rounded either way.
        assert rms(result - expected) < 0.1 * rms(expected - exact)


@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new"])
@torch.no_grad()
def test_activations_are_far_nearer_than_a_step_of_their_row(hidden_act):
    """All of the inner layer's numbers are activation(x), so that rounding them to bytes loses
    nothing, and one of them is added to one of a row's; the rest of the layer adds nothing."""
    model, batch = models_and_batch(num_hidden_layers=1, hidden_act=hidden_act)
    layer = model.encoder.albert_layer
    for linear in (layer.attention.dense, layer.ffn, layer.ffn_output):
        linear.weight.zero_()
        linear.bias.zero_()
    layer.ffn_output.weight[0, 0] = 1
    layer.act.dense.weight.zero_()
    layer.act.dense.bias.fill_(20)
    activation = ACT2FN[hidden_act]
    for x in [*torch.linspace(-9, 9, 91).tolist(), -4.24, -4.26, -1e30, 100.0]:
        layer.ffn.bias.fill_(x)
        x = torch.tensor(x, dtype=torch.float64)
        result = model.quantize("int8")(**batch).last_hidden_state[..., 0].double()
        near = max(5e-5, 1.3e-5 * activation(x).item())
        if BFLOAT16_ATTENTION:
            near += abs(activation(x).item()) / 2**8
        exact = copy.deepcopy(model).quantize(None).double()
        between = []
        for error in (-near, near):
            exact.encoder.albert_layer.ffn_output.bias[0] = error
            between.append(exact(**batch, implementation="reference").last_hidden_state[..., 0])
        least, most = torch.stack(between).sort(0).values
        rounded = 1e-6 * (1 + result.abs())  # in float32, beside the activation
        assert torch.all(result >= least - rounded), (x, (least - result).max())
        assert torch.all(result <= most + rounded), (x, (result - most).max())


@torch.no_grad()
def test_sums_of_the_largest_numbers_are_exact():
    """All of a row's and an output's numbers are 127 or -127, their products of one sign: more than
    16 bits hold of two of them, where rows are uint8."""
    model, batch = models_and_batch(num_hidden_layers=1, hidden_act="relu")
    layer = model.encoder.albert_layer
    signs = torch.ones(model.config.hidden_size)
    signs[torch.randperm(len(signs), generator=torch.Generator().manual_seed(3))[::2]] = -1
    mapping = model.encoder.embedding_hidden_mapping_in
    mapping.weight.zero_()
    mapping.bias.copy_(signs)  # every token's state
    attention = layer.attention
    for linear in (attention.query, attention.key, attention.value, attention.dense, layer.ffn):
        outputs = torch.ones(linear.out_features)
        outputs[: len(signs)] = signs
        linear.weight.copy_(outputs.outer(signs) / len(signs))  # gives `outputs`
        linear.bias.zero_()
    layer.ffn_output.weight.copy_(layer.ffn_output.weight.sign())
    expected = rounded_model(model)(**batch, implementation="reference").last_hidden_state
    result = model.quantize("int8")(**batch).last_hidden_state
    assert rms(expected) > 0.5
    assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_more_iterations_stay_as_near_as_plain_rounding():
    model, batch = models_and_batch()
    exact = model(**batch, implementation="reference")
    plain = rounded_model(model)(**batch, implementation="reference")
    result = model.quantize("int8")(**batch)
    error = rms(result.last_hidden_state - exact.last_hidden_state)
    assert error <= 2 * rms(plain.last_hidden_state - exact.last_hidden_state)


@torch.no_grad()
def test_it_can_be_undone_and_follows_the_weights():
    model, batch = models_and_batch()
    before = model(**batch).last_hidden_state
    int8 = model.quantize("int8")(**batch).last_hidden_state
    assert torch.equal(model.quantize(None)(**batch).last_hidden_state, before)
    model.encoder.albert_layer.ffn.weight.data.mul_(1.5)
    changed = model.quantize("int8")(**batch).last_hidden_state
    assert not torch.equal(changed, int8)


@torch.no_grad()
def test_a_row_that_is_nan_stays_alone():
    model, batch = models_and_batch()
    clean = model.quantize("int8")(**batch).last_hidden_state
    embeds = model.embeddings.word_embeddings(batch.pop("input_ids"))
    embeds[1, 0] = float("nan")
    result = model(inputs_embeds=embeds, **batch).last_hidden_state
    others = torch.arange(len(embeds)) != 1
    assert torch.equal(result[others], clean[others])
    assert result[1].isnan().any()


def test_it_is_kept_with_the_model(tmp_path):
    model, batch = models_and_batch()
    model.quantize().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert again.config.quantization == "int8"
    with torch.no_grad():
        assert torch.equal(again(**batch).last_hidden_state, model(**batch).last_hidden_state)


def test_what_cannot_be_met_is_refused():
    model, batch = models_and_batch()
    with pytest.raises(ValueError, match="quantization: got 'int4', expected None or 'int8'"):
        model.quantize("int4")
    model.quantize("int8")
    with torch.no_grad():
        model(**batch, implementation="reference")
        for arguments in ({"implementation": "torch"}, {"output_attentions": True}):
            with pytest.raises(ValueError, match="which only implementation 'cpp' computes"):
                model(**batch, **arguments)
        model.encoder.albert_layer.ffn.register_forward_hook(lambda *_: None)
        with pytest.raises(
            ValueError,
            match=r"got 'reference' .*ffn has hooks",
        ):
            model(**batch)
