"""A walk over all modules of a model, each changed in every way: engine equals reference, or says
why it cannot be asked for. A module added to the model later is walked too."""

from __future__ import annotations

import functools

import pytest
from torch import nn

from albert_act_fast import (
    AlbertActForMaskedLM,
    AlbertActForSequenceClassification,
    AlbertActModel,
)
from tests.replaced.agreement import (
    IMPLEMENTATIONS,
    assert_equal_or_refused,
    batch_of,
    changed,
    differs,
    every_implementation,
    outputs,
    result_or_refusal,
    tiny,
)
from tests.replaced.changes import changes_of, hook

WALKED = {
    "absolute": (AlbertActModel, "absolute"),
    "relative": (AlbertActModel, "relative_key_query"),
    "masked_lm": (AlbertActForMaskedLM, "relative_key_query"),
    "classifier": (AlbertActForSequenceClassification, "absolute"),
}


@functools.cache
def walked(name: str) -> nn.Module:
    cls, positions = WALKED[name]
    return tiny(cls, position_embedding_type=positions)


def cases() -> list:
    return [
        pytest.param(name, path, change, id=f"{name}-{path or 'model'}-{change.__name__}")
        for name in WALKED
        for path, module in walked(name).named_modules()
        for change in changes_of(module)
        # Below a head stands the model that is walked in full by itself.
        if not path.startswith("albert.") or change is hook
    ]


@pytest.mark.parametrize(("name", "path", "change"), cases())
def test_a_changed_module(name, path, change):
    plain = walked(name)
    batch = batch_of(plain)

    def compute(implementation: str):
        # Changed anew every time: a call of one implementation may renew what another one reads.
        model = changed(plain, lambda m: change(m.get_submodule(path)))
        return outputs(model, implementation, **batch)

    expected = compute("reference")
    if is_unused(plain, path):
        assert not differs(expected, outputs(plain, "reference", **batch))
    else:
        assert differs(expected, outputs(plain, "reference", **batch)), "the change changes nothing"
    for implementation in IMPLEMENTATIONS:
        named = [path.rpartition(".")[2]]
        assert_equal_or_refused(compute, expected, implementation, named)


def is_unused(model: nn.Module, path: str) -> bool:
    """ALBERT's embeddings have a table of positions, relative positions or not."""
    positions = model.config.position_embedding_type
    return path.endswith("position_embeddings") and positions != "absolute"


def calls_of(model: nn.Module, path: str, implementation: str) -> int:
    """How often a call of the model calls the module."""
    calls = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        outputs(model, implementation, **batch_of(model))
    finally:
        handle.remove()
    return len(calls)


@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name in WALKED for path, _ in walked(name).named_modules()]
)
def test_a_hook_is_called_as_often_as_by_the_reference(name, path):
    model = changed(walked(name), lambda _: None)
    expected = calls_of(model, path, "reference")
    assert (expected == 0) == is_unused(model, path)
    for implementation in IMPLEMENTATIONS:
        calls, refusal = result_or_refusal(functools.partial(calls_of, model, path, implementation))
        assert calls == expected or refusal is not None, implementation
        assert refusal is None or implementation != "auto"


@every_implementation
@pytest.mark.parametrize("name", WALKED)
def test_nothing_changed_is_refused_nowhere(name, implementation):
    model = walked(name)
    batch = batch_of(model)
    refused = assert_equal_or_refused(
        lambda implementation: outputs(model, implementation, **batch),
        outputs(model, "reference", **batch),
        implementation,
    )
    assert not refused
