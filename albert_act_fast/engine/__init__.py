"""The exact token-dropping engine: computes running tokens only, with the reference's results.

`ENGINES` has, for every implementation, the ways its iterations can be run, fastest first. Each is
a module with

    HOW                                       what it does, in words
    why_not(call)                             None where it can compute the call, else the reason
    iterate(call, hidden, tokens, limits)     packed rows in, `PackedResult` out

and, where it can do more than iterate,

    maps(call)                                whether `iterate` takes embeddings, before their
                                              mapping
    why_not_encode(call)                      None where `encode` can compute the call
    encode(call, inputs, limits)              a padded batch, values not yet checked, in;
                                              `EncoderResult` out
"""

from __future__ import annotations

from types import ModuleType

from torch import nn

from albert_act_fast.configuration import HaltingLimits
from albert_act_fast.engine import cpu, gpu, loop, training
from albert_act_fast.engine.call import Call, call_of
from albert_act_fast.engine.encode import encode
from albert_act_fast.engine.layer import Inspection, inspect, missing_weights, parameters_below
from albert_act_fast.engine.packing import PackedResult, PackedTokens, pack

ENGINES: dict[str, tuple[ModuleType, ...]] = {
    "torch": (loop, training),
    "cpp": (cpu, loop),
    "triton": (gpu, loop),
    "cuda": (loop,),
}
__all__ = [
    "ENGINES",
    "Call",
    "HaltingLimits",
    "Inspection",
    "PackedResult",
    "PackedTokens",
    "call_of",
    "cpu",
    "encode",
    "engine_for",
    "inspect",
    "missing_weights",
    "pack",
    "parameters_below",
    "release",
]


def engine_for(call: Call) -> tuple[ModuleType | None, list[str]]:
    """The first engine of the implementation that can compute the call (None: there is none), and
    why those before it cannot."""
    reasons = []
    for engine in ENGINES[call.implementation]:
        reason = engine.why_not(call)
        if reason is None:
            return engine, reasons
        reasons.append(reason)
    return None, reasons


def release(model: nn.Module) -> None:
    """Frees what engines keep of a model beside its weights: packed copies, CUDA graphs and their
    buffers. The next call makes them anew.

    Args:
        model: any model with ALBERT-ACT inside.
    """
    for module in model.modules():
        cpu.release(module)
        gpu.release(module)
