"""Ties with the threshold and NaN: here the engine must decide exactly as the reference does."""

from __future__ import annotations

import pytest
import torch
from support.compare import run, trace_reference
from support.engines import ENGINES
from support.models import mask_of, random_batch, random_model
from torch import nn

from albert_act_fast.engine import row_wise

every_engine = pytest.mark.parametrize(("device", "implementation"), ENGINES)

HIDDEN_ERROR = 4e-5  # 1e-5 of hidden states that are LayerNorm outputs, a few units large


def both(model, inputs, implementation, device):
    """Engine and reference, back on the CPU."""
    model = model.to(device)
    inputs = {k: v.to(device) for k, v in inputs.items()}
    engine, reference = run(model, implementation, **inputs), trace_reference(model, **inputs)
    iterations = reference.weights.size(0)
    fields = ("last_hidden_state", "n_updates", "remainders")
    return *({f: o[f].cpu() for f in fields} for o in (engine, reference.output)), iterations


def assert_same(engine: dict, reference: dict) -> None:
    assert torch.equal(engine["n_updates"], reference["n_updates"])
    for field in ("last_hidden_state", "remainders"):
        torch.testing.assert_close(
            engine[field], reference[field], rtol=0, atol=HIDDEN_ERROR, equal_nan=True
        )


TIED, OTHER = 3, 5


def model_with_two_kinds(tied_logit: float, other_logit: float, **overrides):
    """At every iteration TIED has a halting logit of exactly `tied_logit`, OTHER `other_logit`.

    The layer is made to compute LayerNorm alone, and TIED's embedding is 0, which LayerNorm keeps.
    """
    model = random_model(0, **overrides)
    layer = model.encoder.albert_layer
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[TIED] = 0
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(1)
                module.bias.zero_()
        for module in (layer.attention.dense, layer.ffn_output):
            module.weight.zero_()
            module.bias.zero_()
        model.embeddings.position_embeddings.weight.zero_()
        model.embeddings.token_type_embeddings.weight.zero_()
        model.encoder.embedding_hidden_mapping_in.bias.zero_()
        embedded = model.embeddings.LayerNorm(model.embeddings.word_embeddings.weight[OTHER])
        normalised = layer.LayerNorm(model.encoder.embedding_hidden_mapping_in(embedded))
        layer.act.dense.weight[0] = (other_logit - tied_logit) * normalised / normalised.numel()
        layer.act.dense.bias.fill_(tied_logit)
    return model


def ids_of_two_kinds(rows: list[str]) -> dict[str, torch.Tensor]:
    """One letter a token: t, o, and . for padding."""
    return {
        "input_ids": torch.tensor([[{"t": TIED, "o": OTHER, ".": 1}[c] for c in r] for r in rows]),
        "attention_mask": torch.tensor([[int(c != ".") for c in r] for r in rows]),
    }


@every_engine
def test_all_at_the_threshold(device, implementation):
    """p = 0.5 exactly and a threshold of 0.5: reached, not passed, and nobody asks to go on."""
    model = random_model(0, act_epsilon=0.5)
    with torch.no_grad():
        model.encoder.albert_layer.act.dense.weight.zero_()
        model.encoder.albert_layer.act.dense.bias.zero_()
    mask = mask_of([5, 1, 8])
    engine, reference, iterations = both(
        model, random_batch(0, model.config, mask), implementation, device
    )
    assert iterations == 1
    for output in (engine, reference):
        assert torch.equal(output["n_updates"], mask.float())
        assert output["remainders"].abs().max() == 0
    assert_same(engine, reference)


@every_engine
@pytest.mark.parametrize("rows", [["ttt", "oo."], ["tot", "t.."], ["ttt", "ttt", "..o"]])
def test_at_the_threshold_while_others_go_on(rows, device, implementation):
    """Asked along by a token of any sequence, it passes in iteration 2 with remainder 0.5."""
    model = model_with_two_kinds(0.0, -4.0, act_epsilon=0.5, num_hidden_layers=6)
    inputs = ids_of_two_kinds(rows)
    engine, reference, iterations = both(model, inputs, implementation, device)
    assert iterations == 6
    tied = inputs["input_ids"] == TIED
    for output in (engine, reference):
        assert set(output["n_updates"][tied].tolist()) == {2.0}
        assert set(output["remainders"][tied].tolist()) == {0.5}
        assert set(output["n_updates"][inputs["input_ids"] == OTHER].tolist()) == {6.0}
    assert_same(engine, reference)


@every_engine
@pytest.mark.parametrize("rows", [["ttt", "oo."], ["tot", "t.."], ["ttt"]])
def test_exactly_one_while_others_go_on(rows, device, implementation):
    """p = 1 and a threshold of 1: reached, not passed, and yet never updated again."""
    model = model_with_two_kinds(40.0, -1.0, act_epsilon=0, num_hidden_layers=6)
    inputs = ids_of_two_kinds(rows)
    engine, reference, iterations = both(model, inputs, implementation, device)
    assert iterations == (4 if "o" in "".join(rows) else 1)
    tied = inputs["input_ids"] == TIED
    for output in (engine, reference):
        assert set(output["n_updates"][tied].tolist()) == {1.0}
        assert set(output["remainders"][tied].tolist()) == {0.0}
    assert_same(engine, reference)


