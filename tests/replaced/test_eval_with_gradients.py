"""Eval mode without `torch.no_grad()`: whatever runs forward, backward is the reference's."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from albert_act_fast import AlbertActForMaskedLM, AlbertActModel
from albert_act_fast.configuration import POSITION_TYPES
from tests.replaced.agreement import (
    GRADIENT_ROUNDING,
    ROUNDING,
    assert_equal,
    batch_of,
    changed,
    differs,
    gradients,
    outputs,
    result_or_refusal,
    tiny,
)

# What has gradients; another engine asked for by name may refuse.
WITH_GRADIENTS = ("auto", "torch")
every_implementation = pytest.mark.parametrize("implementation", WITH_GRADIENTS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
FIELDS = ("last_hidden_state", "pooler_output", "remainders", "ponder_cost")


def copy_of(model: nn.Module) -> nn.Module:
    return changed(model, lambda _: None)


def gradients_of(loss: torch.Tensor, model: nn.Module, **options) -> dict[str, torch.Tensor]:
    wanted = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    names, parameters = zip(*wanted, strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, **options)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


@every_dtype
@every_implementation
@pytest.mark.parametrize("positions", POSITION_TYPES)
def test_outputs(positions, implementation, dtype):
    model = tiny(position_embedding_type=positions, dtype=dtype)
    batch = batch_of(model)
    expected = model(**batch, implementation="reference")
    found = model(**batch, implementation=implementation)
    for name, value in expected.items():
        assert found[name].requires_grad == value.requires_grad, name
    assert_equal(
        {name: x.detach() for name, x in found.items()},
        {name: x.detach() for name, x in expected.items()},
    )
    assert_equal(
        {name: x.detach() for name, x in found.items()}, outputs(model, "reference", **batch)
    )


@every_dtype
@every_implementation
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("positions", POSITION_TYPES)
def test_gradients_of_each_output(positions, field, implementation, dtype):
    model = tiny(position_embedding_type=positions, dtype=dtype)
    batch = batch_of(model)

    def found(implementation):
        output = model(**batch, implementation=implementation)[field]
        # Not the same for all elements, or the last LayerNorm sends nothing on.
        weights = torch.linspace(-1, 1, output.numel(), dtype=dtype).view(output.shape)
        return gradients_of((output * weights).sum(), model)

    assert_equal(found(implementation), found("reference"), GRADIENT_ROUNDING)


@every_implementation
def test_gradients_of_a_task_model(implementation):
    model = tiny(AlbertActForMaskedLM, dtype=torch.float64, act_tau=0.01)
    batch = batch_of(model, labels=True)
    expected = gradients(model, "reference", **batch)
    assert_equal(gradients(model, implementation, **batch), expected, GRADIENT_ROUNDING)


@every_implementation
def test_two_calls_before_two_backward_passes(implementation):
    model = tiny(dtype=torch.float64)
    batches = batch_of(model, 2), batch_of(model, 3)

    def found(implementation):
        losses = [
            model(**batch, implementation=implementation).last_hidden_state.square().sum()
            for batch in batches
        ]
        model.zero_grad()
        for loss in reversed(losses):
            loss.backward(retain_graph=True)
        losses[0].backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    assert_equal(found(implementation), found("reference"), GRADIENT_ROUNDING)


@every_implementation
def test_gradients_of_gradients(implementation):
    model = tiny(dtype=torch.float64)
    batch = batch_of(model)

    def found(implementation):
        loss = model(**batch, implementation=implementation).last_hidden_state.sin().sum()
        first = gradients_of(loss, model, create_graph=True)
        return gradients_of(sum(g.square().sum() for g in first.values()), model)

    expected = found("reference")
    try:
        second = found(implementation)
    except RuntimeError as error:
        text = str(error)
    else:
        text = None
        assert_equal(second, expected, GRADIENT_ROUNDING)
    assert text is None or "reference" in text, text


PARAMETERS = [name for name, _ in tiny(position_embedding_type="relative_key").named_parameters()]


@every_implementation
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_weight_modified_between_forward_and_backward(name, implementation):
    """An error as PyTorch's own, or the gradients of the weights that the forward pass had."""
    model = tiny(position_embedding_type="relative_key", dtype=torch.float64)
    batch = batch_of(model)

    def loss(implementation):
        return model(**batch, implementation=implementation).last_hidden_state.square().sum()

    expected = gradients_of(loss("reference"), model)
    pending = loss(implementation)
    with torch.no_grad():
        model.get_parameter(name).mul_(1.5)
    try:
        found = gradients_of(pending, model)
    except RuntimeError as error:
        text = str(error)
    else:
        text = None
        assert_equal(found, expected, GRADIENT_ROUNDING)
    assert text is None or "modified by an inplace operation" in text, text


