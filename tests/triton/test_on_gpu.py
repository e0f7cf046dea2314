"""The GPU engine on a GPU: `pytest -m gpu tests/triton`. Not yet run on one."""

from __future__ import annotations

import copy
import threading
import warnings

import pytest
import torch
from support.compare import assert_parity, run, trace_reference
from support.device_loop import call_of_layer, packed
from support.models import mask_of, random_batch, random_lengths, random_model

from albert_act_fast.engine import PackedTokens, gpu
from albert_act_fast.engine.gpu import graphs, iterations
from albert_act_fast.engine.gpu.iterations import LAUNCHES_PER_ITERATION
from albert_act_fast.engine.layer import layer_weights
from albert_act_fast.implementations import availability

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        availability("cuda")["triton"] is not None, reason=str(availability("cuda")["triton"])
    ),
]
LENGTHS = ([9, 30, 2], [41], [1, 1, 1], [0, 12, 5, 0, 20])


def on(device, seed, model, lengths):
    mask = mask_of(lengths)
    return {k: v.to(device) for k, v in random_batch(seed, model.config, mask).items()}


@pytest.fixture(params=["graphs", "kernel by kernel"])
def way(request, monkeypatch):
    if request.param == "kernel by kernel":
        monkeypatch.setenv(graphs.SWITCH, "0")
    return request.param


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("position", ["absolute", "relative_key_query"])
def test_parity(way, context, position):
    model = random_model(0, position_embedding_type=position, num_hidden_layers=24).cuda()
    for lengths in LENGTHS:
        for seed in range(3):  # launched, captured, replayed
            inputs = on("cuda", seed, model, lengths)
            traced = trace_reference(model, **inputs)
            with context():
                output = model(**inputs, implementation="triton")
            assert_parity(output, traced, inputs["attention_mask"])
    captured = graphs.graphs_of(model.encoder.albert_layer).report()
    assert bool(captured) == (way == "graphs")


def test_nothing_waits_for_the_device(way):
    """PyTorch itself raises where a call would."""
    model = random_model(1, num_hidden_layers=12).cuda()
    layer = model.encoder.albert_layer
    lengths = random_lengths(1, 8, 40)
    offsets, positions = (x.cuda() for x in packed(lengths))
    hidden = torch.randn(sum(lengths), 48, device="cuda")
    call, tokens = call_of_layer(layer, "triton"), PackedTokens(None, positions, offsets)
    with torch.no_grad():
        for _ in range(2):  # compiles, then captures
            gpu.iterate(call, hidden, tokens, model.config.halting_limits)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                gpu.iterate(call, hidden, tokens, model.config.halting_limits)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_seven_or_eight_kernels_an_iteration(monkeypatch):
    monkeypatch.setenv(graphs.SWITCH, "0")
    model = random_model(2, halting_bias=-20.0, num_hidden_layers=10).cuda()
    inputs = on("cuda", 2, model, [20, 7])
    run(model, "triton", **inputs)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run(model, "triton", **inputs)
    names = [event.name for event in profile.events()]
    ours = ("project_qkv", "ragged_attention", "linear", "add_layer_norm", "decide", "move")
    kernels = sum(name in ours or "halting_step_kernel" in name for name in names)
    whose = iterations.whose_halting_step(layer_weights(model.encoder.albert_layer))
    assert kernels == 10 * LAUNCHES_PER_ITERATION[whose]


def test_both_halting_steps(way, monkeypatch):
    if availability("cuda")["cuda"] is not None:
        pytest.skip(availability("cuda")["cuda"])
    for whose in ("triton", "cuda"):
        monkeypatch.setattr(iterations, "whose_halting_step", lambda layer, whose=whose: whose)
        model = random_model(5, num_hidden_layers=24).cuda()
        for seed, lengths in enumerate(LENGTHS):
            inputs = on("cuda", seed, model, lengths)
            traced = trace_reference(model, **inputs)
            for _ in range(3):  # launched, captured, replayed
                output = run(model, "triton", **inputs)
                assert_parity(output, traced, inputs["attention_mask"])


def test_other_streams_several_threads_and_models(way):
    models = [random_model(seed, num_hidden_layers=12).cuda() for seed in range(2)]
    batches = [(m, on("cuda", s, m, LENGTHS[s])) for m in models for s in range(3)]
    expected = [trace_reference(model, **inputs) for model, inputs in batches]
    torch.cuda.synchronize()
    failed = []

    def work(seed):
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for turn in range(30):
                    place = (turn + seed) % len(batches)
                    model, inputs = batches[place]
                    output = run(model, "triton", **inputs)
                    torch.cuda.current_stream().synchronize()
                    assert_parity(output, expected[place], inputs["attention_mask"])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_weights_that_change_and_move(way):
    model = random_model(3).cuda()
    inputs = on("cuda", 3, model, [9, 14])
    for change in ("none", "in place", "storage", "other dtype and back"):
        with torch.no_grad():
            if change == "in place":
                model.encoder.albert_layer.ffn.weight.mul_(0.9)
            elif change == "storage":
                weight = model.encoder.albert_layer.ffn.weight
                weight.data = weight.data * 1.1
            elif change != "none":
                model.bfloat16().float()
        for _ in range(3):
            traced = trace_reference(model, **inputs)
            assert_parity(run(model, "triton", **inputs), traced, inputs["attention_mask"])


