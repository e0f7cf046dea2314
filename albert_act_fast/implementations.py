"""Which implementation computes the encoder: the one place where that is decided.

`reference` is the dense loop in plain PyTorch; all others are the token-dropping engine running on
that implementation's operators. "auto" takes the first available engine implementation for the
device; in training that which autograd can follow, `torch`; and the reference where the call needs
what only the dense loop has (attentions, hidden states, head masks) or the model has modules that
no engine may pass by (hooks, unknown types). An explicit choice that cannot be met raises.
How an implementation's iterations are run is told by `engine.ENGINES`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch

from albert_act_fast import native, ops
from albert_act_fast.ops import triton_ops
from albert_act_fast.ops.contracts import IMPLEMENTATIONS as ENGINE_IMPLEMENTATIONS

IMPLEMENTATIONS = ("reference", *ENGINE_IMPLEMENTATIONS)
# Fastest first.
PREFERENCE = {"cpu": ("cpp", "torch"), "cuda": ("triton", "cuda", "torch")}
# Engine implementations that autograd can follow.
DIFFERENTIABLE = ("torch",)
# Engine implementations whose kernels know no float64.
WITHOUT_FLOAT64 = ("triton", "cuda")

_requested: ContextVar[str | None] = ContextVar("albert_act_fast_implementation", default=None)


@dataclass(frozen=True)
class Choice:
    """The implementation chosen, and why.

    Attributes:
        gradients: autograd follows the forward pass itself.
        recompute: the forward pass runs without autograd, the backward pass computes it again.
        passed_over: why the implementations that come before it were not taken.
    """

    name: str
    reason: str
    gradients: bool = False
    recompute: bool = False
    passed_over: dict[str, str] = field(default_factory=dict)


def availability(device: torch.device | str = "cpu") -> dict[str, str | None]:
    """For every implementation None where it is available on that device, else the reason."""
    device = torch.device(device)
    reasons = dict(_availability(device.type))
    if device.type == "cuda" and torch.version.hip is not None:
        reasons["cuda"] = (
            reasons["cuda"] or "the GPU is AMD's, and the CUDA operators are for NVIDIA's"
        )
    elif device.type == "cuda" and torch.cuda.is_available():
        for name, reason in _why_not_on_gpu(device.index).items():
            reasons[name] = reasons[name] or reason
    return reasons


@functools.cache
def _why_not_on_gpu(index: int | None) -> dict[str, str | None]:
    """What kernels there are may be for other GPUs than this one."""
    capability = torch.cuda.get_device_capability(index)
    # Private, and gone in no release so far; without it the driver is taken as new enough.
    driver = getattr(torch._C, "_cuda_getDriverVersion", lambda: None)()
    too_old = None
    if capability < (8, 0):
        number = ".".join(map(str, capability))
        too_old = f"the GPU has compute capability {number}, and Triton needs 8.0 or newer"
    return {"triton": too_old, "cuda": native.why_not_on_gpu(capability, driver)}


@functools.cache  # operators are registered when the package is imported, and not after
def _availability(device_type: str) -> dict[str, str | None]:
    reasons: dict[str, str | None] = {"reference": None}
    for name in ENGINE_IMPLEMENTATIONS:
        missing = [op for op in ops.OPERATORS if not ops.registered(op, name, device_type)]
        reasons[name] = None
        if missing:
            reasons[name] = (
                f"no {name} kernels for {device_type} in this installation (operators missing: "
                f"{', '.join(missing)})"
            )
            if name == "cpp" and device_type == "cpu" and native.why_no_cpp is not None:
                reasons[name] = native.why_no_cpp
            if name == "cuda" and device_type == "cpu":
                built = "the CUDA operators were built, and run on CUDA devices alone"
                reasons[name] = native.why_no_cuda() or built
            if name == "cuda" and device_type == "cuda":
                reasons[name] = native.why_no_cuda() or reasons[name]
            if name == "triton":
                reasons[name] = triton_ops.why_not(device_type)
    return reasons


@contextmanager
def use_implementation(name: str) -> Iterator[None]:
    """Within the block, models use this implementation unless a call names another.

    It holds for the current thread and task alone, as all context variables do: a worker thread
    starts without it, unless it is run in `contextvars.copy_context()`.

    Raises:
        ValueError: no implementation has that name.
    """
    token = _requested.set(check_name(name))
    try:
        yield
    finally:
        _requested.reset(token)


def check_name(name: str) -> str:
    """Raises ValueError unless `name` is "auto" or an implementation's."""
    if name != "auto" and name not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation: got {name!r}, expected one of auto, {', '.join(IMPLEMENTATIONS)}."
        )
    return name


@torch.compiler.disable  # context variables and the dispatcher's tables are not for tracing
def choose(
    argument: str | None = None,
    configured: str = "auto",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    training: str | None = None,
    gradients: str | None = None,
    needs_reference: Sequence[str] = (),
    needs_torch: Sequence[str] = (),
) -> Choice:
    """Decides: the call's argument, else the surrounding `use_implementation`, else the config.

    Args:
        dtype: of the weights.
        training: what makes this call a training step; None where nothing does.
        gradients: what may want a gradient, None where nothing does.
        needs_reference: what in this call only the dense loop can do; empty if nothing.
        needs_torch: what compiled operators cannot do, but those of plain PyTorch can.

    Raises:
        ValueError: the name is unknown, or the implementation named cannot do it, and why.
    """
    requested = check_name(argument or _requested.get() or configured)
    with_gradients = training is not None or gradients is not None
    if requested == "reference":
        return Choice("reference", "asked for", with_gradients)
    obstacles = list(needs_reference)
    if training is not None and requested not in ("auto", *DIFFERENTIABLE):
        obstacles.insert(0, training)
    if obstacles:
        if requested == "auto":
            return Choice("reference", "; ".join(obstacles), with_gradients)
        raise ValueError(
            f"implementation: got {requested!r}, which cannot be met: "
            f"{'; '.join(obstacles)}. Expected 'auto' or 'reference' here."
        )
    reasons = availability(device)
    not_torch = list(needs_torch) + ([training] if training is not None else [])
    if not_torch:
        for name in set(ENGINE_IMPLEMENTATIONS) - {"torch"}:
            reasons[name] = reasons[name] or "; ".join(not_torch)
    if dtype == torch.float64:
        for name in WITHOUT_FLOAT64:
            reasons[name] = reasons[name] or f"{name} kernels know no float64"
    if requested != "auto":
        if reasons[requested] is not None:
            raise ValueError(f"implementation: got {requested!r}, but {reasons[requested]}.")
        return _choice(requested, "asked for", with_gradients, {})
    device_type = torch.device(device).type
    passed_over = {}
    for name in PREFERENCE.get(device_type, ("torch",)):
        if reasons[name] is None:
            reason = f"the first available for {device_type}"
            return _choice(name, reason, with_gradients, passed_over)
        passed_over[name] = reasons[name]
    raise RuntimeError(f"no engine implementation has kernels for {device_type}.")


def _choice(name: str, reason: str, with_gradients: bool, passed_over: dict[str, str]) -> Choice:
    follows = with_gradients and name in DIFFERENTIABLE
    return Choice(name, reason, follows, with_gradients and not follows, passed_over)