def relu(model):
    model.encoder.albert_layer.activation = nn.ReLU()


def eps(model):
    model.encoder.albert_layer.LayerNorm.eps = 0.5


def another_weight(model):
    linear = model.encoder.albert_layer.ffn
    linear.weight = nn.Parameter(torch.ones_like(linear.weight))


def fewer_iterations(model):
    model.config.num_hidden_layers = 1


def a_hook(model):
    model.encoder.albert_layer.ffn.register_forward_hook(lambda _, __, output: output * 2)


def dropout(model):
    model.encoder.albert_layer.dropout.p = 0.9
    model.train()


@every_implementation
@pytest.mark.parametrize("change", [relu, eps, another_weight, fewer_iterations, a_hook, dropout])
def test_a_model_changed_between_forward_and_backward(change, implementation):
    """Backward belongs to the call that was made, not to the model as it is now."""
    model = tiny(dtype=torch.float64)
    batch = batch_of(model)
    names, parameters = zip(*model.named_parameters(), strict=True)

    def backward(loss):
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return {n: g for n, g in zip(names, found, strict=True) if g is not None}

    def loss(implementation):
        return model(**batch, implementation=implementation).last_hidden_state.square().sum()

    expected = backward(loss("reference"))
    pending = loss(implementation)
    change(model)
    try:
        found = backward(pending)
    except RuntimeError as error:
        assert "changed" in str(error) or "modified" in str(error)  # noqa: PT017
    else:
        assert_equal(found, expected, GRADIENT_ROUNDING)


@every_implementation
@pytest.mark.parametrize("name", PARAMETERS)
def test_one_weight_alone_wants_a_gradient(name, implementation):
    model = tiny(position_embedding_type="relative_key", dtype=torch.float64)
    batch = batch_of(model)
    model.requires_grad_(False)
    model.get_parameter(name).requires_grad_(True)

    def found(implementation):
        output = model(**batch, implementation=implementation)
        loss = output.last_hidden_state.sin().sum() + output.pooler_output.sum()
        if not loss.requires_grad:
            return {"loss": loss}
        # The loss gives the scale: the keys' bias has a gradient of rounding alone.
        return {"loss": loss.detach()} | gradients_of(loss, model)

    assert_equal(found(implementation), found("reference"), GRADIENT_ROUNDING)


@every_implementation
@pytest.mark.parametrize("weights", [True, False], ids=["weights too", "frozen"])
def test_embeddings_given_by_the_caller(weights, implementation):
    model = tiny(dtype=torch.float64).requires_grad_(weights)
    batch = batch_of(model)
    ids = batch.pop("input_ids")
    embeds = model.embeddings.word_embeddings(ids).detach()

    def found(implementation):
        leaf = embeds.clone().requires_grad_()
        output = model(**batch, inputs_embeds=leaf, implementation=implementation)
        output.last_hidden_state.sin().sum().backward()
        return {"inputs_embeds": leaf.grad}

    expected = found("reference")
    assert expected["inputs_embeds"].any()
    assert not expected["inputs_embeds"][batch["attention_mask"] == 0].any()
    assert_equal(found(implementation), expected, GRADIENT_ROUNDING)


@every_implementation
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_functional_call(training, implementation):
    """Other weights for one call: those are computed with, and get the gradients."""
    model = tiny(dtype=torch.float64).train(training)
    batch = batch_of(model)
    outputs(copy_of(model).eval(), implementation, **batch)
    given = {n: (p.detach() * 1.2).requires_grad_() for n, p in model.named_parameters()}
    twin = copy_of(model)
    twin.load_state_dict(given, strict=False)

    def found(implementation):
        output = torch.func.functional_call(
            model, given, kwargs=batch | {"implementation": implementation}
        )
        loss = output.last_hidden_state.sin().sum()
        grads = torch.autograd.grad(loss, tuple(given.values()), allow_unused=True)
        named = zip(given, grads, strict=True)
        return {"loss": loss.detach()} | {n: g for n, g in named if g is not None}

    expected = found("reference")
    truth = twin(**batch, implementation="reference").last_hidden_state.sin().sum()
    torch.testing.assert_close(expected["loss"], truth.detach())
    assert_equal(found(implementation), expected, GRADIENT_ROUNDING)
    with torch.no_grad():
        result = torch.func.functional_call(
            model, given, kwargs=batch | {"implementation": implementation}
        )
    torch.testing.assert_close(result.last_hidden_state.sin().sum(), expected["loss"])


