"""The GPU engine's whole loop in the interpreter, against the reference."""

from __future__ import annotations

import pytest
import torch

from albert_act_fast.configuration import POSITION_TYPES

pytest.importorskip("triton", reason="Triton is not installed")

from support import triton_interpreter
from support.compare import assert_parity, run, trace_reference
from support.device_loop import (
    BOTH_HALTING_STEPS,
    Late,
    PoisonedBuffers,
    call_of_layer,
    layer_and_rows,
    on_device,
    packed,
)
from support.models import PADDINGS, mask_of, random_batch, random_lengths, random_model

from albert_act_fast import engine
from albert_act_fast.engine import gpu, loop
from albert_act_fast.engine.gpu import graphs
from albert_act_fast.engine.gpu.buffers import PackedRows
from albert_act_fast.engine.gpu.counts import Unknown
from albert_act_fast.engine.gpu.iterations import LAUNCHES_PER_ITERATION, launch_all
from albert_act_fast.engine.layer import layer_weights
from albert_act_fast.kernels import launch_tables

pytestmark = pytest.mark.usefixtures("interpreted")
POSITIONS = tuple(POSITION_TYPES)


@pytest.fixture(autouse=True)
def poisoned_buffers(monkeypatch):
    """The engine's own buffers, too, hold NaN wherever nothing was written."""
    monkeypatch.setattr(gpu, "Buffers", PoisonedBuffers)


def eager(layer, hidden, lengths, limits):
    offsets, positions = packed(lengths)
    with torch.no_grad():
        tokens = engine.PackedTokens(None, positions, offsets)
        return loop.iterate(call_of_layer(layer, "torch"), hidden, tokens, limits)


def assert_same(given, expected):
    assert torch.equal(given.n_updates, expected.n_updates)
    scale = expected.hidden.abs().max().item()
    torch.testing.assert_close(given.hidden, expected.hidden, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(given.remainders, expected.remainders, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "position", "halting_step"),
    [
        *((size, position, "triton") for size in ("even", "odd") for position in POSITIONS),
        ("one head", "relative_key", "triton"),
        ("one column a head", "relative_key_query", "triton"),
        ("even", "absolute", "cuda"),
        ("odd", "relative_key", "cuda"),
    ],
    indirect=["halting_step"],
)
def test_models(size, position):
    seed = POSITIONS.index(position)
    model = random_model(
        seed, size, position_embedding_type=position, num_hidden_layers=6, halting_bias=-1.0
    )
    mask = mask_of(random_lengths(seed, 4, 11), padding=PADDINGS[seed % 3], seed=seed)
    inputs = random_batch(seed, model.config, mask)
    traced = trace_reference(model, **inputs)
    output = run(model, "triton", **inputs)
    assert assert_parity(output, traced, mask) == 0
    assert output.n_updates.unique().numel() > 2


@pytest.mark.parametrize("activation", ["gelu_new", "relu", "silu"])
@pytest.mark.parametrize("epsilon", [0, 0.4])
def test_activations_and_thresholds(activation, epsilon):
    model = random_model(3, hidden_act=activation, act_epsilon=epsilon, num_hidden_layers=5)
    mask = mask_of([7, 0, 11])
    inputs = random_batch(3, model.config, mask)
    traced = trace_reference(model, **inputs)
    assert assert_parity(run(model, "triton", **inputs), traced, mask) == 0


@BOTH_HALTING_STEPS
@pytest.mark.parametrize("bias", [20.0, -20.0])
@pytest.mark.parametrize("epsilon", [0, 0.01])
def test_all_halt_at_once_and_none_does(bias, epsilon):
    """With epsilon 0 and p = 1 a token reaches the threshold and does not pass it: a tie."""
    model = random_model(0, halting_bias=bias, act_epsilon=epsilon, num_hidden_layers=4)
    mask = mask_of([4, 9, 1])
    inputs = random_batch(0, model.config, mask)
    expected, output = run(model, "reference", **inputs), run(model, "triton", **inputs)
    assert torch.equal(output.n_updates, expected.n_updates)
    assert torch.equal(output.remainders, expected.remainders)
    torch.testing.assert_close(
        output.last_hidden_state, expected.last_hidden_state, rtol=0, atol=4e-5
    )


@BOTH_HALTING_STEPS
@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [23], [0, 3, 0]])
def test_one_token_one_sequence_and_none(lengths):
    model = random_model(5, num_hidden_layers=6)
    mask = mask_of(lengths)
    inputs = random_batch(5, model.config, mask)
    traced = trace_reference(model, **inputs)
    assert assert_parity(run(model, "triton", **inputs), traced, mask) == 0
    nothing = random_batch(5, model.config, torch.zeros(2, 5, dtype=torch.int64))
    assert run(model, "triton", **nothing).last_hidden_state.abs().max() == 0


@BOTH_HALTING_STEPS
def test_ties():
    """Every p is exactly 1/2: hp is 0.5, then 1.0, which with threshold 1 is a tie."""
    for epsilon, depth in ((0, 2), (0.5, 2), (0.25, 2)):
        model = random_model(6, act_epsilon=epsilon, num_hidden_layers=6)
        with torch.no_grad():
            model.encoder.albert_layer.act.dense.weight.zero_()
            model.encoder.albert_layer.act.dense.bias.zero_()
        mask = mask_of([5, 8])
        inputs = random_batch(6, model.config, mask)
        expected, output = run(model, "reference", **inputs), run(model, "triton", **inputs)
        assert torch.equal(output.n_updates, expected.n_updates)
        assert torch.equal(output.remainders, expected.remainders)
        assert expected.n_updates.max() <= depth


