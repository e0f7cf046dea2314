"""Which graphs the GPU engine keeps. Capturing is replaced: a "graph" here launches its kernels
again, and they only copy rows."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from support.graphs import LIMITS, find
from support.models import mask_of, random_batch, random_model

import albert_act_fast
from albert_act_fast.engine.gpu import graphs
from albert_act_fast.engine.gpu.graphs import Capacity, CapturedLoop, LayerGraphs, capacity_of


def test_capacities_cover_the_batch_and_waste_little():
    assert capacity_of(1, 1) == Capacity(16, 1)
    assert capacity_of(4096, 32) == Capacity(4096, 32)
    assert capacity_of(4097, 33) == Capacity(4608, 64)
    for rows in range(1, 3000):
        capacity = capacity_of(rows, rows)
        assert capacity.rows >= rows
        assert capacity.sequences >= rows
        assert capacity.rows <= max(16, rows * 1.125 + 16)
    assert len({capacity_of(rows, 1) for rows in range(257, 513)}) == 8


@pytest.mark.usefixtures("copies")
def test_the_second_batch_of_a_capacity_captures_and_the_third_replays(captured):
    layer_graphs, made = captured
    layer = random_model(0).encoder.albert_layer
    assert find(layer_graphs, layer, [9, 3]) == "the first batch with a capacity of 16 rows"
    loop = find(layer_graphs, layer, [16, 0])
    assert isinstance(loop, CapturedLoop)
    assert find(layer_graphs, layer, [4, 1]) is loop
    assert len(made) == 1
    assert isinstance(find(layer_graphs, layer, [17, 1]), str)
    assert isinstance(find(layer_graphs, layer, [1, 1, 1]), str), "more sequences"
    assert isinstance(find(layer_graphs, layer, [9, 3], LIMITS._replace(max_iterations=6)), str)
    assert layer_graphs.report() == {Capacity(16, 2): loop.buffers.nbytes()}


@pytest.mark.usefixtures("copies")
@pytest.mark.parametrize(
    "change", ["another tensor", "another storage", "dtype", "assigned state dict"]
)
def test_weights_that_move_drop_all_graphs(captured, change):
    layer_graphs, made = captured
    layer = random_model(0).encoder.albert_layer
    for lengths in ([9], [9], [40], [40]):
        find(layer_graphs, layer, lengths)
    buffers = weakref.ref(find(layer_graphs, layer, [9]).buffers)
    assert len(layer_graphs.report()) == len(made) == 2
    weight = layer.ffn.weight
    if change == "another tensor":
        layer.ffn.weight = torch.nn.Parameter(weight.detach().clone())
    elif change == "another storage":
        weight.data = weight.data.clone()
    elif change == "dtype":
        layer.bfloat16()
    else:
        layer.load_state_dict({k: v.clone() for k, v in layer.state_dict().items()}, assign=True)
    assert isinstance(find(layer_graphs, layer, [9]), str)
    gc.collect()
    assert buffers() is None, "memory of a graph that can never be used again"
    loop = find(layer_graphs, layer, [9])
    assert isinstance(loop, CapturedLoop)
    assert list(layer_graphs.report()) == [Capacity(16, 1)]


@pytest.mark.usefixtures("copies")
def test_memory_and_number_are_bounded_and_the_least_used_goes(captured, monkeypatch):
    layer_graphs, made = captured
    layer = random_model(0).encoder.albert_layer
    for lengths in ([16], [16], [32], [32]):
        find(layer_graphs, layer, lengths)
    find(layer_graphs, layer, [16])  # used again, so that [32] is the least used
    sizes = layer_graphs.report()
    monkeypatch.setattr(graphs, "MAX_BYTES", sum(sizes.values()) + 100)
    for _ in range(3):
        assert isinstance(find(layer_graphs, layer, [20, 1]), str)
    assert set(layer_graphs.report()) == {Capacity(16, 1), Capacity(32, 1)}
    find(layer_graphs, layer, [20, 1])  # now twice as often as [32]
    assert set(layer_graphs.report()) == {Capacity(16, 1), Capacity(32, 2)}
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 2)
    for _ in range(6):
        find(layer_graphs, layer, [1, 1, 1])
    assert set(layer_graphs.report()) == {Capacity(32, 2), Capacity(16, 4)}

    monkeypatch.setattr(graphs, "MAX_BYTES", 1 << 20)
    find(layer_graphs, layer, [3000])
    before = len(made)
    for _ in range(2):
        reason = find(layer_graphs, layer, [3000])
        assert "a graph of 3072 rows takes" in reason
        assert "MiB, more than 1" in reason
    assert len(made) == before
    assert len(layer_graphs.report()) == 2, "a graph too large must not push the others out"


@pytest.mark.usefixtures("copies")
def test_more_capacities_than_there_is_room_for_do_not_capture_for_ever(captured):
    layer_graphs, made = captured
    layer = random_model(0).encoder.albert_layer
    capacities = [[16 * n] for n in (*range(1, 17), *range(18, 33, 2), *range(36, 65, 4))]
    capacities += [[n, 0] for n in (16, 32, 48, 64, 80, 96, 112, 128)]
    assert len(capacities) == graphs.MAX_GRAPHS + 8
    for _ in range(5):
        for lengths in capacities:
            find(layer_graphs, layer, lengths)
    assert len(made) == graphs.MAX_GRAPHS
    # What came to be asked for more often does get its graph.
    for _ in range(2 * 5):
        last = find(layer_graphs, layer, capacities[-1])
    assert isinstance(last, CapturedLoop)
    assert len(made) == graphs.MAX_GRAPHS + 1


@pytest.mark.usefixtures("copies")
def test_frequencies_fade(captured, monkeypatch):
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 1)
    monkeypatch.setattr(graphs, "FADE_AFTER", 64)
    layer_graphs, _ = captured
    layer = random_model(0).encoder.albert_layer
    for _ in range(1000):
        find(layer_graphs, layer, [16])
    for _ in range(2 * 64):
        find(layer_graphs, layer, [32])
    assert list(layer_graphs.report()) == [Capacity(32, 1)]


@pytest.mark.usefixtures("copies")
def test_others_go_on_while_one_captures():
    layer = random_model(0).encoder.albert_layer
    seen = []

    def capture(launch, device):
        if made:  # the second capture: what another thread would get meanwhile
            seen.append(find(layer_graphs, layer, [16]))
            seen.append(find(layer_graphs, layer, [32]))
        made.append(device)
        launch()
        return launch

    made: list = []
    layer_graphs = LayerGraphs(capture)
    for lengths in ([16], [16], [32], [32]):
        find(layer_graphs, layer, lengths)
    ready, same = seen
    assert isinstance(ready, CapturedLoop)
    assert same == "another thread is capturing the graph of 32 rows"
    assert set(layer_graphs.report()) == {Capacity(16, 1), Capacity(32, 1)}


@pytest.mark.usefixtures("copies")
def test_a_capture_that_outlives_its_weights_is_not_kept():
    layer = random_model(0).encoder.albert_layer

    def capture(launch, device):
        layer.ffn.weight.data = layer.ffn.weight.data.clone()
        find(layer_graphs, layer, [40])
        launch()
        return launch

    layer_graphs = LayerGraphs(capture)
    find(layer_graphs, layer, [16])
    assert isinstance(find(layer_graphs, layer, [16]), CapturedLoop)
    assert layer_graphs.report() == {}


@pytest.mark.usefixtures("copies")
@pytest.mark.parametrize("way", ["released", "moved"])
def test_memory_is_freed_at_once(monkeypatch, way):
    model = random_model(0)
    layer = model.encoder.albert_layer
    monkeypatch.setattr(LayerGraphs.__init__, "__defaults__", (lambda launch, device: launch,))
    for _ in range(2):
        loop = find(graphs.graphs_of(layer), layer, [16])
    buffers, weight = weakref.ref(loop.buffers), weakref.ref(loop._layer.ffn[0])
    del loop
    if way == "released":
        albert_act_fast.release(model)
    else:
        model.to(torch.bfloat16)
    gc.collect()
    assert buffers() is None
    assert weight() is None


@pytest.mark.usefixtures("copies")
def test_without_memory_it_goes_on_kernel_by_kernel():
    def capture(launch, device):
        raise torch.cuda.OutOfMemoryError("no memory")

    layer_graphs = LayerGraphs(capture)
    layer = random_model(0).encoder.albert_layer
    find(layer_graphs, layer, [16])
    for _ in range(2):
        assert find(layer_graphs, layer, [16]) == "no memory was left for a graph of 16 rows"
    assert layer_graphs.report() == {}


def test_a_model_takes_its_graphs_with_it():
    model = random_model(0)
    mine = weakref.ref(graphs.graphs_of(model.encoder.albert_layer))
    assert graphs.graphs_of(model.encoder.albert_layer) is mine()
    assert graphs.graphs_of(random_model(0).encoder.albert_layer) is not mine()
    del model
    gc.collect()
    assert mine() is None


def test_copies_and_pickles_of_a_model_hold_no_graphs(captured):
    model = random_model(0)
    graphs.graphs_of(model.encoder.albert_layer)
    twin = copy.deepcopy(model)
    inputs = random_batch(0, model.config, mask_of([4]))
    with torch.no_grad():
        assert torch.equal(model(**inputs).n_updates, twin(**inputs).n_updates)
    assert graphs.graphs_of(twin.encoder.albert_layer) is not graphs.graphs_of(
        model.encoder.albert_layer
    )