@every_implementation
def test_a_function_transform(implementation):
    model = tiny(dtype=torch.float64)
    batch = batch_of(model)
    given = {n: p.detach() for n, p in model.named_parameters()}

    def loss(weights, implementation):
        output = torch.func.functional_call(
            model, weights, kwargs=batch | {"implementation": implementation}
        )
        return output.last_hidden_state.sin().sum()

    expected = torch.func.grad(functools.partial(loss, implementation="reference"))(given)
    try:
        found = torch.func.grad(functools.partial(loss, implementation=implementation))(given)
    except (RuntimeError, ValueError) as error:
        assert "torch.func" in str(error) or "functorch" in str(error)  # noqa: PT017
    else:
        assert_equal(found, expected, GRADIENT_ROUNDING)


@every_implementation
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_autocast(training, implementation):
    """Backward runs outside of the block, as PyTorch recommends, and is that of the call in it."""
    model = tiny().train(training)
    with torch.no_grad():  # all iterations for all tokens: rounding changes no depth
        model.encoder.albert_layer.act.dense.bias.fill_(-30.0)
    batch = batch_of(model)

    def found(implementation, low=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            output = model(**batch, implementation=implementation)
        weights = torch.linspace(-1, 1, output.pooler_output.numel())
        loss = (output.pooler_output.float().flatten() * weights).sum()
        grads = gradients_of(loss, model)
        flat = torch.cat([g.float().flatten() for g in grads.values()])
        return output, {n: g.dtype for n, g in grads.items()}, flat

    exact, _, truth = found("reference", low=False)
    reference, dtypes, expected = found("reference")
    output, found_dtypes, flat = found(implementation)
    assert found_dtypes == dtypes
    for name, value in reference.items():
        assert output[name].dtype == value.dtype, name
    assert torch.equal(output.n_updates, exact.n_updates)

    def error(x, y):
        return float((x.detach().float() - y.detach().float()).norm() / y.detach().float().norm())

    # 2x: other rounding, not more; without autocast the error would be that of float32.
    assert error(reference.last_hidden_state, exact.last_hidden_state) > 1e-4
    assert (
        1e-4
        < error(output.last_hidden_state, exact.last_hidden_state)
        <= 2 * error(reference.last_hidden_state, exact.last_hidden_state)
    )
    assert 1e-4 < error(flat, truth) <= 2 * error(expected, truth)


@every_implementation
def test_nothing_is_computed_twice_where_no_gradient_is_wanted(implementation):
    model = tiny(AlbertActModel).requires_grad_(False)
    batch = batch_of(model)
    found = model(**batch, implementation=implementation)
    assert not any(x.requires_grad for x in found.values())
    assert_equal(dict(found), outputs(model, "reference", **batch), ROUNDING)


def test_an_engine_without_gradients_says_so_or_has_them():
    model = tiny(dtype=torch.float64)
    batch = batch_of(model)
    expected = gradients(model, "reference", **batch)
    for implementation in ("cpp", "triton", "cuda"):
        found, refusal = result_or_refusal(
            functools.partial(gradients, model, implementation, **batch)
        )
        if refusal is None:
            assert_equal(found, expected, GRADIENT_ROUNDING)
        else:
            assert refusal.startswith(f"implementation: got '{implementation}'")


def test_forward_mode():
    """Jacobian-vector products: right, or an error; never no tangent at all."""
    model = tiny(dtype=torch.float64)
    batch = batch_of(model)
    primal = model.encoder.albert_layer.ffn.weight
    rest = {n: p.detach() for n, p in model.named_parameters()}
    tangent = torch.ones_like(primal)

    def tangent_of(implementation):
        def run(weight):
            weights = rest | {"encoder.albert_layer.ffn.weight": weight}
            return torch.func.functional_call(
                model, weights, kwargs=batch | {"implementation": implementation}
            ).last_hidden_state

        return torch.func.jvp(run, (primal.detach(),), (tangent,))[1]

    expected = tangent_of("reference")
    assert expected.any()
    for implementation in WITH_GRADIENTS:
        try:
            found = tangent_of(implementation)
        except (RuntimeError, ValueError, NotImplementedError):
            continue
        assert_equal({"tangent": found}, {"tangent": expected}, GRADIENT_ROUNDING)
        assert differs({"tangent": found}, {"tangent": torch.zeros_like(found)})