@pytest.mark.parametrize(
    ("more", "halting_step"),
    [((0, 0), "triton"), ((1, 0), "triton"), ((45, 9), "triton"), ((45, 9), "cuda")],
    indirect=["halting_step"],
)
@pytest.mark.parametrize("halting_bias", [-1.8, 20.0])
def test_a_capacity_beyond_the_batch(more, halting_bias):
    lengths = [9, 1, 0, 14]
    layer, hidden, limits = layer_and_rows(
        1, lengths, num_hidden_layers=8, halting_bias=halting_bias
    )
    result = on_device(layer, hidden, lengths, limits, more=more)
    assert_same(result, eager(layer, hidden, lengths, limits))


@pytest.mark.parametrize("lag", [0, 1, 4])
def test_launches_end_once_the_host_knows(lag):
    lengths = [12, 3, 8]
    layer, hidden, limits = layer_and_rows(2, lengths, num_hidden_layers=10, halting_bias=-0.6)
    expected = eager(layer, hidden, lengths, limits)
    depth = len(expected.running_rows)
    assert depth < 10, "the counts should reach 0 before the last iteration"
    before = len(triton_interpreter.launches)
    assert_same(on_device(layer, hidden, lengths, limits, counts=Late(lag)), expected)
    assert len(triton_interpreter.launches) - before == LAUNCHES_PER_ITERATION["triton"] * min(
        depth + lag, 10
    )


def test_products_whose_depth_is_split(monkeypatch):
    monkeypatch.setattr(launch_tables, "splits", lambda *_: 3)
    lengths = [12, 3, 8]
    layer, hidden, limits = layer_and_rows(4, lengths, num_hidden_layers=5, halting_bias=-0.6)
    before = len(triton_interpreter.launches)
    result = on_device(layer, hidden, lengths, limits, more=(9, 1))
    assert_same(result, eager(layer, hidden, lengths, limits))
    names = [name for name, _ in triton_interpreter.launches[before:]]
    assert names.count("split_linear") == 10
    assert names.count("linear") == 5


@BOTH_HALTING_STEPS
def test_buffers_serve_one_batch_after_the_other():
    """As a graph's do: nothing of the batch before shows, whatever its size was."""
    layer, first, limits = layer_and_rows(3, [17], num_hidden_layers=4)
    weights = layer_weights(layer)
    buffers = PoisonedBuffers(weights, 32, 4, torch.float32, "cpu")
    generator = torch.Generator().manual_seed(9)
    for lengths in ([17], [2, 0, 5], [32], [1], [8, 8, 8, 8]):
        hidden = torch.randn(sum(lengths), first.size(1), generator=generator)
        batch = PackedRows(hidden, *packed(lengths))
        batch.load(buffers)
        with torch.no_grad():
            launch_all(weights, buffers, limits, Unknown())
        assert_same(batch.take(buffers), eager(layer, hidden, lengths, limits))


def test_a_model_through_its_graphs(monkeypatch):
    """Where capturing is replaced by launching again: first kernel by kernel, then two replays."""

    def capture(launch, device):
        launch()  # with no batch loaded: nothing is live, and nothing may be read
        return launch

    captured = graphs.LayerGraphs(capture)
    monkeypatch.setattr(graphs, "why_not", lambda device: None)
    monkeypatch.setattr(gpu, "graphs_of", lambda layer: captured)
    monkeypatch.setattr(graphs, "Buffers", PoisonedBuffers)
    model = random_model(8, num_hidden_layers=3, position_embedding_type="relative_key")
    for seed, lengths in enumerate(([9, 2], [16, 0], [3, 3])):
        mask = mask_of(lengths)
        inputs = random_batch(seed, model.config, mask)
        traced = trace_reference(model, **inputs)
        assert assert_parity(run(model, "triton", **inputs), traced, mask) == 0
    assert list(captured.report()) == [graphs.Capacity(16, 2)]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_compiled_models(context):
    model = random_model(9, num_hidden_layers=2)
    compiled = torch.compile(model, backend="eager")
    inputs = random_batch(9, model.config, mask_of([5, 2]))
    with context():
        output = compiled(**inputs, implementation="triton")
    assert torch.equal(output.n_updates, run(model, "reference", **inputs).n_updates)


@BOTH_HALTING_STEPS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_no_worse_than_plain_pytorch(dtype):
    model = random_model(7, num_hidden_layers=6)
    mask = mask_of(random_lengths(7, 4, 14))
    inputs = random_batch(7, model.config, mask)
    truth = run(model, "reference", **inputs)
    model = model.to(dtype)
    plain, given = run(model, "reference", **inputs), run(model, "triton", **inputs)

    def error(output):
        same = (output.n_updates == truth.n_updates) & mask.bool()
        difference = (output.last_hidden_state.float() - truth.last_hidden_state)[same]
        flips = (output.n_updates != truth.n_updates).float().mean().item()
        return difference.square().mean().sqrt().item(), flips

    (error_given, flips_given), (error_plain, flips_plain) = error(given), error(plain)
    assert error_given <= 2 * error_plain
    assert flips_given <= 2 * flips_plain + 1 / mask.sum().item()
