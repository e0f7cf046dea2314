"""Modules that the reference and the engines have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HaltingLinear(nn.Linear):
    """A Linear computed in float32 at least, whatever its weights' dtype and autocast are.

    The halting unit's: what tools do to a Linear (hooks, adapters, parametrisations, pruning) they
    do to this one, and the halting probability keeps float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear_in_float32(x, self.weight, self.bias)


def linear_in_float32(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., I] times weight [O, I], plus bias [O], computed and returned in float32, or float64
    where x is."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        bias = None if bias is None else bias.to(dtype)
        return nn.functional.linear(x.to(dtype), weight.to(dtype), bias)


def halting_logit(dense: nn.Module, hidden: Tensor) -> Tensor:
    """The halting unit's Linear, called: [..., 1] in float32, or float64 where hidden is.

    A plain Linear in half precision (that of a live model of the published package) is computed
    in float32; any other module that a tool has put in its place computes as that tool has it.
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    weight = dense._parameters.get("weight")
    half = weight is not None and weight.dtype in (torch.bfloat16, torch.float16)
    if type(dense) is nn.Linear and half:
        if not (dense._forward_hooks or dense._forward_pre_hooks or "forward" in dense.__dict__):
            return linear_in_float32(hidden, weight, dense.bias)
        hidden = hidden.to(weight.dtype)
    elif not isinstance(dense, HaltingLinear):
        hidden = hidden.to(dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        return dense(hidden).to(dtype)
