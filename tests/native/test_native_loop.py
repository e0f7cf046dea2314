"""What is special about the C++ implementation: packed weights, threads, instruction sets."""

from __future__ import annotations

import pytest
import torch
from support import forked
from support.instruction_sets import run_tests_under, run_under
from support.models import mask_of, random_batch, random_lengths, random_model

from albert_act_fast import native, ops
from albert_act_fast.engine import cpu, row_wise

pytestmark = pytest.mark.skipif(native.why_no_cpp is not None, reason=str(native.why_no_cpp))


@pytest.fixture
def model():
    return random_model(1, "base", hidden_size=96, intermediate_size=192, num_attention_heads=4)


def batch_of(model, seed: int = 2, sequences: int = 7, longest: int = 40) -> dict:
    return random_batch(seed, model.config, mask_of(random_lengths(seed, sequences, longest)))


MAPPING = "embedding_hidden_mapping_in"


@torch.no_grad()
def run(model, batch, implementation="cpp"):
    return model(**batch, implementation=implementation)


def assert_follows_the_reference(model, batch) -> None:
    result, reference = run(model, batch), run(model, batch, "reference")
    scale = reference.last_hidden_state.abs().max().item()
    torch.testing.assert_close(
        result.last_hidden_state, reference.last_hidden_state, rtol=0, atol=1e-5 * scale
    )


def times_packed(monkeypatch) -> list:
    calls = []
    make = cpu.make_engine
    monkeypatch.setattr(cpu, "make_engine", lambda *args: calls.append(1) or make(*args))
    return calls


def test_the_loop_below_python_is_what_runs(model, monkeypatch):
    calls = []
    below = cpu.iterate
    monkeypatch.setattr(cpu, "iterate", lambda *args: calls.append(1) or below(*args))
    run(model, batch_of(model))
    assert calls == [1]


def test_weights_are_packed_once(model, monkeypatch):
    calls = times_packed(monkeypatch)
    for seed in range(3):
        run(model, batch_of(model, seed))
    assert calls == [1]


def _in_place(linear):
    with torch.no_grad():
        linear.weight.mul_(1.5)


def _through_data(linear):
    linear.weight.data.mul_(1.5)


def _one_value_through_data(linear):
    linear.weight.data[3, 5] += 3


def _new_parameter(linear):
    linear.weight = torch.nn.Parameter(linear.weight.detach() * 1.5)


def _bias(linear):
    with torch.no_grad():
        linear.bias.add_(0.3)


def _state_dict(linear):
    linear.load_state_dict({k: v * 1.5 for k, v in linear.state_dict().items()})


def _optimizer(linear):
    linear.weight.grad = torch.ones_like(linear.weight)
    torch.optim.SGD([linear.weight], lr=0.05).step()
    linear.weight.grad = None


@pytest.mark.parametrize(
    "change",
    [
        _in_place,
        _through_data,
        _one_value_through_data,
        _new_parameter,
        _bias,
        _state_dict,
        _optimizer,
    ],
)
@pytest.mark.parametrize("name", ["attention.key", "attention.value", "ffn", "ffn_output", MAPPING])
def test_changed_weights_are_packed_anew(model, name, change, monkeypatch):
    batch = batch_of(model)
    before = run(model, batch).last_hidden_state
    calls = times_packed(monkeypatch)
    owner = model.encoder if name == MAPPING else model.encoder.albert_layer
    change(owner.get_submodule(name))
    assert_follows_the_reference(model, batch)
    assert not torch.equal(run(model, batch).last_hidden_state, before)
    assert calls == [1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 3e4])
def test_half_precision_is_float32_arithmetic_rounded_once(dtype, scale):
    """Bit for bit; with results among float16's subnormals, and beyond its largest number."""
    generator = torch.Generator().manual_seed(int(scale))
    x, residual = (torch.randn(37, 65, generator=generator).to(dtype) for _ in range(2))
    weight, bias = (scale * torch.randn(65, generator=generator)).to(dtype), torch.zeros(65)
    arguments = (x, residual, weight, bias.to(dtype))
    add_layer_norm = ops.implementation_of("add_layer_norm", "cpp")
    out, wide = torch.empty_like(x), torch.empty(x.shape)
    add_layer_norm(*arguments, 1e-12, None, out)
    add_layer_norm(*(tensor.float() for tensor in arguments), 1e-12, None, wide)
    assert torch.equal(out, wide.to(dtype))
    x[3] = float("nan")
    add_layer_norm(*arguments, 1e-12, None, out)
    assert out[3].isnan().all()
    assert not out[2].isnan().any()


def _hook(layer):
    layer.ffn.register_forward_hook(lambda _, __, output: 2 * output)


def _own_forward(layer):
    own = layer.ffn.forward
    layer.ffn.forward = lambda x: 2 * own(x)


