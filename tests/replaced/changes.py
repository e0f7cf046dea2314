"""Every way to change what one module computes without touching the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from transformers.utils import ModelOutput


def other(x: Tensor) -> Tensor:
    """Another tensor of the same shape, to a LayerNorm too; ids within any table."""
    return x.abs() * 0.5 + 0.1 if x.is_floating_point() else (x + 1) % 2


def without_first_column(x: Tensor) -> Tensor:
    """What only someone who sees whole sequences can do."""
    if x.dim() < 2:  # a loss
        return x
    x = x.clone()
    x[:, 0] = 0
    return x


def first_tensor(value, change: Callable[[Tensor], Tensor]):
    """`value` with its first tensor that is no mask changed; whatever kind of container it is;
    a model's output with all of them changed."""
    if isinstance(value, Tensor):
        return value if value.dtype == torch.bool else change(value)
    if isinstance(value, ModelOutput):  # of which a head may take any
        return type(value)(**{name: first_tensor(part, change) for name, part in value.items()})
    if isinstance(value, dict):
        items, done = {}, False
        for name, part in value.items():
            new = part if done else first_tensor(part, change)
            done = done or new is not part
            items[name] = new
        return items
    if isinstance(value, tuple | list):
        parts, done = [], False
        for part in value:
            new = part if done else first_tensor(part, change)
            done = done or new is not part
            parts.append(new)
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            part = getattr(value, field.name)
            new = first_tensor(part, change)
            if new is not part:
                return dataclasses.replace(value, **{field.name: new})
    return value


def first_argument(args: tuple, kwargs: dict, change) -> tuple[tuple, dict]:
    new = first_tensor(args, change)
    if any(a is not b for a, b in zip(new, args, strict=True)):
        return new, kwargs
    return args, first_tensor(kwargs, change)


def hook(module: nn.Module) -> None:
    module.register_forward_hook(lambda _, __, output: first_tensor(output, other))


def hook_that_sees_positions(module: nn.Module) -> None:
    module.register_forward_hook(lambda _, __, output: first_tensor(output, without_first_column))


def pre_hook(module: nn.Module) -> None:
    module.register_forward_pre_hook(
        lambda _, args, kwargs: first_argument(args, kwargs, other), with_kwargs=True
    )


def own_forward(module: nn.Module) -> None:
    forward = module.forward
    module.forward = lambda *args, **kwargs: first_tensor(forward(*args, **kwargs), other)


def subclass(module: nn.Module) -> None:
    cls = type(module)

    def forward(self, *args, **kwargs):
        return first_tensor(cls.forward(self, *args, **kwargs), other)

    module.__class__ = type(f"Own{cls.__name__}", (cls,), {"forward": forward})


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def parametrised(module: nn.Module) -> None:
    parametrize.register_parametrization(module, "weight", Halved())


def pruned(module: nn.Module) -> None:
    """And trained on: what is in `weight` is what the hook made of `weight_orig` last time."""
    prune.l1_unstructured(module, "weight", 0.5)
    module.weight_orig.data.mul_(1.5)


OF_ANY_MODULE = (hook, hook_that_sees_positions, pre_hook, own_forward, subclass)
OF_WEIGHTS = (parametrised, pruned)


def changes_of(module: nn.Module) -> tuple[Callable[[nn.Module], None], ...]:
    weight = module._parameters.get("weight")
    return OF_ANY_MODULE if weight is None else OF_ANY_MODULE + OF_WEIGHTS


def halved(grads: tuple):
    """Masks, which have no gradient that means anything, are left as they are."""
    if all(g is None for g in grads):
        return None
    return tuple(g / 2 if g is not None and g.is_floating_point() else g for g in grads)


def backward_hook(module: nn.Module) -> None:
    module.register_full_backward_hook(lambda _, grad_input, grad_output: halved(grad_input))


def backward_pre_hook(module: nn.Module) -> None:
    module.register_full_backward_pre_hook(lambda _, grad_output: halved(grad_output))


OF_GRADIENTS = (backward_hook, backward_pre_hook)
