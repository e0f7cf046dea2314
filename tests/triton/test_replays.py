"""How a batch passes through a graph. Capturing is replaced: a "graph" here launches its kernels
again, and they only copy rows."""

from __future__ import annotations

import gc
import threading
from types import SimpleNamespace

import pytest
import torch
from support.device_loop import packed
from support.graphs import LIMITS, batch, find
from support.models import random_model

from albert_act_fast.engine.gpu import graphs
from albert_act_fast.engine.gpu.buffers import PackedRows
from albert_act_fast.engine.layer import layer_weights


@pytest.mark.usefixtures("copies")
def test_results_are_the_batchs_own_and_stay(captured):
    layer_graphs, _ = captured
    layer = random_model(0).encoder.albert_layer
    find(layer_graphs, layer, [16])
    loop = find(layer_graphs, layer, [16])
    first, second = batch(layer, [11]), batch(layer, [16])
    shift = layer.attention.query.weight[0, 0].item()
    result = loop.run(PackedRows(*first))
    later = loop.run(PackedRows(*second))
    for given, (hidden, *_) in ((result, first), (later, second)):
        torch.testing.assert_close(given.hidden, hidden + shift)
        assert given.n_updates.tolist() == [12] * hidden.size(0)
    # A weight changed in place is in the graph.
    with torch.no_grad():
        layer.attention.query.weight[0, 0] += 1
    assert find(layer_graphs, layer, [16]) is loop
    torch.testing.assert_close(loop.run(PackedRows(*first)).hidden, first[0] + shift + 1)


@pytest.mark.usefixtures("copies")
def test_inference_mode_and_no_grad_share_a_graph(captured):
    layer_graphs, _ = captured
    layer = random_model(0).encoder.albert_layer
    arguments = batch(layer, [16])
    with torch.inference_mode():
        find(layer_graphs, layer, [16])
        loop = find(layer_graphs, layer, [16])
        inside = loop.run(PackedRows(*arguments))
    with torch.no_grad():
        outside = loop.run(PackedRows(*arguments))
    assert torch.equal(inside.hidden, outside.hidden)
    assert inside.hidden.is_inference()
    assert not outside.hidden.is_inference()
    outside.hidden.add_(1)


@pytest.mark.usefixtures("copies")
def test_threads_take_turns(captured):
    layer_graphs, _ = captured
    layer = random_model(0).encoder.albert_layer
    find(layer_graphs, layer, [16])
    shift = layer.attention.query.weight[0, 0].item()
    wrong = []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(50):
            hidden = torch.randn(16, 48, generator=generator)
            loop = layer_graphs.find(layer_weights(layer), 16, 1, LIMITS)
            if isinstance(loop, str):  # another thread is capturing it
                continue
            if not torch.equal(loop.run(PackedRows(hidden, *packed([16]))).hidden, hidden + shift):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(layer_graphs.report()) == 1


def test_capture_compiles_before_it_records(monkeypatch):
    """The order of the calls, with PyTorch's CUDA functions replaced by ones that write it down."""
    log = []

    class Recorded:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            log.append(f"enter {self.name}")

        def __exit__(self, *_):
            log.append(f"leave {self.name}")

        def wait_stream(self, other):
            log.append(f"{self.name} waits for {other.name}")

        def replay(self):
            log.append("replay")

        def capture_begin(self, capture_error_mode):
            assert capture_error_mode == "thread_local"
            assert not gc.isenabled()
            log.append("begin capture")

        def capture_end(self):
            log.append("end capture")

    cuda = SimpleNamespace(
        Stream=lambda device: Recorded("side"),
        CUDAGraph=lambda: Recorded("graph"),
        current_stream=lambda device: Recorded("main"),
        stream=lambda stream: Recorded("side stream"),
    )
    monkeypatch.setattr(graphs, "torch", SimpleNamespace(cuda=cuda))
    replay = graphs.capture_on_gpu(lambda: log.append("launch"), "cuda:1")
    replay()
    assert log == [
        "side waits for main",
        "enter side stream",
        "launch",
        "leave side stream",
        "main waits for side",
        "enter side stream",
        "begin capture",
        "launch",
        "end capture",
        "leave side stream",
        "replay",
    ]
    assert gc.isenabled()
