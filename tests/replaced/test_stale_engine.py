"""What an engine was made from may change between calls, or while it is made."""

from __future__ import annotations

import itertools

import pytest
import torch
from support.models import random_model
from torch import nn

from albert_act_fast import ops
from albert_act_fast.configuration import POSITION_TYPES
from albert_act_fast.engine import cpu
from tests.replaced.agreement import (
    ENGINES,
    IMPLEMENTATIONS,
    assert_equal,
    assert_equal_or_refused,
    batch_of,
    changed,
    differs,
    every_implementation,
    outputs,
    result_or_refusal,
    tiny,
)

LAYER = "encoder.albert_layer"


def of(path: str, attribute: str, value):
    return lambda model: setattr(model.get_submodule(path), attribute, value)


AFTERWARDS = {
    "activation": of(LAYER, "activation", nn.ReLU()),
    "eps of a norm": of(f"{LAYER}.LayerNorm", "eps", 0.5),
    "eps of the other norm": of(f"{LAYER}.full_layer_layer_norm", "eps", 0.5),
    "eps of the embeddings' norm": of("embeddings.LayerNorm", "eps", 0.5),
    "heads": of(f"{LAYER}.attention", "num_attention_heads", 4),
    "head size": of(f"{LAYER}.attention", "attention_head_size", 2),
    "kind of relative position": of(
        f"{LAYER}.attention", "position_embedding_type", "relative_key"
    ),
    "no relative position": of(f"{LAYER}.attention", "position_embedding_type", "absolute"),
    "absolute positions added": of("embeddings", "position_embedding_type", "absolute"),
    "origin of distances": of(f"{LAYER}.attention", "max_position_embeddings", 11),
    "a norm": lambda m: m.set_submodule(f"{LAYER}.LayerNorm", nn.LayerNorm(16)),
    "a linear": lambda m: m.set_submodule(f"{LAYER}.ffn", nn.Linear(16, 24)),
    "a wider block": lambda m: (
        m.set_submodule(f"{LAYER}.ffn", nn.Linear(16, 40)),
        m.set_submodule(f"{LAYER}.ffn_output", nn.Linear(40, 16)),
    ),
    "halting unit": lambda m: m.set_submodule(f"{LAYER}.act.dense", nn.Linear(16, 1)),
    "a weight by another": lambda m: setattr(
        m.get_submodule(f"{LAYER}.ffn"), "weight", nn.Parameter(torch.ones(24, 16))
    ),
    "two modules in each other's place": lambda m: (
        lambda attention, key, query: (
            setattr(attention, "key", query),
            setattr(attention, "query", key),
        )
    )(
        m.encoder.albert_layer.attention,
        *(getattr(m.encoder.albert_layer.attention, name) for name in ("key", "query")),
    ),
    "a hook": lambda m: m.get_submodule(f"{LAYER}.act").register_forward_hook(
        lambda _, __, p: p / 2
    ),
    "act_epsilon": lambda m: setattr(m.config, "act_epsilon", 0.3),
    "fewer iterations": lambda m: setattr(m.config, "num_hidden_layers", 2),
    "the layer": lambda m: m.set_submodule(
        LAYER, tiny(seed=9, position_embedding_type="relative_key_query").encoder.albert_layer
    ),
}


@pytest.mark.parametrize("name", AFTERWARDS)
@every_implementation
def test_a_change_after_the_first_call(name, implementation):
    # Other heads do not fit a table of distances.
    positions = "absolute" if name == "heads" else "relative_key_query"
    plain = tiny(position_embedding_type=positions)
    batch = batch_of(plain)

    def compute(implementation: str):
        model = changed(plain, lambda _: None)
        for first in (implementation, "auto"):
            outputs(model, first, **batch)
        torch.manual_seed(0)
        AFTERWARDS[name](model)
        return outputs(model, implementation, **batch)

    expected = compute("reference")
    assert differs(expected, outputs(plain, "reference", **batch))
    assert_equal_or_refused(compute, expected, implementation)


CONFIG = {
    "no iterations": {"num_hidden_layers": 0},
    "more iterations": {"num_hidden_layers": 40},
    "heads": {"num_attention_heads": 4},
    "eps": {"layer_norm_eps": 0.5},
    "activation": {"hidden_act": "relu"},
    "positions": {"position_embedding_type": "absolute"},
    "width": {"hidden_size": 32},
    "vocabulary": {"vocab_size": 1000},
    "dropout": {"hidden_dropout_prob": 0.9},
    "threshold above one": {"act_epsilon": -0.5},
    "no threshold": {"act_epsilon": 1.0},
    "fewer than no iterations": {"num_hidden_layers": -1},
}


