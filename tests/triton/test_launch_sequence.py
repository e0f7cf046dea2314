"""What the GPU engine launches, walked on meta tensors: they hold nothing, so that reading a value,
copying to the host, or an operator whose result depends on values is an error."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from support.device_loop import BOTH_HALTING_STEPS, Late
from support.models import random_model
from torch.utils._python_dispatch import TorchDispatchMode

from albert_act_fast.engine.gpu.buffers import Buffers
from albert_act_fast.engine.gpu.counts import Unknown
from albert_act_fast.engine.gpu.iterations import (
    LAUNCHES_PER_ITERATION,
    launch_all,
)
from albert_act_fast.engine.layer import layer_weights
from albert_act_fast.kernels import launch_tables
from albert_act_fast.ops import triton_ops

# Kernels that an operator launches (its own tests count them), and operators that launch none.
LAUNCHES = {
    "project_qkv": 1,
    "ragged_attention": 1,
    "linear": 1,
    "split_linear": 1,
    "add_layer_norm": 1,
    "halting_step": {"triton": 2, "cuda": 1},
}
VIEWS = {"slice"}


class Recorded(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names: list[str] = []
        self.launches = 0
        self.rows: list[int] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        result = function(*arguments, **(keywords or {}))
        if name not in VIEWS and name != "empty":
            self.names.append(name)
            launches = LAUNCHES.get(name, 0)
            kind = function._overloadname
            self.launches += launches if isinstance(launches, int) else launches[kind]
        if name == "ragged_attention":
            self.rows.append(arguments[0].size(0))
        return result


def walk(counts, iterations=5, rows=600, **overrides) -> Recorded:
    model = random_model(0, num_hidden_layers=iterations, **overrides).to("meta", torch.bfloat16)
    layer = layer_weights(model.encoder.albert_layer)
    buffers = Buffers(layer, rows, 7, torch.bfloat16, "meta")
    with Recorded() as recorded, torch.no_grad():
        launch_all(layer, buffers, model.config.halting_limits, counts)
    return recorded


@BOTH_HALTING_STEPS
def test_seven_or_eight_launches_an_iteration_and_nothing_that_waits(halting_step):
    recorded = walk(Unknown())
    launched = recorded.names
    assert set(launched) < set(LAUNCHES)
    assert recorded.launches == 5 * LAUNCHES_PER_ITERATION[halting_step]
    assert LAUNCHES_PER_ITERATION == {"cuda": 7, "triton": 8}
    assert recorded.rows == [600] * 5
    assert launched == 5 * [
        "project_qkv",
        "ragged_attention",
        "linear",
        "add_layer_norm",
        "linear",
        "linear",
        "halting_step",
    ]


@BOTH_HALTING_STEPS
def test_a_split_product_takes_no_further_launch(halting_step):
    recorded = walk(Unknown(), rows=128, intermediate_size=3072)
    names = recorded.names
    assert set(names) <= set(LAUNCHES)
    assert recorded.launches == 5 * LAUNCHES_PER_ITERATION[halting_step]
    assert names.count("split_linear") == 5
    both = walk(Unknown(), rows=128, hidden_size=768, intermediate_size=3072)
    assert both.launches == recorded.launches
    assert both.names.count("split_linear") == 10


def test_counts_that_have_arrived_end_the_launches_and_change_none():
    class Told(Late):
        def sent(self, count):
            self._sent.append([350, 80, 3, 0, 0, 0][len(self._sent)])

    assert walk(Told(lag=0), 6).rows == [600] * 4
    assert walk(Told(lag=1), 6).rows == [600] * 5
    assert walk(Told(lag=3), 6).rows == [600] * 6


def test_reading_a_count_would_have_been_an_error():
    with pytest.raises(RuntimeError, match="meta tensors"):
        walk(Late(lag=0))


def test_every_operator_launches_what_is_counted_here():
    """The launchers themselves, on meta tensors too; see `triton_resources`."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if triton_ops.interpreted():
        pytest.skip("TRITON_INTERPRET=1: interpreted kernels do not tell how they are launched")
    from support.triton_resources import launches

    names = [launch.kernel.__name__ for launch in launches("sm_90")]
    assert {"decide", "move"} < set(names)
    assert set(LAUNCHES) - {"halting_step"} < set(names)


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
    deep = layer_weights(random_model(0, intermediate_size=3072).to(dtype).encoder.albert_layer)
    more = Buffers.bytes_needed(deep, 48, 4, dtype) - needed - 48 * (3072 - inner) * size
    # Parts in float32, a mark for each 16 rows and 32 columns.
    parts, marks = launch_tables.splits("sm_80", 48, 3072, width, size, 132), 3 * -(-width // 32)
    assert more == (0 if dtype == torch.float32 else parts * 48 * width * 4 + 4 * marks)
    assert parts == (1 if dtype == torch.float32 else 4 if triton_ops.interpreted() else 2)
