"""The native engine refuses what would make it read or write outside what it was given, or run for
ever, whoever calls it; and it can be interrupted."""

from __future__ import annotations

import dataclasses
import re
import signal

import pytest
import torch
from support.models import random_config, random_model

from albert_act_fast import native
from albert_act_fast.engine.layer import layer_weights
from albert_act_fast.engine.native_engine import NativeEngine

pytestmark = pytest.mark.skipif(native.why_no_cpp is not None, reason=str(native.why_no_cpp))
LENGTHS = [3, 0, 5, 1]
TOKENS = sum(LENGTHS)


def layer(position: str = "relative_key", dtype: torch.dtype = torch.float32, **config):
    model = random_model(1, position_embedding_type=position, dtype=dtype, **config)
    return layer_weights(model.encoder.albert_layer)


def engine(weights=None, *, int8: bool = False, onednn: bool = False):
    weights = layer() if weights is None else weights
    return NativeEngine(weights, int8=int8, onednn=onednn)


def arguments(dtype: torch.dtype = torch.float32, width: int = 48) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden": torch.randn(TOKENS, width, generator=generator).to(dtype),
        "offsets": torch.tensor([0, *LENGTHS]).cumsum(0),
        "positions": torch.cat([torch.arange(length) for length in LENGTHS]),
        **random_config(num_hidden_layers=6).halting_limits._asdict(),
        "out": torch.full((TOKENS, width), float("nan"), dtype=dtype),
        "n_updates": torch.full((TOKENS,), float("nan")),
        "remainders": torch.full((TOKENS,), float("nan")),
    }


def changed(name: str, place: int, value: int):
    def change(a):
        a[name][place] = value

    return change


def with_value(name: str, value):
    def change(a):
        a[name] = value(a[name]) if callable(value) else value

    return change


def share(name: str, other: str):
    def change(a):
        a[name] = a[other].view(-1)[: a[name].numel()].view(a[name].shape)

    return change


def without_memory(a):
    a["hidden"].untyped_storage().resize_(0)


