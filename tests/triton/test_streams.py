"""Batches of several streams on one graph, on a device that does what it is told later: a stream is
a queue, and what two of them have to do is done in any order that the events allow."""

from __future__ import annotations

import random
from collections import deque
from types import SimpleNamespace

import pytest
import torch
from support.graphs import LIMITS, batch
from support.models import random_model

from albert_act_fast.engine.gpu import graphs
from albert_act_fast.engine.gpu.buffers import Buffers, PackedRows
from albert_act_fast.engine.gpu.graphs import Capacity, CapturedLoop
from albert_act_fast.engine.layer import layer_weights
from albert_act_fast.engine.packing import PackedResult


class Stream:
    def __init__(self):
        self.queue = deque()

    def wait_event(self, event):
        wanted = event.records
        self.queue.append((lambda: event.passed >= wanted, lambda: None))

    def put(self, action):
        self.queue.append((lambda: True, action))


class Device:
    type = "cuda"

    def __init__(self):
        self.streams = (Stream(), Stream())
        self.current = self.streams[0]
        self.lent_to = []  # streams that the buffers' memory was said to be in use on

    def put(self, action):
        self.current.put(action)

    def finish(self, seed):
        """Without a seed the streams take turns, wherever both may go on."""
        choose, last = random.Random(seed), self.streams[1]
        while any(stream.queue for stream in self.streams):
            able = [s for s in self.streams if s.queue and s.queue[0][0]()]
            assert able, "every stream waits for another one"
            others = [stream for stream in able if stream is not last] or able
            last = choose.choice(able) if seed is not None else others[0]
            last.queue.popleft()[1]()


@pytest.fixture
def device(copies, monkeypatch):
    """Takes the place of CUDA; `copies` that of the kernels."""
    fake = Device()

    class Event:
        records = passed = 0

        def record(self):
            self.records += 1
            fake.put(lambda now=self.records: setattr(self, "passed", now))

    class LaterRows(PackedRows):
        def load(self, buffers):
            fake.put(lambda: PackedRows.load(self, buffers))

        def take(self, buffers):
            def later(part):
                out = torch.full_like(part[: self.rows], float("nan"))
                fake.put(lambda: out.copy_(part[: self.rows]))
                return out

            return PackedResult(*map(later, (buffers.out, buffers.n_updates, buffers.remainders)))

    class FakeBuffers(Buffers):
        def __init__(self, layer, rows, sequences, dtype, device):
            super().__init__(layer, rows, sequences, dtype, "cpu")

        def record_stream(self, stream):
            fake.lent_to.append(stream)

    cuda = SimpleNamespace(Event=Event, current_stream=lambda: fake.current)
    names = {"inference_mode": torch.inference_mode, "no_grad": torch.no_grad}
    monkeypatch.setattr(graphs, "torch", SimpleNamespace(cuda=cuda, **names))
    monkeypatch.setattr(graphs, "Buffers", FakeBuffers)
    fake.batch = LaterRows
    return fake


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_batches_on_one_graph_take_turns(device, seed):
    layer = random_model(0).encoder.albert_layer
    shift = layer.attention.query.weight[0, 0].item()
    loop = CapturedLoop(
        layer_weights(layer),
        Capacity(16, 1),
        LIMITS,
        torch.float32,
        device,
        lambda launch, _: lambda: device.put(launch),
    )
    batches, results = [batch(layer, [16]) for _ in range(5)], []
    for place, arguments in enumerate(batches):
        device.current = device.streams[place % 2]
        results.append(loop.run(device.batch(*arguments)))
    assert all(result.hidden.isnan().all() for result in results), "nothing is done yet"
    device.finish(seed)
    for result, (hidden, *_) in zip(results, batches, strict=True):
        torch.testing.assert_close(result.hidden, hidden + shift)
        assert result.n_updates.tolist() == [12] * 16
    # The memory belongs to the stream it was allocated on; another one has to be named, once.
    assert device.lent_to == [device.streams[1]]


def test_all_memory_is_lent(monkeypatch):
    """A graph may be dropped at any time: what its buffers held must not be given away before."""
    lent = []
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, _: lent.append(id(self)))
    buffers = Buffers(
        layer_weights(random_model(0).encoder.albert_layer), 8, 2, torch.float32, "cpu"
    )
    buffers.record_stream("another one")
    held = [x if isinstance(x, tuple) else (x,) for x in vars(buffers).values()]
    tensors = {id(x) for values in held for x in values if isinstance(x, torch.Tensor)}
    assert len(tensors) > 15
    assert tensors == set(lent)