@every_engine
def test_saturated_probabilities(device, implementation):
    """Logits up to 75: p = 1 and p below 1e-30 side by side, at every threshold."""
    for epsilon in (0, 0.01, 0.5):
        model = random_model(0, halting_bias=0.0, halting_spread=25.0, act_epsilon=epsilon)
        inputs = random_batch(0, model.config, mask_of([9, 30, 17, 1]))
        engine, reference, _ = both(model, inputs, implementation, device)
        assert reference["n_updates"].unique().numel() > 2
        assert_same(engine, reference)


@every_engine
@pytest.mark.parametrize("position", ["absolute", "relative_key_query"])
def test_a_nan_token_ends_its_own_sequence_only(position, device, implementation):
    model = random_model(7, position_embedding_type=position)
    mask = mask_of([6, 11, 1, 8])
    inputs = random_batch(7, model.config, mask)
    with torch.no_grad():
        inputs["inputs_embeds"] = model.embeddings.word_embeddings(inputs.pop("input_ids"))
    clean, _, _ = both(model, inputs, implementation, device)
    inputs["inputs_embeds"][1, 4, 2] = float("nan")
    engine, reference, _ = both(model, inputs, implementation, device)
    assert_same(engine, reference)
    # Every token of the sequence sees the NaN key in the first iteration.
    assert engine["last_hidden_state"][1].isnan().all()
    assert engine["n_updates"][1].abs().max() == 0
    assert engine["remainders"][1].abs().max() == 0
    others = [0, 2, 3]
    assert not engine["last_hidden_state"][others].isnan().any()
    assert_same({k: v[others] for k, v in engine.items()}, {k: v[others] for k, v in clean.items()})


WEIGHTS = (
    "embeddings.LayerNorm.weight",
    "encoder.embedding_hidden_mapping_in.weight",
    "encoder.albert_layer.attention.value.weight",
    "encoder.albert_layer.ffn.bias",
    "encoder.albert_layer.full_layer_layer_norm.bias",
    "encoder.albert_layer.act.dense.weight",
    "encoder.albert_layer.act.dense.bias",
)


@every_engine
@pytest.mark.parametrize("weight", WEIGHTS)
def test_nan_weights_end_after_one_iteration(weight, device, implementation):
    model = random_model(8, num_hidden_layers=24)
    with torch.no_grad():
        model.get_parameter(weight).fill_(float("nan"))
    mask = mask_of([6, 0, 3])
    engine, reference, iterations = both(
        model, random_batch(8, model.config, mask), implementation, device
    )
    assert iterations == 1
    assert_same(engine, reference)
    assert engine["n_updates"].abs().max() == 0
    assert torch.equal(engine["last_hidden_state"].isnan().all(-1), mask.bool())
    assert not engine["last_hidden_state"][mask == 0].isnan().any()


@every_engine
def test_one_word_is_nan(device, implementation):
    """A NaN row of the vocabulary at padding is no token's business, at a token it is."""
    model = random_model(9)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[7] = float("nan")
    mask = mask_of([6, 11, 9, 8])
    inputs = random_batch(9, model.config, mask)
    inputs["input_ids"][inputs["input_ids"] == 7] = 8
    inputs["input_ids"][mask == 0] = 7
    engine, reference, _ = both(model, inputs, implementation, device)
    assert not engine["last_hidden_state"].isnan().any()
    assert_same(engine, reference)
    inputs["input_ids"][2, 8] = 7
    engine, reference, _ = both(model, inputs, implementation, device)
    assert engine["last_hidden_state"].isnan().all(-1).all(1).tolist() == [False] * 4
    assert engine["last_hidden_state"][2, :9].isnan().all()
    assert_same(engine, reference)


@row_wise.declare
class NanAbove(nn.Module):
    """GELU, but NaN above a limit: what an overflow in the middle of the loop does."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit

    def forward(self, x):
        return torch.where(x > self.limit, torch.nan, nn.functional.gelu(x))


@every_engine
def test_nan_that_arises_in_the_middle(device, implementation):
    """Tokens that halted before stay as they are; those still running see it an iteration later."""
    model = random_model(10)
    mask = mask_of([20] * 12)
    inputs = random_batch(10, model.config, mask)
    seen = []
    hook = model.encoder.albert_layer.ffn.register_forward_hook(lambda *a: seen.append(a[2]))
    run(model, "reference", **inputs)
    hook.remove()
    first, later = (x.amax((1, 2)) for x in (seen[0], torch.stack(seen).amax(0)))
    limit = (first.max() + later.max()).item() / 2
    model.encoder.albert_layer.activation = NanAbove(limit)
    engine, reference, _ = both(model, inputs, implementation, device)
    is_nan = engine["last_hidden_state"].isnan().all(-1)
    mixed = is_nan.any(1) & ~is_nan.all(1)
    assert mixed.any(), "no sequence has both tokens that halted before and NaN ones"
    assert not is_nan.any(1).all()
    assert engine["n_updates"][is_nan].min() >= 1
    assert_same(engine, reference)
