"""Which modules may be called with packed rows: those known to treat every row by itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from transformers import activations
from transformers.modeling_layers import GradientCheckpointingLayer

from albert_act_fast.modules import HaltingLinear

# The activations that kernels have, by the operators' name for them.
KERNEL_ACTIVATIONS = {
    activations.GELUActivation: "gelu",
    activations.NewGELUActivation: "gelu_tanh",
    activations.GELUTanh: "gelu_tanh",
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    activations.SiLUActivation: "silu",
}
# Hooks that only compute the module's own weight, from nothing but its parameters.
_WEIGHT_HOOKS = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


def _elementwise() -> set[type]:
    named = activations.ACT2CLS.values()
    classes = {entry[0] if isinstance(entry, tuple) else entry for entry in named}
    classes |= {nn.GELU, nn.ELU, nn.CELU, nn.SELU, nn.Mish, nn.Softplus, nn.Hardtanh, nn.Hardswish}
    # Learns a number for each channel, and takes the second dimension for the channels.
    return {c for c in classes if inspect.isclass(c) and issubclass(c, nn.Module)} - {nn.PReLU}


# With the forward they have as this is imported: a class that somebody patches is unknown.
_KNOWN = {
    cls: cls.forward
    for cls in (
        nn.Linear,
        HaltingLinear,
        nn.Embedding,
        nn.LayerNorm,
        nn.RMSNorm,
        nn.Identity,
        nn.Dropout,
        *_elementwise(),
    )
}
# Of other packages, by name: they need not be installed. Their children are looked at too.
_WRAPPERS = {
    "peft.tuners.lora.layer.Linear",
    "peft.tuners.lora.layer.Embedding",
    "peft.tuners.lora.dora.DoraLinearLayer",
    "peft.tuners.lora.dora.DoraEmbeddingLayer",
    "peft.tuners.ln_tuning.layer.LNTuningLayer",
    "peft.utils.other.ModulesToSaveWrapper",
}
_LORA_VARIANTS = {"DoraLinearVariant", "DoraEmbeddingVariant"}
_HOLDERS = (nn.ModuleDict, nn.ModuleList, nn.ParameterDict, nn.ParameterList)
# In some releases of transformers (5.20) layers that can be checkpointed have one of their own,
# which adds nothing but that; whether it is on is asked where implementations are chosen.
_CALLS = (nn.Module.__call__, GradientCheckpointingLayer.__call__)


def declare(cls: type[nn.Module]) -> type[nn.Module]:
    """Says that a module class of one's own works row by row: its forward takes [..., I], gives
    [..., O], and every row of the result depends on that row alone. Engines then call such modules
    with packed rows [T, I]. Usable as a decorator."""
    _KNOWN[cls] = cls.forward
    return cls


def changed(module: nn.Module) -> str | None:
    """None where calling the module is calling its class's forward and nothing else; otherwise what
    it has beside. To be read after the module's name."""
    for name in _HOOKS:
        hooks = getattr(module, name)
        if hooks and not all(isinstance(hook, _WEIGHT_HOOKS) for hook in hooks.values()):
            return "has hooks"
    own = module.__dict__.get("forward")
    # Tools that take their hooks away leave the class's own behind.
    if own is not None and own != type(module).forward.__get__(module):
        return "has a forward of its own"
    if module._compiled_call_impl is not None:
        return "was compiled by itself"
    if type(module).__call__ not in _CALLS:
        return f"is a {type(module).__name__}, which has a __call__ of its own"
    return None


def why_not(module: nn.Module) -> str | None:
    """None where the unchanged module works row by row, else the reason."""
    name = f"{type(module).__module__}.{type(module).__name__}"
    if name in _WRAPPERS:
        return _why_not_wrapper(module)
    if isinstance(module, _HOLDERS):
        return _why_not_children(module)
    if not any(_KNOWN.get(cls) is type(module).forward for cls in type(module).__mro__):
        return f"is a {type(module).__name__}, which may look at more than a row at a time"
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        # Such a tensor may compute anything, with factors found over all rows at once.
        if tensor is not None and type(tensor) not in (nn.Parameter, Tensor):
            return f"has a {type(tensor).__name__} as weight"
        if tensor is not None and tensor.is_meta:
            return "has no weight in memory"
    return None


def _why_not_wrapper(module: nn.Module) -> str | None:
    for variant in getattr(module, "lora_variant", {}).values():
        if type(variant).__name__ not in _LORA_VARIANTS:
            return f"has an adapter of the kind {type(variant).__name__}"
    return _why_not_children(module)


def _why_not_children(module: nn.Module) -> str | None:
    for name, child in module._modules.items():
        if child is None:
            continue
        # Holders are looked into, not called.
        reason = (None if isinstance(child, _HOLDERS) else changed(child)) or why_not(child)
        if reason is not None:
            return f"has {name}, which {reason}"
    return None


def active_dropouts(module: nn.Module) -> Iterator[nn.Module]:
    """The dropouts in the module that change numbers now."""
    for child in module.modules():
        if isinstance(child, nn.Dropout) and child.training and child.p > 0:
            yield child
