"""Which frozen models are computed in one native call from ids on, and why others are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from albert_act_fast.engine import cpu, row_wise

if TYPE_CHECKING:
    from albert_act_fast.engine.native_encoder import NativeEncoder
    from albert_act_fast.implementations import Choice


# Task models whose head, called with packed rows of one sequence, costs next to nothing; and how
# states come to it.
HEADS = {
    "AlbertActForSequenceClassification": "pooler",
    "AlbertActForTokenClassification": "none",
}


@dataclass(frozen=True)
class Native:
    """encoder: None where there is none, and the reason is in why_not; why_no_pooler: None where
    its pooling may be "pooler"."""

    encoder: NativeEncoder | None
    why_not: str | None
    why_no_pooler: str | None


def make_native(model: nn.Module, choice: Choice, batch_invariant: bool = False) -> Native:
    """
    Args:
        model: a bare one, whose weights will not change.
        batch_invariant: all products are to be the engine's own.
    """
    reason = _why_not(model, choice)
    if reason is not None:
        return Native(None, reason, reason)
    call = model._call(model._inspect(), choice)
    reason = cpu.why_not_encode(call)
    if reason is not None:
        return Native(None, reason, reason)
    why_no_pooler, pooler = _why_no_pooler(model), None
    if why_no_pooler is None:
        pooler = (model.pooler.weight.detach(), model.pooler.bias.detach())
    encoder = cpu.make_encoder(
        call, pooler, model.config.max_position_embeddings, batch_invariant=batch_invariant
    )
    return Native(encoder, None, why_no_pooler)


def head_pooling(model: nn.Module) -> str | None:
    """How states come to the model's head (`HEADS`); None where it has none that may be called by
    itself."""
    from albert_act_fast import modeling

    name = type(model).__name__
    known = name in HEADS and type(model) is getattr(modeling, name)
    return HEADS[name] if known and row_wise.changed(model) is None else None


def why_not_now() -> str | None:
    """What may come and go around a model. The model's own forward pass, which looks after it, then
    follows or refuses it."""
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if torch_module._has_any_global_hook():
        return "a global module hook is registered (torch.nn.modules.module)"
    if torch._C._are_functorch_transforms_active():
        return "a transform of torch.func is active"
    return None


def _why_not(model: nn.Module, choice: Choice) -> str | None:
    from albert_act_fast.modeling import AlbertActModel

    if choice.name != "cpp":
        return f"implementation {choice.name!r} computes ({choice.reason})"
    if type(model) is not AlbertActModel:
        return f"the model is a {type(model).__name__}, not an AlbertActModel"
    changed = row_wise.changed(model)
    return None if changed is None else f"the model {changed}"


def _why_no_pooler(model: nn.Module) -> str | None:
    pooler, activation = model.pooler, model.pooler_activation
    if pooler is None:
        return "the model has no pooler"
    if type(pooler) is not nn.Linear or type(activation) is not nn.Tanh:
        return "the pooler is not a Linear with Tanh"
    for module in (pooler, activation):
        changed = row_wise.changed(module)
        if changed is not None:
            return f"the pooler {changed}"
    size, dtype = model.config.hidden_size, model.dtype
    for name, shape in (("weight", (size, size)), ("bias", (size,))):
        tensor = getattr(pooler, name)
        plain = tensor is not None and type(tensor) is nn.Parameter
        if not plain or tensor.shape != shape or tensor.dtype != dtype:
            return f"the pooler has no plain {name}"
    return None
