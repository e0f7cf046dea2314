"""Gradients of an inference call: forward on the fastest engine, backward only if it is asked for.

The backward pass computes the batch once more, on the engine that autograd can follow, and takes
its gradients there. As `torch.utils.checkpoint` does it, but with another forward pass the first
time; in eval mode nothing is random, so both give the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from albert_act_fast.outputs import EncoderResult

Encode = Callable[[Tensor | None], EncoderResult]


def encode_with_recomputed_gradients(
    fast: Encode,
    differentiable: Encode,
    inputs_embeds: Tensor | None,
    parameters: Sequence[Tensor],
    current_parameters: Callable[[], Sequence[Tensor]],
) -> EncoderResult:
    """The result of `fast`, with the gradients of `differentiable`.

    Args:
        fast, differentiable: compute the same batch, given its inputs_embeds or None.
        parameters: all that may need a gradient beside `inputs_embeds`.
        current_parameters: what the model has for `parameters` when the gradient is asked for.
    """
    given = [] if inputs_embeds is None else [inputs_embeds]
    hidden, n_updates, remainders = _Recompute.apply(
        fast, differentiable, bool(given), current_parameters, *given, *parameters
    )
    return EncoderResult(hidden, n_updates, remainders)


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, fast, differentiable, has_embeds, current_parameters, *tensors):
        ctx.differentiable, ctx.has_embeds = differentiable, has_embeds
        ctx.current_parameters = current_parameters
        ctx.save_for_backward(*tensors)
        result = fast(tensors[0] if has_embeds else None)
        ctx.mark_non_differentiable(result.n_updates)
        return result.last_hidden_state, result.n_updates, result.remainders

    @staticmethod
    def backward(ctx, grad_hidden, _, grad_remainders):
        tensors = ctx.saved_tensors
        embeds, parameters = (tensors[0], tensors[1:]) if ctx.has_embeds else (None, tensors)
        now = ctx.current_parameters()
        if len(now) != len(parameters) or any(
            a is not b for a, b in zip(now, parameters, strict=True)
        ):
            raise RuntimeError(
                "AlbertActModel: its parameters were changed for others between forward and "
                "backward pass, which computes the batch again. Call the model with "
                "implementation='torch' or 'reference' to keep what the backward pass needs."
            )
        again = torch.is_grad_enabled()  # create_graph=True
        with torch.enable_grad():
            # A view of one's own: its gradient stops here, and yet reaches what it was made of.
            own = None if embeds is None else embeds.view_as(embeds)
            result = ctx.differentiable(own)
        wanted = ([own] if ctx.has_embeds else []) + list(parameters)
        needed = [t for t, need in zip(wanted, ctx.needs_input_grad[4:], strict=True) if need]
        outputs, grads = [], []
        for output, grad in (
            (result.last_hidden_state, grad_hidden),
            (result.remainders, grad_remainders),
        ):
            if grad is not None and output.requires_grad:
                outputs.append(output)
                grads.append(grad)
        found = iter(
            torch.autograd.grad(outputs, needed, grads, create_graph=again, allow_unused=True)
            if outputs
            else [None] * len(needed)
        )
        return (
            None,
            None,
            None,
            None,
            *(next(found) if need else None for need in ctx.needs_input_grad[4:]),
        )
