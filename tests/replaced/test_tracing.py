"""Tracing and exporting record one call's operators: the iterations of that call's tokens, for
ever. A call that is recorded is refused, by the reference too, in words."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import albert_act_fast as aaf
from albert_act_fast import AlbertActForSequenceClassification, AlbertActModel
from tests.model import published
from tests.replaced.agreement import (
    IMPLEMENTATIONS,
    TINY,
    assert_equal,
    batch_of,
    outputs,
    tiny,
)

EVERY = ("reference", *IMPLEMENTATIONS)
# What must be said: that the call is recorded, and why that cannot be right.
WORDS = re.compile(r"(?=.*(trac|export))(?=.*iteration)", re.DOTALL | re.IGNORECASE)


class Wrapped(nn.Module):
    """A user's module that calls the model."""

    def __init__(self, model: nn.Module, implementation: str):
        super().__init__()
        self.model, self.implementation = model, implementation

    def forward(self, input_ids):
        with aaf.use_implementation(self.implementation):
            return self.model(input_ids)[0]


def trace(module, ids):
    return torch.jit.trace(module, ids, check_trace=False)


def trace_without_gradients(module, ids):
    with torch.no_grad():
        return trace(module, ids)


def trace_in_inference_mode(module, ids):
    with torch.inference_mode():
        return trace(module, ids)


def export(module, ids):
    return torch.export.export(module, (ids,), strict=False)


def export_strictly(module, ids):
    return torch.export.export(module, (ids,), strict=True)


def export_with_free_sizes(module, ids):
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        return torch.export.export(module, (ids,), dynamic_shapes=(sizes,), strict=False)


def onnx(module, ids):
    """The exporter that traces; the other one exports as above."""
    import io

    with torch.no_grad():
        return torch.onnx.export(module, (ids,), io.BytesIO(), dynamo=False)


RECORDERS = (
    trace,
    trace_without_gradients,
    trace_in_inference_mode,
    export,
    export_strictly,
    export_with_free_sizes,
    onnx,
)
MODELS = {
    "model": lambda: tiny(AlbertActModel),
    "classifier": lambda: tiny(AlbertActForSequenceClassification),
    "live": lambda: aaf.accelerate(published.model(**TINY)),
}


def cases() -> list:
    every = [("model", record, name) for record in RECORDERS for name in EVERY]
    others = [(model, record, "auto") for model in MODELS for record in (trace, export)]
    return list(dict.fromkeys(every + others))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("name", "record", "implementation"), cases())
def test_a_call_that_is_recorded(name, record, implementation):
    model = MODELS[name]()
    ids = torch.randint(5, 31, (2, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids)[0]
    # Dynamo stops by itself, at the first context variable, with words of its own.
    words = None if record is export_strictly else WORDS
    with pytest.raises((RuntimeError, ValueError), match=words):
        record(Wrapped(model, implementation).eval(), ids)
    with torch.no_grad():
        assert torch.equal(model(ids)[0], expected), "the refusal leaves nothing behind"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("implementation", EVERY)
def test_in_training_too(implementation):
    model = tiny(AlbertActModel).train()
    with pytest.raises((RuntimeError, ValueError)):
        trace(Wrapped(model, implementation), torch.ones(1, 4, dtype=torch.int64))


def test_after_a_refused_recording_all_is_as_before():
    model = tiny(AlbertActModel)
    batch = batch_of(model)
    expected = outputs(model, "reference", **batch)
    for record in (trace, export):
        with pytest.raises((RuntimeError, ValueError)):
            record(Wrapped(model, "auto").eval(), batch["input_ids"])
    for implementation in IMPLEMENTATIONS:
        assert_equal(outputs(model, implementation, **batch), expected)
