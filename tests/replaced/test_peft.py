"""Adapters of `peft`: an adapted model computes what the merged model computes, and is trained as
by the reference, wherever the adapter sits."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from torch import nn

from albert_act_fast import AlbertActForSequenceClassification, AlbertActModel
from tests.replaced.agreement import (
    GRADIENT_ROUNDING,
    IMPLEMENTATIONS,
    assert_equal,
    assert_equal_or_refused,
    batch_of,
    differs,
    gradients,
    outputs,
    tiny,
)

NORMS = ["LayerNorm", "full_layer_layer_norm"]
LORA = {
    "query and value": {"target_modules": ["query", "value"]},
    # Of the attention and of the halting unit.
    "dense": {"target_modules": ["dense"]},
    "word embeddings": {"target_modules": ["word_embeddings"]},
    "position embeddings": {"target_modules": ["position_embeddings"]},
    "all linear": {"target_modules": "all-linear"},
    "linear and embeddings": {"target_modules": ["ffn", "dense", "word_embeddings"]},
    "DoRA": {"target_modules": ["query", "ffn", "dense"], "use_dora": True},
    "rank-stabilised": {"target_modules": ["ffn_output"], "use_rslora": True},
}
SAVED = {
    "word embeddings": {"target_modules": ["query"], "modules_to_save": ["word_embeddings"]},
    "norm": {"target_modules": ["query"], "modules_to_save": ["full_layer_layer_norm"]},
    "halting unit": {"target_modules": ["query"], "modules_to_save": ["act"]},
    "tables": {
        "target_modules": ["query"],
        "modules_to_save": ["position_embeddings", "token_type_embeddings", "distance_embedding"],
    },
}
CONFIGS = {
    **{f"lora of {name}": lambda f=f: peft.LoraConfig(r=3, **f) for name, f in LORA.items()},
    **{f"saved {name}": lambda f=f: peft.LoraConfig(r=3, **f) for name, f in SAVED.items()},
    "layer norms": lambda: peft.LNTuningConfig(target_modules=NORMS),
    "ia3": lambda: peft.IA3Config(
        target_modules=["key", "value", "ffn_output", "act.dense"],
        feedforward_modules=["ffn_output", "act.dense"],
    ),
}
every_config = pytest.mark.parametrize("name", CONFIGS)


def adapted(model: nn.Module, name: str, *, fresh: bool = False) -> peft.PeftModel:
    """The model with an adapter that says nothing yet, or one as if it had been trained."""
    model = peft.get_peft_model(copy.deepcopy(model), CONFIGS[name]()).eval()
    if not fresh:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(0.2 * noise.to(parameter.dtype))
    return model


def compute(model: peft.PeftModel, batch: dict):
    return lambda implementation: outputs(model, implementation, **batch)


@every_config
def test_a_fresh_adapter_changes_nothing(name):
    plain = tiny()
    batch = batch_of(plain)
    expected = outputs(plain, "reference", **batch)
    model = adapted(plain, name, fresh=True)
    for implementation in ("reference", *IMPLEMENTATIONS):
        assert_equal_or_refused(compute(model, batch), expected, implementation)


@every_config
def test_a_trained_adapter_equals_the_merged_model(name):
    plain = tiny()
    batch = batch_of(plain)
    model = adapted(plain, name)
    merged = copy.deepcopy(model).merge_and_unload()
    assert not [m for m in merged.modules() if type(m).__module__.startswith("peft.")]
    expected = outputs(merged, "reference", **batch)
    assert differs(expected, outputs(plain, "reference", **batch)), "the adapter says nothing"
    for implementation in ("reference", *IMPLEMENTATIONS):
        assert_equal_or_refused(compute(model, batch), expected, implementation)


@every_config
def test_the_merged_model_runs_as_a_plain_one_does(name):
    plain = tiny()
    batch = batch_of(plain)
    model = adapted(plain, name)
    outputs(model, "auto", **batch)  # what that call took must not stick
    merged = model.merge_and_unload()
    expected = outputs(merged, "reference", **batch)
    with torch.no_grad():
        assert merged.explain_implementation() == plain.explain_implementation()
    for implementation in IMPLEMENTATIONS:
        assert not assert_equal_or_refused(compute(merged, batch), expected, implementation)


@every_config
def test_merging_and_unmerging_in_place(name):
    plain = tiny()
    batch = batch_of(plain)
    model = adapted(plain, name)
    expected = outputs(model, "reference", **batch)
    model.merge_adapter()
    for implementation in ("reference", *IMPLEMENTATIONS):
        assert_equal_or_refused(compute(model, batch), expected, implementation)
    model.unmerge_adapter()
    with model.disable_adapter():
        without = outputs(plain, "reference", **batch)
        for implementation in ("reference", *IMPLEMENTATIONS):
            assert_equal_or_refused(compute(model, batch), without, implementation)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@every_config
def test_gradients_reach_every_weight_of_the_adapter(name, training):
    plain = tiny(AlbertActForSequenceClassification, dtype=torch.float64)
    batch = batch_of(plain, labels=True)
    model = adapted(plain, name).double().train(training)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    expected = gradients(model, "reference", **batch)
    assert expected.keys() - {"loss"} == trained
    for parameter, gradient in expected.items():
        assert gradient.any(), f"{parameter} is not trained"
    for implementation in ("auto", "torch"):
        assert_equal_or_refused(
            lambda implementation: gradients(model, implementation, **batch),
            expected,
            implementation,
            rounding=GRADIENT_ROUNDING,
        )


def test_the_reference_trains_an_adapter_as_if_merged():
    """A step along an adapter's gradient is a step of the merged weight: against a difference."""
    plain = tiny(dtype=torch.float64)
    batch = batch_of(plain)
    model = adapted(plain, "lora of dense").double()
    found = gradients(model, "reference", **batch)
    name = next(n for n in found if "act.dense.lora_B" in n)
    parameter = model.get_parameter(name)

    def loss(step: float) -> float:
        twin = copy.deepcopy(model)
        with torch.no_grad():
            twin.get_parameter(name).add_(step)
        return gradients(twin.merge_and_unload().requires_grad_(), "reference", **batch)["loss"]

    step = 1e-6
    difference = (loss(step) - loss(-step)) / (2 * step)
    assert parameter.numel() == 3
    torch.testing.assert_close(found[name].sum(), difference, rtol=1e-6, atol=0)


def test_linear_adapters_run_on_the_engine():
    """They compute row by row: packed rows are all they need."""
    plain = tiny(AlbertActModel)
    batch = batch_of(plain)
    for name in ("lora of query and value", "lora of all linear"):
        model = adapted(plain, name)
        expected = outputs(model, "reference", **batch)
        assert_equal(outputs(model, "torch", **batch), expected)
        with torch.no_grad():
            chosen = model.base_model.model.explain_implementation()
        assert not chosen.startswith("reference"), chosen
