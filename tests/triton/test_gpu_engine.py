"""Which calls the GPU engine takes, and what it says of itself."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from support.models import random_model

from albert_act_fast import engine
from albert_act_fast.engine import gpu
from albert_act_fast.engine.gpu import graphs, iterations
from albert_act_fast.engine.gpu.iterations import whose_halting_step
from albert_act_fast.engine.layer import layer_weights
from albert_act_fast.implementations import IMPLEMENTATIONS
from albert_act_fast.kernels import launch_tables

HOW = re.compile(
    r"all iterations without a host sync, "
    r"(7 launches each \(halting step: cuda\)|8 launches each \(halting step: triton\)), "
    r"kernel by kernel: "
)


def test_the_reasons(monkeypatch):
    assert graphs.why_not(torch.device("cuda")) is None
    assert graphs.why_not(torch.device("cpu")) == "there are no CUDA graphs on cpu"
    monkeypatch.setenv(graphs.SWITCH, "0")
    assert graphs.why_not(torch.device("cuda")) == "ALBERT_ACT_FAST_CUDA_GRAPHS=0"
    call = engine.call_of(random_model(0), "triton")
    assert gpu.why_not(call) is None
    assert HOW.match(gpu.describe(call))


def test_layers_the_kernels_cannot_take():
    def reason(change, **overrides):
        model = random_model(0, **overrides)
        change(model.encoder.albert_layer)
        return gpu.why_not(engine.call_of(model, "triton"))

    def replace(layer):
        layer.ffn = torch.nn.utils.parametrizations.weight_norm(layer.ffn)

    def transpose(layer):
        weight = layer.ffn.weight.data
        layer.ffn.weight.data = weight.t().contiguous().t()

    assert reason(replace).endswith("ffn is a ParametrizedLinear, which must be called")
    assert reason(lambda layer: layer.double()) == "the weights are torch.float64"
    mixed = reason(lambda layer: layer.full_layer_layer_norm.bfloat16())
    assert mixed == "output_norm.weight is torch.bfloat16, not torch.float32 as query.weight"
    assert reason(transpose) == "ffn.weight is not contiguous"
    assert reason(lambda _: None, hidden_act="tanh").endswith(
        "activation is a Tanh, which must be called"
    )
    wide = reason(lambda _: None, hidden_size=257, num_attention_heads=1)
    assert wide == "a head has 257 columns, more than 256"


def test_models_say_what_computes_them(monkeypatch):
    model = random_model(0)
    assert model.explain_implementation("reference").startswith("reference (asked for): ")
    assert model.explain_implementation("torch").startswith("torch (asked for): ")
    with pytest.raises(ValueError, match="expected one of auto"):
        model.explain_implementation("fast")
    monkeypatch.setattr("albert_act_fast.implementations.availability", lambda _: {"triton": None})
    assert HOW.search(model.explain_implementation("triton"))


def test_warming_up_runs_every_batch_twice():
    model, shapes = random_model(0), []
    model.register_forward_pre_hook(lambda _, arguments: shapes.append(arguments[0].shape))
    gpu.warm_up(model, [(2, 5), (1, 9)])
    assert shapes == [(2, 5), (2, 5), (1, 9), (1, 9)]


def test_whose_halting_step(monkeypatch):
    """CUDA's where it was built for the GPU and takes rows as wide."""
    layer = layer_weights(random_model(0).encoder.albert_layer)
    reasons = dict.fromkeys(IMPLEMENTATIONS)
    asked = []

    def availability(device):
        asked.append(device)
        return reasons

    monkeypatch.setattr(iterations, "availability", availability)
    assert whose_halting_step(layer) == "cuda"
    assert asked == [layer.query[0].device]
    wide = random_model(0, hidden_size=4104, num_attention_heads=27, intermediate_size=8)
    assert whose_halting_step(layer_weights(wide.encoder.albert_layer)) == "triton"
    reasons["cuda"] = "not built"
    assert whose_halting_step(layer) == "triton"


@pytest.mark.parametrize(
    ("major", "expected"),
    [(8, "sm_80"), (9, "sm_90"), (10, "sm_100"), (11, "sm_120"), (12, "sm_120"), (13, "sm_80")],
)
def test_a_gpu_takes_tiles_that_fit_into_its_shared_memory(major, expected, monkeypatch):
    """What `test_resources.py` says of a table holds for every GPU that takes it."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(major=major)
    )
    launch_tables._gpu_architecture.cache_clear()
    try:
        assert launch_tables.architecture(torch.device("cuda", 0)) == expected
    finally:
        launch_tables._gpu_architecture.cache_clear()