def test_a_device_that_is_not_the_current_one(way):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two CUDA devices, there is {torch.cuda.device_count()}")
    first = random_model(4).to("cuda:0")
    second = copy.deepcopy(first).to("cuda:1")
    for model, device in ((first, "cuda:0"), (second, "cuda:1")):
        for _ in range(3):
            inputs = on(device, 4, model, [9, 14])
            output = run(model, "triton", **inputs)
            assert output.last_hidden_state.device == torch.device(device)
            assert_parity(output, trace_reference(model, **inputs), inputs["attention_mask"])


def test_compile(way):
    model = random_model(5).cuda()
    compiled = torch.compile(model)
    for lengths in LENGTHS:
        for seed in range(3):
            inputs = on("cuda", seed, model, lengths)
            traced = trace_reference(model, **inputs)
            output = run(compiled, "triton", **inputs)
            assert_parity(output, traced, inputs["attention_mask"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_no_worse_than_plain_pytorch(way, dtype):
    model = random_model(6, "base", num_hidden_layers=24, max_position_embeddings=128).cuda()
    inputs = on("cuda", 6, model, random_lengths(6, 8, 100))
    token = inputs["attention_mask"].bool()
    truth = run(model, "reference", **inputs)
    model = model.to(dtype)

    def error(output):
        same = (output.n_updates == truth.n_updates) & token
        difference = (output.last_hidden_state.float() - truth.last_hidden_state)[same]
        return difference.square().mean().sqrt().item()

    plain = error(run(model, "reference", **inputs))
    for _ in range(3):
        assert error(run(model, "triton", **inputs)) <= 2 * plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fifty_runs_of_one_input_agree_to_the_bit(monkeypatch, dtype):
    """With graphs and without, the host ahead of the device, beside it and far ahead."""
    model = random_model(9, "base", num_hidden_layers=24, max_position_embeddings=128)
    model = model.to("cuda", dtype)
    lengths = random_lengths(9, 12, 100)
    offsets, positions = (x.cuda() for x in packed(lengths))
    hidden = torch.randn(sum(lengths), 768, dtype=dtype, device="cuda")
    call = call_of_layer(model.encoder.albert_layer, "triton")
    tokens = PackedTokens(None, positions, offsets)
    results = []
    with torch.no_grad():
        for turn in range(50):
            monkeypatch.setenv(graphs.SWITCH, str(turn % 2))
            if turn % 3 == 0:
                torch.cuda.synchronize()
            elif turn % 3 == 1:
                torch.cuda._sleep(50_000_000)  # clock cycles
            results.append(gpu.iterate(call, hidden, tokens, model.config.halting_limits))
    first = results[0]
    assert first.n_updates.unique().numel() > 2
    for result in results[1:]:
        assert torch.equal(result.hidden, first.hidden)
        assert torch.equal(result.n_updates, first.n_updates)
        assert torch.equal(result.remainders, first.remainders)


def test_graphs_use_no_memory_but_their_buffers():
    model = random_model(7, num_hidden_layers=12).cuda()
    inputs = on("cuda", 7, model, [64] * 32)
    run(model, "triton", **inputs)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    output = run(model, "triton", **inputs)
    del output
    held = torch.cuda.memory_allocated() - before
    (counted,) = graphs.graphs_of(model.encoder.albert_layer).report().values()
    # The allocator rounds each tensor up to 512 bytes.
    assert counted <= held <= counted + 40 * 512 + (1 << 20)


def test_a_graph_that_failed_to_be_captured_leaves_the_device_usable(monkeypatch):
    def fails(*_, **__):
        raise torch.cuda.OutOfMemoryError("pretended")

    monkeypatch.setattr(graphs, "launch_all", fails)
    model = random_model(8).cuda()
    inputs = on("cuda", 8, model, [9, 14])
    traced = trace_reference(model, **inputs)
    for _ in range(3):
        assert_parity(run(model, "triton", **inputs), traced, inputs["attention_mask"])


def test_a_call_waits_once(way):
    """The whole model, from ids to padded states; PyTorch itself warns where the host waits."""
    model = random_model(10, num_hidden_layers=12).cuda()
    inputs = on("cuda", 10, model, [9, 14])
    with torch.no_grad():
        for _ in range(2):  # compiles, then captures
            model(**inputs, implementation="triton")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model(**inputs, implementation="triton")
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in caught if "synchroniz" in str(w.message)]) == 1
