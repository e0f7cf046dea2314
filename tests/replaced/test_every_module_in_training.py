"""The walk over all modules with gradients: loss and gradients are the reference's, or an error."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module

from albert_act_fast import AlbertActForMaskedLM, AlbertActModel
from tests.replaced.agreement import (
    GRADIENT_ROUNDING,
    IMPLEMENTATIONS,
    assert_equal_or_refused,
    batch_of,
    changed,
    differs,
    every_implementation,
    gradients,
    outputs,
    result_or_refusal,
    tiny,
)
from tests.replaced.changes import OF_GRADIENTS, changes_of, halved, other

# The masked language model has all modules of the bare model, but for the pooler.
POSITIONS = ("absolute", "relative_key_query")
# Every module with every third change, another third in training than in eval.
STRIDE = 3


@functools.cache
def walked(positions: str) -> nn.Module:
    """In float64, where gradients that differ are not rounding."""
    return tiny(
        AlbertActForMaskedLM, position_embedding_type=positions, dtype=torch.float64, act_tau=0.01
    )


def cases() -> list:
    every = [
        (path, change)
        for path, module in walked("absolute").named_modules()
        for change in changes_of(module)
    ]
    sampled = [
        (positions, training, path, change)
        for positions, training, offset in (
            ("absolute", True, 0),
            ("relative_key_query", True, 1),
            ("absolute", False, 2),
        )
        for path, change in every[offset::STRIDE]
    ]
    sampled += [
        ("absolute", training, path, change)
        for training in (True, False)
        for i, (path, _) in enumerate(walked("absolute").named_modules())
        for change in OF_GRADIENTS[(i + training) % 2 :][:1]
    ]
    return [
        pytest.param(*case, id=f"{p}-{'train' if t else 'eval'}-{path or 'model'}-{c.__name__}")
        for case in sampled
        for p, t, path, c in [case]
    ]


@pytest.mark.filterwarnings("ignore:For backward hooks to be called")
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize(("positions", "training", "path", "change"), cases())
def test_a_changed_module(positions, training, path, change):
    plain = walked(positions)
    batch = batch_of(plain, labels=True)

    def compute(implementation: str):
        model = changed(plain, lambda m: change(m.get_submodule(path)))
        return gradients(model.train(training), implementation, **batch)

    expected = compute("reference")
    if change not in OF_GRADIENTS:  # some of which reach no gradient, as PyTorch warns
        unchanged = gradients(changed(plain, lambda _: None), "reference", **batch)
        unused = path.endswith("position_embeddings") and positions != "absolute"
        assert unused or differs(expected, unchanged), f"the change of {path} changes nothing"
    for implementation in IMPLEMENTATIONS:
        # cpp has no gradients, and says so rather than what was changed.
        named = [] if implementation == "cpp" else [path.rpartition(".")[2]]
        assert_equal_or_refused(compute, expected, implementation, named, GRADIENT_ROUNDING)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_nothing_changed_is_refused_nowhere(positions, training):
    model = changed(walked(positions), lambda _: None).train(training)
    batch = batch_of(model, labels=True)
    expected = gradients(model, "reference", **batch)
    for implementation in ("auto", "torch"):
        refused = assert_equal_or_refused(
            lambda implementation: gradients(model, implementation, **batch),
            expected,
            implementation,
            rounding=GRADIENT_ROUNDING,
        )
        assert not refused


GLOBAL_HOOKS = {
    "forward": (
        torch_module.register_module_forward_hook,
        lambda module, _, output: other(output) if isinstance(module, nn.LayerNorm) else None,
    ),
    "forward pre": (
        torch_module.register_module_forward_pre_hook,
        lambda module, args: (other(args[0]),) if isinstance(module, nn.LayerNorm) else None,
    ),
    "backward": (
        torch_module.register_module_full_backward_hook,
        lambda module, grads, _: halved(grads) if isinstance(module, nn.LayerNorm) else None,
    ),
    "backward pre": (
        torch_module.register_module_full_backward_pre_hook,
        lambda module, grads: halved(grads) if isinstance(module, nn.LayerNorm) else None,
    ),
}


@pytest.mark.filterwarnings("ignore:For backward hooks to be called")
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@every_implementation
@pytest.mark.parametrize("mode", ["inference", "train", "eval"])
@pytest.mark.parametrize("kind", GLOBAL_HOOKS)
def test_a_global_hook(kind, mode, implementation):
    model = changed(walked("absolute"), lambda _: None).train(mode == "train")
    batch = batch_of(model, labels=mode != "inference")
    compute = outputs if mode == "inference" else gradients
    plain = compute(model, "reference", **batch)
    register, hook = GLOBAL_HOOKS[kind]
    handle = register(hook)
    try:
        expected = compute(model, "reference", **batch)
        assert differs(expected, plain) == (mode != "inference" or kind.startswith("forward"))
        assert_equal_or_refused(
            lambda implementation: compute(model, implementation, **batch),
            expected,
            implementation,
            ["hook"] if mode == "inference" else [],
            GRADIENT_ROUNDING,
        )
    finally:
        handle.remove()
    after = compute(model, "auto", **batch)
    assert not differs(after, plain), "the hook is gone"


@every_implementation
def test_a_global_hook_sees_every_call(implementation):
    model = tiny(AlbertActModel)
    batch = batch_of(model)

    def calls(implementation: str) -> dict[str, int]:
        names = {module: path for path, module in model.named_modules()}
        counts = dict.fromkeys(names.values(), 0)

        def count(module, *_):
            counts[names[module]] += 1

        handle = torch_module.register_module_forward_hook(count)
        try:
            outputs(model, implementation, **batch)
        finally:
            handle.remove()
        return counts

    counts, refusal = result_or_refusal(lambda: calls(implementation))
    if refusal is None:
        assert counts == calls("reference")
    else:
        assert implementation != "auto"
        assert "hook" in refusal