@pytest.mark.parametrize("called", [True, False], ids=["after a call", "before any"])
@pytest.mark.parametrize("name", CONFIG)
def test_a_configuration_changed_after_construction(name, called):
    """Whether a field still has a meaning is the reference's to say; all others follow it."""
    plain = tiny(position_embedding_type="relative_key_query")
    batch = batch_of(plain)

    def compute(implementation: str):
        model = changed(plain, lambda _: None)
        if called:
            outputs(model, implementation, **batch)
        for field, value in CONFIG[name].items():
            setattr(model.config, field, value)
        return outputs(model, implementation, **batch)

    expected, refusal = result_or_refusal(lambda: compute("reference"))
    for implementation in IMPLEMENTATIONS:
        if refusal is None:
            assert_equal_or_refused(compute, expected, implementation)
        else:
            with pytest.raises(ValueError, match=next(iter(CONFIG[name]))):
                compute(implementation)


@pytest.mark.parametrize("implementation", ["reference", *IMPLEMENTATIONS])
@pytest.mark.parametrize("positions", POSITION_TYPES)
def test_more_positions_than_there_are_in_the_table(positions, implementation):
    model = tiny(position_embedding_type=positions)
    model.config.max_position_embeddings = 500
    ids = torch.ones(1, 40, dtype=torch.int64)
    with torch.no_grad(), pytest.raises((ValueError, IndexError), match=r"position|index"):
        model(ids, implementation=implementation)


def swap(model: nn.Module, weights: dict) -> None:
    with torch.no_grad():
        for name, value in weights.items():
            model.get_parameter(name).copy_(value)


class Swapper:
    """Puts the weights B in A's place between two moments of a call, each the begin or the end of
    a step that reads weights: what a thread that averages weights does, without the thread."""

    def __init__(self, model: nn.Module, monkeypatch):
        self.model, self.moment, self.at = model, 0, {}
        engine, implementation_of = cpu.NativeEngine, ops.implementation_of

        def step(function):
            def run(*args, **kwargs):
                self.pass_by()
                result = function(*args, **kwargs)
                self.pass_by()
                return result

            return run

        monkeypatch.setattr(cpu, "NativeEngine", step(engine))
        monkeypatch.setattr(
            ops,
            "implementation_of",
            lambda name, implementation: (
                step(implementation_of(name, implementation))
                if name == "checksum"
                else implementation_of(name, implementation)
            ),
        )

    def pass_by(self) -> None:
        if self.moment in self.at:
            swap(self.model, self.at[self.moment])
        self.moment += 1

    def call(self, batch: dict, at: dict) -> None:
        self.moment, self.at = 0, at
        outputs(self.model, "cpp", **batch)
        self.at = {}


@pytest.mark.skipif("cpp" not in ENGINES, reason="the C++ operators were not built")
@pytest.mark.parametrize("packed_before", [False, True])
def test_weights_swapped_and_back_while_an_engine_is_made(packed_before, monkeypatch):
    model = tiny()
    batch = batch_of(model)
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    second = {name: p * 1.5 for name, p in first.items()}
    expected = []
    for weights in (first, second):
        swap(model, weights)
        expected.append(outputs(model, "reference", **batch))
    swapper = Swapper(model, monkeypatch)

    def start() -> None:
        """No engine, or one of other weights, so that the next call makes one."""
        swap(model, {name: p * 0.9 for name, p in first.items()})
        if packed_before:
            swapper.call(batch, {})
        swap(model, first)

    start()
    swapper.call(batch, {})
    moments = swapper.moment
    assert moments >= 4, "the engine is made by other steps than those that are watched"
    for there, back in itertools.combinations(range(moments), 2):
        start()
        swapper.call(batch, {there: second, back: first})
        for weights, result in zip((first, second), expected, strict=True):
            swap(model, weights)
            assert_equal(outputs(model, "cpp", **batch), result)


@pytest.mark.skipif("cpp" not in ENGINES, reason="the C++ operators were not built")
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 63, 65, 1001])
def test_every_number_of_a_weight_counts_in_its_place(size):
    checksum = ops.implementation_of("checksum", "cpp")
    seen = {int(checksum([torch.zeros(size)])[0])}
    for place in range(size):
        one = torch.zeros(size)
        one[place] = 1
        seen.add(int(checksum([one])[0]))
    assert len(seen) == size + 1


def test_an_odd_number_of_weights():
    """The last one of an odd count moves to the front."""
    model = random_model(1, "odd")
    batch = batch_of(model)
    weight = model.encoder.albert_layer.ffn.weight
    assert weight.numel() % 2 == 1
    with torch.no_grad():
        weight.zero_()
        weight.view(-1)[0] = 3
        before = outputs(model, "auto", **batch)
        weight.view(-1)[0] = 0
        weight.view(-1)[-1] = 3
    after = outputs(model, "auto", **batch)
    assert differs(before, after)
    assert_equal(after, outputs(model, "reference", **batch))
