"""The CUDA kernels on a GPU: `pytest -m gpu tests/cuda`. Not yet run on one."""

from __future__ import annotations

import pytest
import torch
from support.models import mask_of, random_batch, random_model
from support.operator_parity import DTYPES, apply, check, copied, same_bits

from albert_act_fast.implementations import availability
from albert_act_fast.ops.contracts import implementation_of
from suite.operator_calls import MAKERS, Call, Maker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        availability("cuda")["cuda"] is not None, reason=str(availability("cuda")["cuda"])
    ),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 256, 768, 1000, 4093, 4096])
@pytest.mark.parametrize("name", ["halting_step", "add_layer_norm", "embed_tokens"])
def test_every_width(name, width, dtype):
    call = MAKERS[name](Maker(width, dtype, False), width, [4, 0, 3, 1])
    check(call, apply(call, "cuda", "cuda"))


def many_rows(rows: int, dtype: torch.dtype, width: int) -> Call:
    make = Maker(1, dtype, False)
    lengths = [17]
    while sum(lengths) < 3 * rows:
        lengths.append(int(make.integers(400, 1)) * int(make.integers(3, 1)))
    return MAKERS["halting_step"](make, width, lengths, beyond=1000)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [500, 20_000, 100_000])
def test_halting_step_over_many_blocks(rows, dtype):
    call = many_rows(rows, dtype, 64)
    first = apply(call, "cuda", "cuda")
    check(call, first)
    for _ in range(20):
        again = apply(call, "cuda", "cuda")
        for name in call.outputs:
            assert same_bits(again.arguments[name], first.arguments[name]), name


def small_calls() -> list[Call]:
    return [make(Maker(2, torch.bfloat16, False), 768, [5, 0, 33, 2]) for make in MAKERS.values()]


@pytest.mark.parametrize("call", small_calls(), ids=lambda call: call.operator)
def test_no_sync_and_no_allocation(call):
    operator = implementation_of(call.operator, "cuda")
    arguments = copied(call.arguments, "cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        operator(*arguments.values())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@pytest.mark.parametrize("call", small_calls(), ids=lambda call: call.operator)
def test_captured_in_a_graph_and_replayed(call):
    operator = implementation_of(call.operator, "cuda")
    ran = Call(call.operator, copied(call.arguments, "cuda"), call.outputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        operator(*ran.arguments.values())
    for _ in range(3):
        graph.replay()
    check(call, ran.to("cpu"), exact=call.operator in ("write_kv", "scatter_rows"))


def test_the_current_stream_is_taken():
    """Its input is still being written when the operator is called."""
    x = torch.zeros(4096, 768, device="cuda")
    norm = [torch.ones(768, device="cuda"), torch.zeros(768, device="cuda"), 1e-12]
    out, work = torch.empty_like(x), torch.randn(4096, 4096, device="cuda")
    given = torch.randn_like(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(20):
            work = work @ work * 1e-3
        x.copy_(given)
        implementation_of("add_layer_norm", "cuda")(x, torch.zeros_like(x), *norm, None, out)
    torch.cuda.synchronize()
    expected = torch.nn.functional.layer_norm(given, (768,), *norm)
    assert (out - expected).abs().max() < 1e-5


@pytest.mark.parametrize("position", ["absolute", "relative_key_query"])
def test_the_model_runs_on_them(position):
    model = random_model(0, position_embedding_type=position).cuda()
    batch = random_batch(0, model.config, mask_of([9, 1, 5]))
    batch = {name: value.cuda() for name, value in batch.items()}
    with torch.no_grad():
        expected = model(**batch, implementation="reference")
        result = model(**batch, implementation="cuda")
    assert torch.equal(result.n_updates, expected.n_updates)
    assert (result.last_hidden_state - expected.last_hidden_state).abs().max() < 1e-5


def test_bandwidth():
    """Prints each kernel's share of the bandwidth of a device copy (-s); asserts nothing of it."""
    rows, width = 65_536, 768
    x = [torch.randn(rows, width, device="cuda", dtype=torch.bfloat16) for _ in range(6)]
    index = torch.arange(rows, device="cuda")
    ones, zeros = torch.ones_like(x[0][0]), torch.zeros_like(x[0][0])
    state = torch.zeros(rows, device="cuda")
    offsets = torch.tensor([0, rows], device="cuda")
    calls = {
        "copy": (2, lambda: x[1].copy_(x[0])),
        "add_layer_norm": (
            3, lambda: implementation_of("add_layer_norm", "cuda")(
                x[0], x[1], ones, zeros, 1e-12, None, x[2]),
        ),
        "write_kv": (
            4, lambda: implementation_of("write_kv", "cuda")(
                x[0], x[1], index, None, x[2], x[3]),
        ),
        "halting_step": (
            4, lambda: implementation_of("halting_step", "cuda")(
                x[0], x[1], x[2], ones, zeros, 1e-12, zeros[None], zeros[:1], 0.99, 1, False,
                state, index, offsets, x[3], state.clone(), index.clone(), offsets.clone(),
                torch.zeros(rows + 8, dtype=torch.int64, device="cuda"), x[4], state.clone(),
                state.clone()),
        ),
    }  # fmt: skip
    rates = {}
    for name, (moved, call) in calls.items():
        times = []
        for _ in range(30):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop))
        rates[name] = moved * rows * width * 2 / sorted(times)[len(times) // 2] / 1e9
        print(f"{name}: {rates[name]:.2f} TB/s, {rates[name] / rates['copy']:.2f} of a copy")
    assert all(rate > 0 for rate in rates.values())