MAX, MIN = 2**63 - 1, -(2**63)
BAD_RUNS = {
    "no iteration": (with_value("max_iterations", 0), "max_iterations: got 0, expected at least 1"),
    "fewer": (with_value("max_iterations", MIN), "max_iterations: got -9223372036854775808"),
    "threshold": (with_value("threshold", float("nan")), "threshold: got NaN, expected a number"),
    "first offset": (changed("offsets", 0, 1), r"offsets\[0\]: got 1, expected 0"),
    "negative offset": (changed("offsets", 0, -1), r"offsets\[0\]: got -1, expected 0"),
    "falling": (changed("offsets", 1, 9), r"offsets\[2\]: got 3, expected at least 9"),
    "far": (changed("offsets", 2, MAX), r"offsets\[3\]: got 8, expected at least 9223372036854"),
    "short": (changed("offsets", -1, 8), r"offsets\[4\]: got 8, expected 9, the rows of hidden"),
    "long": (changed("offsets", -1, 10), r"offsets\[4\]: got 10, expected 9, the rows of hidden"),
    "no offsets": (with_value("offsets", lambda x: x[:0]), r"offsets: got shape \(0,\)"),
    "offsets' shape": (with_value("offsets", lambda x: x[None]), r"offsets: got shape \(1, 5\)"),
    "far position": (changed("positions", 0, 66), r"positions: got 1 to 66 in sequence 0, expected "
                     r"at most 63 apart, which is what the 127 rows of distance_embedding reach"),
    "low position": (changed("positions", 3, -60), r"positions: got -60 to 4 in sequence 2"),
    "overflow": (changed("positions", 4, MIN), r"positions: got -9223372036854775808 to 4"),
    "positions' shape": (with_value("positions", lambda x: x[1:]), r"positions: got shape \(8,\)"),
    "int32": (with_value("positions", lambda x: x.int()), "positions: got int32, expected int64"),
    "no ids": (with_value("positions", lambda x: x.float()), "positions: got float32, expected"),
    "vector": (with_value("hidden", lambda x: x[0]), r"hidden: got shape \(48,\), expected"),
    "narrow": (with_value("hidden", lambda x: x[:, 1:].contiguous()),
               r"hidden: got shape \(9, 47\), expected \(9, 48\)"),
    "other dtype": (with_value("hidden", lambda x: x.bfloat16()),
                    "hidden: got bfloat16, expected float32"),
    "strided": (with_value("hidden", lambda x: x.T.contiguous().T), "hidden: expected a contig"),
    "sparse": (with_value("hidden", lambda x: x.to_sparse()), "hidden: expected a contig"),
    "meta": (with_value("out", lambda x: x.to("meta")), "out: is not on the CPU, expected"),
    "no memory": (without_memory, "hidden: has no memory, expected a tensor with data"),
    "out's shape": (with_value("out", lambda x: x[1:]), r"out: got shape \(8, 48\)"),
    "n_updates": (with_value("n_updates", lambda x: x[1:]), r"n_updates: got shape \(8,\)"),
    "float64": (with_value("remainders", lambda x: x.double()), "remainders: got float64"),
    "out is hidden": (share("out", "hidden"), "out: shares memory with hidden"),
    "n_updates in out": (share("n_updates", "out"), "out: shares memory with n_updates"),
    "remainders in hidden": (share("remainders", "hidden"), "remainders: shares memory with h"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_RUNS.values(), ids=list(BAD_RUNS))
def test_bad_arguments_are_refused(change, message):
    """And change nothing: neither the outputs nor the next run."""
    packed, good = engine(), arguments()
    packed.run(**good)
    bad = arguments()
    change(bad)
    with pytest.raises(ValueError, match=message):
        packed.run(**bad)
    for name in ("out", "n_updates", "remainders"):
        if bad[name].is_cpu and "shares" not in message:
            assert bad[name].isnan().all()
    again = arguments()
    packed.run(**again)
    assert torch.equal(again["out"], good["out"])


def test_what_is_no_tensor_is_named():
    message = (
        "Expected a value of type 'Tensor' for argument 'hidden' but instead found type 'list'"
    )
    with pytest.raises(RuntimeError, match=message):
        engine().run(**(arguments() | {"hidden": [[1.0]]}))


def test_a_negated_view_is_read_as_what_it_says():
    packed, expected, result = engine(), arguments(), arguments()
    expected["hidden"].neg_()
    packed.run(**expected)
    packed.run(**(result | {"hidden": torch._neg_view(result["hidden"])}))
    assert torch.equal(result["out"], expected["out"])


def test_positions_may_be_anything_without_a_distance_table():
    packed, a = engine(layer("absolute")), arguments()
    a["positions"][:] = MAX
    packed.run(**a)
    assert a["out"].isfinite().all()


def test_no_token_and_no_sequence():
    a = arguments()
    for name in ("hidden", "positions", "out", "n_updates", "remainders"):
        a[name] = a[name][:0]
    for offsets in ([0], [0, 0, 0]):
        assert engine().run(**(a | {"offsets": torch.tensor(offsets)})) == []


def pair(name: str, part: int, value):
    def change(weights):
        both = list(getattr(weights, name))
        both[part] = value(both[part])
        return {name: tuple(both)}

    return change


PAIRS = "key value dense ffn ffn_output attention_norm output_norm halting".split()
BAD_LAYERS = {
    **{
        f"{name} {part}": (
            pair(name, i, lambda x: x[..., 1:] if x.numel() > 1 else x.new_zeros(2)),
            rf"layer.{name} {part}: got shape .*, expected \(",
        )
        for name in PAIRS
        for i, part in enumerate(("weight", "bias"))
    },
    "query": (pair("query", 0, lambda x: x[:-1]), r"layer.query weight: got shape \(47, 48\)"),
    "a vector": (pair("query", 0, lambda x: x[0]), "layer.query weight: got .*, expected a m"),
    "dtype": (pair("ffn", 0, lambda x: x.bfloat16()), "layer.ffn weight: got bfloat16, expect"),
    "meta": (pair("ffn", 0, lambda x: x.to("meta")), "layer.ffn weight: is not on the CPU"),
    "no bias": (pair("ffn", 1, lambda x: None), "layer.ffn bias: got .*, expected a tensor"),
    "no pair": (lambda _: {"ffn": None}, r"layer.ffn: expected \(weight, bias\)"),
    "heads": (lambda _: {"heads": 7}, "layer.heads: got 7, expected a number that divides the 48"),
    "no heads": (lambda _: {"heads": 0}, "layer.heads: got 0"),
    "words": (lambda _: {"heads": "4"}, "argument 'heads' but instead found type 'str'"),
    "activation": (lambda _: {"activation": "tanh"}, "layer.activation: got tanh, expected gelu"),
    "eps": (lambda _: {"output_eps": None}, "type 'float' for argument 'output_eps' but inst"),
    "no table": (lambda w: {"distance_embedding": w.distance_embedding[:0]},
                 r"layer.distance_embedding: got shape \(0, 12\)"),
    "narrow table": (lambda w: {"distance_embedding": w.distance_embedding[:, 1:]},
                     r"layer.distance_embedding: got shape \(127, 11\), expected \(127, 12\)"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_LAYERS.values(), ids=list(BAD_LAYERS))
def test_bad_layers_are_refused(change, message):
    weights = layer()
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        engine(dataclasses.replace(weights, **change(weights)))


def mapping(columns: int = 20, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(48, columns, generator=generator) / columns**0.5
    return weight.to(dtype), torch.randn(48, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("columns", [1, 20, 33])
@pytest.mark.parametrize("int8", [False, True])
def test_a_mapping_comes_before_the_iterations(int8, columns, dtype):
    weight, bias = mapping(columns, dtype)
    expected, result = arguments(dtype), arguments(dtype)
    given = torch.randn(TOKENS, columns, generator=torch.Generator().manual_seed(6)).to(dtype)
    expected["hidden"] = (given.double() @ weight.double().T + bias.double()).to(dtype)
    one, several = (a | {"max_iterations": 1} for a in (expected, result | {"hidden": given}))
    layers = layer(dtype=dtype)
    engine(layers, int8=int8).run(**one)
    NativeEngine(layers, mapping=(weight, bias), int8=int8, onednn=False).run(**several)
    # The products' last bits may round another way, and with int8 the rows after them.
    limit = 2e-2 if dtype == torch.bfloat16 or int8 else 1e-5
    assert (several["out"] - one["out"]).abs().max() <= limit * one["out"].abs().max()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (mapping()[:1], TypeError, r"mapping: expected \(weight, bias\)"),
        ((mapping()[0], None), TypeError, "mapping bias: got .*, expected a tensor"),
        ((mapping()[0][1:], mapping()[1]), ValueError, r"mapping weight: got shape \(47, 20\), ex"),
        ((mapping()[0][0], mapping()[1]), ValueError, r"mapping weight: got shape \(20,\), expec"),
        ((mapping()[0][:, :0], mapping()[1]), ValueError, r"mapping weight: got shape \(48, 0\)"),
        ((mapping()[0], mapping()[1][1:]), ValueError, r"mapping bias: got shape \(47,\), expect"),
        (mapping(dtype=torch.bfloat16), ValueError, "mapping weight: got bfloat16, expected floa"),
    ],
)
def test_bad_mappings_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        NativeEngine(layer(), mapping=given, int8=False, onednn=False)


def test_rows_that_do_not_fit_the_mapping_are_refused():
    made = NativeEngine(layer(), mapping=mapping(), int8=False, onednn=False)
    with pytest.raises(ValueError, match=r"hidden: got shape \(9, 48\), expected \(9, 20\)"):
        made.run(**arguments())


def test_a_missing_field_is_named():
    with pytest.raises(TypeError, match="layer: has no query, expected the fields of LayerWeights"):
        engine(object())


def test_weights_may_have_any_strides():
    weights = layer()
    transposed = {
        name: (value[0].T.contiguous().T, value[1])
        for name, value in vars(weights).items()
        if isinstance(value, tuple) and value[0].dim() == 2
    }
    assert not transposed["ffn"][0].is_contiguous()
    expected, result = arguments(), arguments()
    engine(weights).run(**expected)
    engine(dataclasses.replace(weights, **transposed)).run(**result)
    assert torch.equal(result["out"], expected["out"])


@pytest.mark.parametrize("int8", [False, True])
def test_odd_bfloat16_products_need_no_onednn(int8):
    """Rows are read two numbers at a time; what fills them up is not of the row that follows."""
    odd = layer("absolute", torch.bfloat16, intermediate_size=95)
    clean, poisoned = arguments(dtype=torch.bfloat16), arguments(dtype=torch.bfloat16)
    start, stop = sum(LENGTHS[:2]), sum(LENGTHS[:3])
    poisoned["hidden"][start:stop] = float("nan")
    for given in (clean, poisoned):
        engine(odd, int8=int8).run(**given)
    assert clean["out"].isfinite().all()
    for rows in (slice(0, start), slice(stop, None)):
        assert torch.equal(poisoned["out"][rows], clean["out"][rows])


def test_int8_products_whose_sums_do_not_fit_are_refused():
    most = native.library.MAX_INT8_INPUTS
    assert 255 * 127 * most < 2**31 <= 255 * 127 * (most + 1)
    for inner in (most, most + 1):
        weights = layer("absolute", hidden_size=4, intermediate_size=inner)
        engine(weights)
        if inner == most:
            engine(weights, int8=True)
        else:
            with pytest.raises(ValueError, match=f"has {inner} inputs, expected at most {most}"):
                engine(weights, int8=True)


def test_int8_sums_of_the_most_inputs_are_exact():
    """All products of the largest factors: the sum comes within one of the largest int32."""
    most = native.library.MAX_INT8_INPUTS
    weights = layer("absolute", hidden_size=4, intermediate_size=most, hidden_act="relu")
    ones = {
        "ffn": (torch.zeros(most, 4), torch.ones(most)),
        "ffn_output": (torch.eye(4)[:, :1] * torch.ones(4, most), torch.zeros(4)),
        "attention_norm": (torch.zeros(4), torch.zeros(4)),
    }
    a, expected = arguments(width=4), arguments(width=4)
    engine(dataclasses.replace(weights, **ones), int8=True).run(**a)
    engine(dataclasses.replace(weights, **ones)).run(**expected)
    torch.testing.assert_close(a["out"], expected["out"], rtol=0, atol=1e-2)


class Interrupted(Exception):
    pass


def never_halting():
    """p is 0 for every token, so that a run ends after max_iterations and not before."""
    weights = layer()
    zero = (torch.zeros_like(weights.halting[0]), torch.full((1,), -200.0))
    return dataclasses.replace(weights, halting=zero)


def interrupted_run(packed) -> None:
    """Interrupts a run that would not end in a lifetime, at the third signal. The timer counts this
    process's own time on a processor, nearly all of which passes in the run, however busy the
    machine is."""
    signals = []

    def interrupt(*_):
        signals.append(1)
        if len(signals) == 3:
            raise Interrupted

    before = signal.signal(signal.SIGPROF, interrupt)
    try:
        signal.setitimer(signal.ITIMER_PROF, 0.1, 0.1)
        with pytest.raises(Interrupted):
            packed.run(**(arguments() | {"max_iterations": 2**62}))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def test_a_run_can_be_interrupted_and_the_next_is_right():
    packed, expected, result = engine(never_halting()), arguments(), arguments()
    packed.run(**expected)
    memory = packed.workspace_bytes
    interrupted_run(packed)
    packed.run(**result)
    for name in ("out", "n_updates", "remainders"):
        assert torch.equal(result[name], expected[name])
    # The engine's own memory served: its lock was given back.
    assert packed.workspace_bytes == memory


def test_messages_name_no_path():
    with pytest.raises(ValueError, match="max_iterations") as error:
        engine().run(**(arguments() | {"max_iterations": 0}))
    assert not re.search(r"csrc|\.cpp|\.h\b", str(error.value))
