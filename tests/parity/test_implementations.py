"""Which implementation runs: who decides, what cannot be met, and why."""

from __future__ import annotations

import re

import pytest
import torch
from support import forked
from support.engines import ON_CPU
from support.models import mask_of, random_batch, random_model

from albert_act_fast import engine, implementations, use_implementation
from albert_act_fast.implementations import (
    DIFFERENTIABLE,
    ENGINE_IMPLEMENTATIONS,
    IMPLEMENTATIONS,
    PREFERENCE,
    availability,
    choose,
)

FASTEST_ON_CPU = next(name for name in PREFERENCE["cpu"] if name in ON_CPU)


def test_argument_before_context_before_config():
    assert choose(None, "auto").name == FASTEST_ON_CPU
    assert choose(None, "reference").name == "reference"
    assert choose("torch", "reference").name == "torch"
    with use_implementation("reference"):
        assert choose(None, "torch").name == "reference"
        assert choose("torch", "auto").name == "torch"
        with use_implementation("torch"):
            assert choose(None, "auto").name == "torch"
        assert choose(None, "auto").name == "reference"
    assert choose(None, "torch").name == "torch"


def test_the_context_ends_with_an_error_too():
    with pytest.raises(KeyError), use_implementation("reference"):
        raise KeyError
    assert choose().name == FASTEST_ON_CPU


def test_auto_in_an_argument_or_a_context_overrides_what_is_below_it():
    assert choose("auto", "reference").name == FASTEST_ON_CPU
    with use_implementation("auto"):
        assert choose(None, "reference").name == FASTEST_ON_CPU


@pytest.mark.parametrize("place", ["argument", "context", "config"])
def test_unknown_name(place):
    expected = r"implementation: got 'fast', expected one of auto, reference, torch"
    ask = {
        "argument": lambda: choose("fast"),
        "context": lambda: use_implementation("fast").__enter__(),
        "config": lambda: choose(None, "fast"),
    }[place]
    with pytest.raises(ValueError, match=expected):
        ask()
    assert choose().name == FASTEST_ON_CPU


def test_auto_takes_the_reference_and_says_why():
    choice = choose(needs_reference=["head_mask was given", "gradients are enabled"])
    assert choice.name == "reference"
    assert choice.reason == "head_mask was given; gradients are enabled"
    assert choose("reference", needs_reference=["head_mask was given"]).name == "reference"
    assert choose().reason == "the first available for cpu"


@pytest.mark.parametrize("name", ENGINE_IMPLEMENTATIONS)
def test_an_explicit_engine_does_not_give_way(name):
    with pytest.raises(ValueError, match=rf"got '{name}'.*cannot be met: head_mask was given"):
        choose(name, needs_reference=["head_mask was given"])


@pytest.mark.parametrize("name", [name for name in ENGINE_IMPLEMENTATIONS if name in ON_CPU])
def test_gradients_in_eval_mode(name):
    choice = choose(name, gradients="gradients are enabled")
    assert choice.name == name
    assert (choice.gradients, choice.recompute) == (
        name in DIFFERENTIABLE,
        name not in DIFFERENTIABLE,
    )
    assert choose("auto", gradients="gradients are enabled").name == FASTEST_ON_CPU
    assert choose("reference", gradients="gradients are enabled").gradients


@pytest.mark.parametrize("name", ENGINE_IMPLEMENTATIONS)
def test_training(name):
    training = "the model is in training mode"
    assert choose("auto", training=training).name == "torch"
    assert choose("reference", training=training).name == "reference"
    if name in DIFFERENTIABLE:
        assert choose(name, training=training).gradients
    else:
        with pytest.raises(ValueError, match=rf"got '{name}'.*cannot be met: {training}"):
            choose(name, training=training)


def test_every_implementation_has_its_place_and_its_engines():
    assert {name for names in PREFERENCE.values() for name in names} == set(ENGINE_IMPLEMENTATIONS)
    assert set(engine.ENGINES) == set(ENGINE_IMPLEMENTATIONS)


@pytest.mark.parametrize("device", PREFERENCE)
def test_no_implementation_lacks_some_operators(device):
    """It would be passed over without a word, by "auto" and by the tests that ask what there is."""
    for name in PREFERENCE[device]:
        assert "operators missing" not in (availability(device)[name] or "")


def test_availability_gives_a_reason():
    for device in ("cpu", "cuda", torch.device("cuda", 1)):
        reasons = availability(device)
        assert tuple(reasons) == IMPLEMENTATIONS
        assert reasons["reference"] is reasons["torch"] is None
    assert "no triton kernels for cpu" in availability("cpu")["triton"]
    assert "CUDA operators were" in availability("cpu")["cuda"]  # built, or not: on no CPU
    availability("cpu")["torch"] = "changed by a caller"
    assert availability("cpu")["torch"] is None


def test_what_is_not_available_is_refused_with_the_reason():
    for name, reason in availability("cpu").items():
        if reason is not None:
            with pytest.raises(ValueError, match=re.escape(f"got {name!r}, but {reason}")):
                choose(name)


