"""Runs the reference loop and the engine, and says how far apart they may be."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from albert_act_fast import AlbertActModel
from albert_act_fast.outputs import AlbertActModelOutput
from albert_act_fast.reference import HaltingState, halting_rule
from suite.operator_calls import decision
from support.engines import WITH_GRADIENTS

# fp32: where the reference would decide otherwise of a p that differs by this, the token's halting
# iteration is open.
TIE = 1e-6
# fp32: hidden states, as a share of the reference's largest absolute value.
HIDDEN = 1e-5


@dataclass
class Traced:
    """The reference's output, and what only watching its loop tells.

    output: the model's own. is_open: bool [B, S], see TIE; the state of padding decides nothing.
    weights: [iterations, B, S], every weight w it was mixed with.
    """

    output: AlbertActModelOutput
    is_open: Tensor
    weights: Tensor


def run(model: AlbertActModel, implementation: str, **inputs) -> AlbertActModelOutput:
    """One forward pass without gradients, unless the name says so; see `engines`."""
    name = implementation.removesuffix(WITH_GRADIENTS)
    with torch.set_grad_enabled(name != implementation):
        output = model(**inputs, implementation=name)
    for field in output:
        output[field] = output[field].detach()
    return output


def trace_reference(model: AlbertActModel, **inputs) -> Traced:
    """Runs the reference loop and watches the halting state at every iteration."""
    layer, limits = model.encoder.albert_layer, model.config.halting_limits
    probabilities, states = [], []
    hooks = [
        layer.act.register_forward_hook(lambda _, __, p: probabilities.append(p)),
        layer.register_forward_pre_hook(lambda _, arguments: states.append(arguments[1])),
    ]
    try:
        output = run(model, "reference", **inputs)
    finally:
        for hook in hooks:
            hook.remove()
    is_open = torch.zeros_like(output.n_updates, dtype=torch.bool)
    weights = []
    for p, hp in zip(probabilities, states, strict=True):
        state = HaltingState(hp, torch.zeros_like(hp), torch.zeros_like(hp))
        running, weight, _ = halting_rule(p, state, limits)
        differs = decision(p - TIE, hp, limits) != decision(p + TIE, hp, limits)
        is_open |= running & differs.any(-1)
        weights.append(weight)
    return Traced(output, is_open, torch.stack(weights))


def double(model: AlbertActModel) -> AlbertActModel:
    return copy.deepcopy(model).double()


def assert_parity(engine: AlbertActModelOutput, traced: Traced, mask: Tensor) -> int:
    """fp32 engine against fp32 reference.

    Returns:
        how many tokens the reference itself left open (see TIE): such a token may halt one
        iteration apart, and the sequence it is in is not compared further.
    """
    reference, mask = traced.output, mask.bool()
    is_open = traced.is_open & mask
    compared = mask & ~is_open.any(1, keepdim=True)
    assert torch.equal(engine.n_updates[compared], reference.n_updates[compared])
    scale = reference.last_hidden_state.abs().max().item()
    error = (engine.last_hidden_state - reference.last_hidden_state).abs()[compared]
    assert error.numel() == 0 or error.max().item() <= HIDDEN * scale
    torch.testing.assert_close(
        engine.remainders[compared], reference.remainders[compared], rtol=0, atol=HIDDEN
    )
    assert torch.equal(engine.ponder_cost, engine.n_updates + engine.remainders)
    assert torch.equal(engine.updates, engine.n_updates[:, None, None, :])
    assert_nothing_at_padding(engine, mask)
    assert_nothing_at_padding(reference, mask)
    if engine.pooler_output is not None and bool((compared[:, 0] | ~mask[:, 0]).all()):
        torch.testing.assert_close(
            engine.pooler_output, reference.pooler_output, rtol=0, atol=10 * HIDDEN
        )
    return int(is_open.sum())


def assert_nothing_at_padding(output: AlbertActModelOutput, mask: Tensor) -> None:
    padding = ~mask.bool()
    for name in ("last_hidden_state", "n_updates", "remainders", "ponder_cost"):
        assert bool((output[name][padding] == 0).all()), f"{name} is not 0 at padding"
