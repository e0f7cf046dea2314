"""What the GPU engine launches, walked on meta tensors: they hold nothing, so that reading a value,
copying to the host, or an operator whose result depends on values is an error."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from support.device_loop import Late
from support.models import random_model
from torch.utils._python_dispatch import TorchDispatchMode

from albert_act_fast.engine.gpu.buffers import Buffers
from albert_act_fast.engine.gpu.counts import KnownAtFirst
from albert_act_fast.engine.gpu.iterations import (
    LAUNCHES_PER_ITERATION,
    launch_all,
)
from albert_act_fast.engine.layer import layer_weights
from albert_act_fast.ops import triton_ops

# Kernels that an operator launches (its own tests count them), and operators that launch none.
LAUNCHES = {
    "project_qkv": 1,
    "ragged_attention": 1,
    "linear": 1,
    "add_layer_norm": 1,
    "halting_step": 2,
    "addmm": 1,
}
VIEWS = {"slice", "t", "transpose"}
BEGIN = ["copy_", "copy_", "zero_", "arange"]


class Recorded(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names: list[str] = []
        self.rows: list[int] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        result = function(*arguments, **(keywords or {}))
        if name not in VIEWS and name != "empty":
            self.names.append(name)
        if name == "ragged_attention":
            self.rows.append(arguments[0].size(0))
        return result


def walk(counts, iterations=5, rows=600, library=False) -> Recorded:
    model = random_model(0, num_hidden_layers=iterations)
    layer, limits = (
        layer_weights(model.to("meta").encoder.albert_layer),
        model.config.halting_limits,
    )
    buffers = Buffers(layer, rows, 7, torch.float32, "meta")
    with Recorded() as recorded, torch.no_grad():
        launch_all(layer, buffers, limits, counts, library)
    return recorded


@pytest.mark.parametrize("library", [False, True])
def test_eight_launches_an_iteration_and_nothing_that_waits(library):
    recorded = walk(KnownAtFirst(600), library=library)
    assert recorded.names[:4] == BEGIN
    launched = recorded.names[4:]
    assert sum(LAUNCHES[name] for name in launched) == 5 * LAUNCHES_PER_ITERATION
    assert LAUNCHES_PER_ITERATION <= 8
    assert recorded.rows == [600] * 5
    # The library has the two products without an epilogue, while the bound is fresh.
    assert launched.count("addmm") == (2 * 3 if library else 0)
    assert launched[:7] == [
        "project_qkv",
        "ragged_attention",
        *(["addmm"] if library else ["linear"]),
        "add_layer_norm",
        "linear",
        *(["addmm"] if library else ["linear"]),
        "halting_step",
    ]


def test_small_products_are_not_the_librarys():
    assert "addmm" not in walk(KnownAtFirst(511), rows=511, library=True).names


def test_bounds_follow_the_counts_that_have_arrived():
    class Told(Late):
        def sent(self, count):
            self._sent.append([350, 80, 3, 0, 0, 0][len(self._sent)])

    assert walk(Told(600, lag=0), 6).rows == [600, 350, 80, 3]
    assert walk(Told(600, lag=1), 6).rows == [600, 600, 350, 80, 3]
    assert walk(Told(600, lag=3), 6).rows == [600, 600, 600, 600, 350, 80]


def test_reading_a_count_would_have_been_an_error():
    class Waits(KnownAtFirst):
        def sent(self, count):
            self.known.append(int(count))

    with pytest.raises(RuntimeError, match="meta tensors"):
        walk(Waits(600))


def test_every_operator_launches_what_is_counted_here():
    """The launchers themselves, on meta tensors too; see `triton_resources`."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if triton_ops.interpreted():
        pytest.skip("TRITON_INTERPRET=1: interpreted kernels do not tell how they are launched")
    from support.triton_resources import launches

    names = [launch.kernel.__name__ for launch in launches("sm_90")]
    assert {"decide", "move"} < set(names)
    assert set(LAUNCHES) - {"halting_step", "addmm"} < set(names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_counted_without_allocating(dtype):
    layer = layer_weights(random_model(0).to(dtype).encoder.albert_layer)
    needed = Buffers.bytes_needed(layer, 48, 4, dtype)
    buffers = Buffers(layer, 48, 4, dtype, "cpu")
    width, inner, size = layer.width, layer.inner, dtype.itemsize
    # Eight matrices of the hidden size and one of the feed-forward's; some 60 bytes a row beside.
    matrices = 48 * (8 * width + inner) * size
    assert needed == buffers.nbytes()
    assert matrices < needed < matrices + 48 * 80 + 1000
