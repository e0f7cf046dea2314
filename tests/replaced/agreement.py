"""What every test here asks: equal to the reference on the same, changed model, or an error."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from support.engines import ON_CPU, WITH_GRADIENTS
from support.models import mask_of, random_batch, random_model
from torch import Tensor, nn

from albert_act_fast import (
    AlbertActForMaskedLM,
    AlbertActForSequenceClassification,
    AlbertActModel,
)

ENGINES = tuple(name for name in ON_CPU if not name.endswith(WITH_GRADIENTS))
IMPLEMENTATIONS = ("auto", *ENGINES)
LENGTHS = (5, 1, 7)
TINY = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "embedding_size": 8,
    "num_hidden_layers": 5,
    "vocab_size": 31,
    "max_position_embeddings": 12,
    "classifier_dropout_prob": 0.0,
}
# Shares of the largest value: sums in another order, over at most 5 iterations of 24 columns.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}
# Sums over tokens and iterations too, and through cancellation in the softmax.
GRADIENT_ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-10}

every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
every_engine = pytest.mark.parametrize("implementation", ENGINES)


def tiny(model_class: type = AlbertActModel, seed: int = 1, **overrides) -> nn.Module:
    return random_model(seed, model_class=model_class, **(TINY | overrides))


def batch_of(model: nn.Module, seed: int = 2, *, labels: bool = False) -> dict[str, Tensor]:
    """Ragged, left padding; with the labels of that class if asked for."""
    mask = mask_of(LENGTHS, padding="left")
    batch = random_batch(seed, model.config, mask)
    if labels and isinstance(model, AlbertActForMaskedLM):
        batch["labels"] = batch["input_ids"].masked_fill(mask == 0, -100)
    elif labels and isinstance(model, AlbertActForSequenceClassification):
        batch["labels"] = torch.arange(len(LENGTHS)) % model.config.num_labels
    return batch


def changed(model: nn.Module, change: Callable[[nn.Module], object]) -> nn.Module:
    """A copy that `change` was applied to; whatever that returns is dropped."""
    model = copy.deepcopy(model)
    change(model)
    return model


def outputs(call: Callable, implementation: str, **inputs) -> dict[str, Tensor]:
    """The tensors that an inference call returns, by name."""
    with torch.no_grad():
        result = call(**inputs, implementation=implementation)
    return {name: value for name, value in result.items() if isinstance(value, Tensor)}


def gradients(model: nn.Module, implementation: str, **inputs) -> dict[str, Tensor]:
    """The loss, and the gradients of all parameters that have one, by name."""
    model.zero_grad(set_to_none=True)
    result = model(**inputs, implementation=implementation)
    loss = result.loss if "loss" in result else result.last_hidden_state.square().mean()
    loss = loss + 0.01 * result.ponder_cost.sum()
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach()} | found


def assert_equal(
    actual: dict[str, Tensor], expected: dict[str, Tensor], rounding: dict = ROUNDING
) -> None:
    assert actual.keys() == expected.keys()
    largest = max(float(x.abs().max()) for x in expected.values())
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype, name
        if name in ("n_updates", "updates"):
            assert torch.equal(actual[name], value), name
            continue
        # A gradient that is 0 but for rounding (that of the keys' bias) has no scale of its own.
        scale = max(float(value.abs().max()), 1e-2 * largest)
        torch.testing.assert_close(
            actual[name],
            value,
            rtol=0,
            atol=rounding[value.dtype] * scale,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def assert_equal_or_refused(
    compute: Callable[..., dict[str, Tensor]],
    expected: dict[str, Tensor],
    implementation: str,
    named: Sequence[str] = (),
    rounding: dict = ROUNDING,
) -> bool:
    """Computes by `compute(implementation)`. "auto" never refuses; an engine asked for by name may,
    in words that have all of `named`.

    Returns:
        whether it refused.
    """
    actual, refusal = result_or_refusal(lambda: compute(implementation))
    if refusal is None:
        assert_equal(actual, expected, rounding)
        return False
    assert implementation != "auto", f"auto refused: {refusal}"
    assert refusal.startswith("implementation: got "), refusal
    for word in named:
        assert word in refusal, f"{word!r} is not named: {refusal}"
    return True


def result_or_refusal(compute: Callable):
    """What `compute` returns and None, or None and the words of its ValueError."""
    try:
        return compute(), None
    except ValueError as error:
        return None, str(error)


def differs(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether the change that is tested changes anything: equality would show nothing if not."""
    return any(
        one[name].shape != other[name].shape or not torch.allclose(one[name], other[name])
        for name in one.keys() & other.keys()
    )