class Doubled(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def _replaced(layer):
    doubled = Doubled(layer.ffn.in_features, layer.ffn.out_features)
    doubled.load_state_dict(layer.ffn.state_dict())
    layer.ffn = doubled


@pytest.mark.parametrize("change", [_hook, _own_forward, _replaced])
def test_what_may_see_the_batch_is_computed_by_the_reference(model, change):
    batch = batch_of(model)
    before = run(model, batch).last_hidden_state
    change(model.encoder.albert_layer)
    expected = run(model, batch, "reference").last_hidden_state
    assert torch.equal(run(model, batch, "auto").last_hidden_state, expected)
    assert not torch.allclose(expected, before)
    with pytest.raises(ValueError, match=r"got 'cpp', which cannot be met: .*\.ffn (has|is) a?"):
        run(model, batch)


def test_a_module_declared_row_by_row_is_called(model, monkeypatch):
    batch = batch_of(model)
    _replaced(model.encoder.albert_layer)
    monkeypatch.setattr(row_wise, "_KNOWN", dict(row_wise._KNOWN))
    row_wise.declare(Doubled)
    assert_follows_the_reference(model, batch)
    assert "ffn is a Doubled, which must be called" in model.explain_implementation()


def test_an_activation_that_is_not_fused(model):
    model.encoder.albert_layer.activation = torch.nn.Tanh()
    assert_follows_the_reference(model, batch_of(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_threads_gives_the_same_bits(model, dtype):
    """Rows enough for many blocks of the halting step, so that its scan is shared."""
    model = model.to(dtype)
    batch = batch_of(model, 3, sequences=24, longest=60)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results += [run(model, batch) for _ in range(3)]
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert torch.equal(result.last_hidden_state, results[0].last_hidden_state)
        assert torch.equal(result.n_updates, results[0].n_updates)
        assert torch.equal(result.remainders, results[0].remainders)


_UNDER = """
import sys
import torch
sys.path[:0] = ["tests", "benchmarks"]
from support.models import mask_of, random_batch, random_lengths, random_model
for positions in ("absolute", "relative_key_query"):
    for size in ("odd", "even", "one column a head", "tiles and more"):
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            # Depths and heads that are no whole number of a matrix unit's tiles, but more than one.
            more = {"hidden_size": 200, "intermediate_size": 308, "num_attention_heads": 4}
            more, size = (more, "even") if size == "tiles and more" else ({}, size)
            model = random_model(5, size, dtype=dtype, position_embedding_type=positions, **more)
            batch = random_batch(6, model.config, mask_of(random_lengths(6, 7, 40)))
            with torch.no_grad():
                result = model(**batch, implementation="cpp")
                reference = model(**batch, implementation="reference")
                truth = model.double()(**batch, implementation="reference")
            same = reference.n_updates == truth.n_updates
            same &= result.n_updates == truth.n_updates
            assert same.float().mean() > 0.9, same.float().mean()
            error, yardstick = (
                (x.last_hidden_state.double() - truth.last_hidden_state)[same.all(1)].abs().max()
                for x in (result, reference)
            )
            # In float64 the reference is itself the truth; sums in another order differ by less.
            limit = 1e-12 if dtype == torch.float64 else 2 * yardstick
            assert error <= limit, (positions, size, dtype, error, yardstick)
"""


_HUGE = """
import sys
import torch
sys.path[:0] = ["tests", "benchmarks"]
from support.huge_scores import check_huge_scores, with_huge_scores
from support.operator_parity import apply
from suite.operator_calls import MAKERS, RAGGED, Maker
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    for distances in ("absolute", "relative_key", "relative_key_query"):
        for lengths in (*RAGGED.values(), [600]):  # of more than one block of keys
            for equal in (False, True):
                make = Maker(7, dtype, wide=True)
                call = MAKERS["ragged_attention"](make, 65, lengths, 5, distances)
                with_huge_scores(call, equal)
                check_huge_scores(call, apply(call, "cpp"), equal)
"""


every_instruction_set = pytest.mark.parametrize(
    "name", ["portable", "avx2", "avx512", "avx512_vnni", "amx"]
)


_INT8 = """
import pytest
chosen = "that_of_rows_and_outputs or nearer_than_a_step or largest_numbers"
pytest.main(["-q", "-p", "no:cacheprovider", "tests/native/test_int8.py", "-k", chosen])
"""


@every_instruction_set
def test_every_instruction_set(name, pytestconfig):
    assert "11 passed" in run_under(name, _UNDER + _INT8, pytestconfig)


@every_instruction_set
def test_huge_scores_under_every_instruction_set(name, pytestconfig):
    run_under(name, _HUGE, pytestconfig)


@pytest.mark.slow
@every_instruction_set
def test_no_batch_changes_a_bit_under_every_instruction_set(name, pytestconfig):
    tests = ["tests/native/test_encoder.py", "-k", "whatever_stands_beside"]
    assert "4 passed" in run_tests_under(name, tests, pytestconfig)


_INT8_BITS = """
import hashlib, sys
import torch
sys.path[:0] = ["tests"]
from support.models import mask_of, random_batch, random_model
digest = hashlib.sha256()
# Heads and sequences too small for a tile: of bfloat16 attention the last bits differ.
for hidden, wide, heads in ((48, 64, 4), (128, 256, 8), (200, 308, 10), (268, 77, 67)):
    sizes = {"hidden_size": hidden, "intermediate_size": wide, "num_attention_heads": heads}
    for lengths in ([1], [5], [9], [16], [17, 3], [30, 29, 1, 8, 30]):
        model = random_model(1, "base", **sizes).quantize("int8")
        with torch.no_grad():
            result = model(**random_batch(2, model.config, mask_of(lengths)))
        digest.update(result.last_hidden_state.numpy().tobytes())
        digest.update(result.n_updates.numpy().tobytes())
print(digest.hexdigest())
"""


def test_a_matrix_unit_gives_int8_products_the_same_bits(pytestconfig):
    """Their sums are exact, whatever is left over of whole tiles, in rows and in depth."""
    found = [run_under(name, _INT8_BITS, pytestconfig) for name in ("amx", "avx512_vnni")]
    assert found[0] == found[1]


def test_an_instruction_set_that_does_not_exist_is_reported():
    code = "from albert_act_fast import native; print(native.instruction_set())"
    done = forked.run(code, ALBERT_ACT_FAST_INSTRUCTION_SET="avx3")
    assert done.returncode == 0
    assert "got avx3, expected portable, avx2, avx512, avx512_vnni or amx" in done.stderr
    assert done.stdout.strip() in ("portable", "avx2", "avx512", "avx512_vnni", "amx")
