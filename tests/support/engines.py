"""The engine implementations this installation has, as parameters of a test."""

from __future__ import annotations

import pytest

from albert_act_fast.implementations import DIFFERENTIABLE, ENGINE_IMPLEMENTATIONS, availability

# Added to an implementation's name for `compare.run`: the forward pass that training takes.
WITH_GRADIENTS = " with gradients"


def _available(device: str) -> list[str]:
    reasons = availability(device)
    names = [name for name in ENGINE_IMPLEMENTATIONS if reasons[name] is None]
    return names + [name + WITH_GRADIENTS for name in names if name in DIFFERENTIABLE]


ON_CPU = _available("cpu")
# The parameters `device, implementation`: everything the dispatcher has kernels for.
ENGINES = [pytest.param("cpu", name, id=name) for name in ON_CPU] + [
    pytest.param("cuda", name, id=f"{name}-cuda", marks=pytest.mark.gpu)
    for name in _available("cuda")
]
