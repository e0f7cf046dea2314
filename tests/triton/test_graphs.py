"""Which graphs the GPU engine keeps, and how a batch passes through one. Capturing is replaced: a
"graph" here launches its kernels again, and they only copy rows."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch
from support.device_loop import packed
from support.models import mask_of, random_batch, random_config, random_model

import albert_act_fast
from albert_act_fast import engine
from albert_act_fast.engine import gpu
from albert_act_fast.engine.gpu import counts, graphs
from albert_act_fast.engine.gpu.graphs import Capacity, CapturedLoop, LayerGraphs, capacity_of
from albert_act_fast.engine.layer import layer_weights

LIMITS = random_config(num_hidden_layers=12).halting_limits


@pytest.fixture
def copies(monkeypatch):
    """Instead of iterating, every row's result is itself plus the weights' first number."""

    def launch_all(layer, buffers, limits, counts, library=False):
        buffers.out.copy_(buffers.hidden[0] + layer.query[0][0, 0])
        buffers.n_updates.fill_(limits.max_iterations)

    monkeypatch.setattr(graphs, "launch_all", launch_all)


@pytest.fixture
def captured():
    """LayerGraphs, and the devices that captures were made on."""
    made = []

    def capture(launch, device):
        made.append(device)
        launch()
        return launch

    return LayerGraphs(capture), made


def batch(layer, lengths):
    width = layer.act.dense.weight.size(1)
    return torch.randn(sum(lengths), width), *packed(lengths)


def find(layer_graphs, layer, lengths, limits=LIMITS):
    hidden, *_ = batch(layer, lengths)
    return layer_graphs.find(layer_weights(layer), hidden, len(lengths), limits)


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
def test_results_are_the_batchs_own_and_stay(captured):
    layer_graphs, _ = captured
    layer = random_model(0).encoder.albert_layer
    find(layer_graphs, layer, [16])
    loop = find(layer_graphs, layer, [16])
    first, second = batch(layer, [11]), batch(layer, [16])
    shift = layer.attention.query.weight[0, 0].item()
    result = loop.run(*first)
    later = loop.run(*second)
    for given, (hidden, *_) in ((result, first), (later, second)):
        torch.testing.assert_close(given.hidden, hidden + shift)
        assert given.n_updates.tolist() == [12] * hidden.size(0)
    # A weight changed in place is in the graph.
    with torch.no_grad():
        layer.attention.query.weight[0, 0] += 1
    assert find(layer_graphs, layer, [16]) is loop
    torch.testing.assert_close(loop.run(*first).hidden, first[0] + shift + 1)


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


@pytest.mark.usefixtures("copies")
def test_inference_mode_and_no_grad_share_a_graph(captured):
    layer_graphs, _ = captured
    layer = random_model(0).encoder.albert_layer
    arguments = batch(layer, [16])
    with torch.inference_mode():
        find(layer_graphs, layer, [16])
        loop = find(layer_graphs, layer, [16])
        inside = loop.run(*arguments)
    with torch.no_grad():
        outside = loop.run(*arguments)
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
            loop = layer_graphs.find(layer_weights(layer), hidden, 1, LIMITS)
            if isinstance(loop, str):  # another thread is capturing it
                continue
            if not torch.equal(loop.run(hidden, *packed([16])).hidden, hidden + shift):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(layer_graphs.report()) == 1


def test_a_model_takes_its_graphs_with_it():
    model = random_model(0)
    mine = weakref.ref(graphs.graphs_of(model.encoder.albert_layer))
    assert graphs.graphs_of(model.encoder.albert_layer) is mine()
    assert graphs.graphs_of(random_model(0).encoder.albert_layer) is not mine()
    del model
    gc.collect()
    assert mine() is None


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


def test_counts_are_taken_in_once_their_copy_is_done(monkeypatch):
    done = []

    class Event:
        def record(self):
            self.number = len(done)
            done.append(False)

        def query(self):
            return done[self.number]

        def synchronize(self):
            raise AssertionError("the host waited")

    fake = SimpleNamespace(
        empty=lambda n, dtype, pin_memory: torch.empty(n, dtype=dtype),
        int64=torch.int64,
        cuda=SimpleNamespace(Event=Event),
    )
    monkeypatch.setattr(counts, "torch", fake)
    arriving = counts.Arriving(50, 8)
    for count in (40, 30, 7):
        arriving.sent(torch.tensor([count]))
    arriving.poll()
    assert (arriving.known, arriving.bound(4), arriving.age(4)) == ([50], 50, 3)
    done[0] = done[2] = True  # the second is not done: nothing after it is looked at
    arriving.poll()
    assert arriving.known == [50, 40]
    done[1] = True
    arriving.poll()
    assert arriving.known == [50, 40, 30, 7]
    assert [arriving.bound(i) for i in (1, 2, 4, 6)] == [50, 40, 7, 7]
    assert [arriving.age(i) for i in (1, 4, 6)] == [0, 0, 2]


def test_the_reasons(monkeypatch):
    assert graphs.why_not(torch.device("cuda")) is None
    assert graphs.why_not(torch.device("cpu")) == "there are no CUDA graphs on cpu"
    monkeypatch.setenv(graphs.SWITCH, "0")
    assert graphs.why_not(torch.device("cuda")) == "ALBERT_ACT_FAST_CUDA_GRAPHS=0"
    call = engine.call_of(random_model(0), "triton")
    assert gpu.why_not(call) is None
    assert gpu.describe(call).startswith("all iterations without a host sync, kernel by kernel: ")


def test_layers_the_kernels_cannot_take():
    def reason(change, **overrides):
        model = random_model(0, **overrides)
        change(model.encoder.albert_layer)
        return gpu.why_not(engine.call_of(model, "triton"))

    def replace(layer):
        layer.ffn = torch.nn.utils.parametrizations.weight_norm(layer.ffn)

    def transpose(layer):
        weight = layer.ffn.weight.data
        layer.ffn.weight.data = weight.t().contiguous().t()

    assert reason(replace).endswith("ffn is a ParametrizedLinear, which must be called")
    assert reason(lambda layer: layer.double()) == "the weights are torch.float64"
    mixed = reason(lambda layer: layer.full_layer_layer_norm.bfloat16())
    assert mixed == "output_norm.weight is torch.bfloat16, not torch.float32 as query.weight"
    assert reason(transpose) == "ffn.weight is not contiguous"
    assert reason(lambda _: None, hidden_act="tanh").endswith(
        "activation is a Tanh, which must be called"
    )
    wide = reason(lambda _: None, hidden_size=257, num_attention_heads=1)
    assert wide == "a head has 257 columns, more than 256"


def test_models_say_what_computes_them(monkeypatch):
    model = random_model(0)
    assert model.explain_implementation("reference").startswith("reference (asked for): ")
    assert model.explain_implementation("torch").startswith("torch (asked for): ")
    with pytest.raises(ValueError, match="expected one of auto"):
        model.explain_implementation("fast")
    monkeypatch.setattr("albert_act_fast.implementations.availability", lambda _: {"triton": None})
    assert "without a host sync, kernel by kernel" in model.explain_implementation("triton")


def test_warming_up_runs_every_batch_twice():
    model, shapes = random_model(0), []
    model.register_forward_pre_hook(lambda _, arguments: shapes.append(arguments[0].shape))
    gpu.warm_up(model, [(2, 5), (1, 9)])
    assert shapes == [(2, 5), (2, 5), (1, 9), (1, 9)]


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