def test_auto_without_any_kernels(monkeypatch):
    missing = dict.fromkeys(IMPLEMENTATIONS, "no kernels")
    monkeypatch.setattr(implementations, "availability", lambda device: missing)
    with pytest.raises(RuntimeError, match="no engine implementation has kernels for cpu"):
        choose()


@pytest.fixture
def ran(monkeypatch):
    """Names of the engine implementations that ran; empty where the reference did."""
    names = []

    def spy(call, *arguments):
        names.append("with gradients" if call.gradients else call.implementation)
        return original(call, *arguments)

    original = engine.encode
    monkeypatch.setattr(engine, "encode", spy)
    return names


@pytest.fixture
def model_and_inputs():
    model = random_model(0)
    return model, random_batch(0, model.config, mask_of([5, 3]))


def test_the_engine_is_the_default_in_inference(ran, model_and_inputs):
    model, inputs = model_and_inputs
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            model(**inputs)
    assert ran == [FASTEST_ON_CPU] * 2
    model.requires_grad_(False)
    model(**inputs)  # nothing could want a gradient
    assert len(ran) == 3


def test_config_context_and_argument_reach_the_model(ran, model_and_inputs):
    model, inputs = model_and_inputs
    with torch.no_grad():
        with use_implementation("reference"):
            model(**inputs)
            assert ran == []
            model(**inputs, implementation="torch")
            assert ran == ["torch"]
        model.config.implementation = "reference"
        model(**inputs)
        assert ran == ["torch"]
        with use_implementation("torch"):
            model(**inputs)
        assert ran == ["torch", "torch"]
        with pytest.raises(ValueError, match="implementation: got 'fastest'"):
            model(**inputs, implementation="fastest")


NEEDS = {
    "output_attentions": {"output_attentions": True},
    "output_hidden_states": {"output_hidden_states": True},
    "head_mask": {"head_mask": torch.ones(4)},
}


@pytest.mark.parametrize(("reason", "arguments"), NEEDS.items(), ids=list(NEEDS))
def test_what_only_the_dense_loop_has(reason, arguments, ran, model_and_inputs):
    model, inputs = model_and_inputs
    with torch.no_grad():
        plain = model(**inputs, implementation="reference")
        extra = model(**inputs, **arguments)
        assert ran == []
        assert torch.equal(plain.last_hidden_state, extra.last_hidden_state)
        with pytest.raises(ValueError, match=f"got 'torch', which cannot be met: {reason} was"):
            model(**inputs, **arguments, implementation="torch")
        model.config.implementation = "torch"
        with pytest.raises(ValueError, match=f"which cannot be met: {reason} was"):
            model(**inputs, **arguments)
    assert ran == []


def test_training_takes_the_engine_with_gradients(ran, model_and_inputs):
    model, inputs = model_and_inputs
    model.train()
    model(**inputs).last_hidden_state.sum().backward()
    assert ran == ["with gradients"]
    model(**inputs, implementation="reference").last_hidden_state.sum().backward()
    assert len(ran) == 1
    with torch.no_grad():
        model(**inputs)
    assert ran == ["with gradients"] * 2


def test_gradients_in_eval_mode_are_computed_where_they_are_asked_for(ran, model_and_inputs):
    model, inputs = model_and_inputs
    output = model(**inputs)
    assert ran == [FASTEST_ON_CPU] if FASTEST_ON_CPU != "torch" else ["with gradients"]
    output.last_hidden_state.sum().backward()
    assert ran[-1] == "with gradients"
    model.requires_grad_(False)
    embeds = model.embeddings.word_embeddings(inputs.pop("input_ids")).requires_grad_()
    for implementation in ("auto", "torch"):
        embeds.grad = None
        output = model(**inputs, inputs_embeds=embeds, implementation=implementation)
        output.last_hidden_state.sum().backward()
        assert embeds.grad.abs().sum() > 0


def test_weights_of_several_dtypes_run_on_plain_pytorch():
    model = random_model(2)
    model = model.to(torch.bfloat16)
    model.encoder.albert_layer.act.float()
    batch = random_batch(3, model.config, mask_of([5, 9]))
    assert "several dtypes" in model.explain_implementation()
    with torch.no_grad():
        expected = model(**batch, implementation="reference")
        result = model(**batch)
        assert torch.equal(result.n_updates, expected.n_updates)
        for name in set(ENGINE_IMPLEMENTATIONS) - {"torch"}:
            with pytest.raises(ValueError, match=rf"'{name}'.*(several dtypes|no {name}|built)"):
                model(**batch, implementation=name)


def test_a_checkpointed_layer_s_own_call_keeps_no_engine_away():
    """Some releases of transformers (5.20) give layers that can be checkpointed a `__call__`."""
    code = """
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
def call(self, *args, **kwargs):
    return nn.Module.__call__(self, *args, **kwargs)
GradientCheckpointingLayer.__call__ = call
from albert_act_fast import AlbertActConfig, AlbertActModel
config = AlbertActConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, intermediate_size=8)
print(AlbertActModel(config).eval().explain_implementation("torch"))
"""
    done = forked.run(code)
    assert done.stdout.startswith("torch (asked for)"), done.stderr
