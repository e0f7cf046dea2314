"""From ids to rows in one native call: the model's own results, and the same bits whatever stands
beside a sequence."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import signal

import pytest
import torch
from support.models import mask_of, random_lengths, random_model
from torch.nn.utils.rnn import pad_sequence

from albert_act_fast import native
from albert_act_fast.engine import call_of, cpu, native_encoder, native_engine
from albert_act_fast.engine.layer import embedding_weights
from albert_act_fast.engine.native_encoder import NativeEncoder
from albert_act_fast.text.native import make_native

pytestmark = pytest.mark.skipif(native.why_no_cpp is not None, reason=str(native.why_no_cpp))
POOLINGS = ("none", "mean", "cls", "pooler")
KINDS = {
    "float32": (torch.float32, False),
    "bfloat16": (torch.bfloat16, False),
    "int8": (torch.float32, True),
    "int8 of bfloat16": (torch.bfloat16, True),
}
every_kind = pytest.mark.parametrize(("dtype", "int8"), KINDS.values(), ids=list(KINDS))


def encoder_of(
    model, *, int8: bool = False, max_tokens: int | None = None, batch_invariant: bool = False
) -> NativeEncoder:
    call = call_of(model, "cpp", int8=int8)
    assert cpu.why_not_encode(call) is None
    pooler = (model.pooler.weight.detach(), model.pooler.bias.detach())
    max_tokens = max_tokens or model.config.max_position_embeddings
    return cpu.make_encoder(call, pooler, max_tokens, batch_invariant=batch_invariant)


def ids_of(model, lengths: list[int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(model.config.vocab_size, (n,), generator=generator) for n in lengths]


def run(encoder: NativeEncoder, sequences: list[torch.Tensor], pooling: str = "none", **rule):
    offsets = torch.tensor([0, *(len(s) for s in sequences)]).cumsum(0)
    ids = torch.cat(sequences) if sequences else torch.empty(0, dtype=torch.int64)
    return encoder.run(
        ids, offsets, pooling=pooling, **({"threshold": 0.99, "max_iterations": 12} | rule)
    )


@torch.no_grad()
def directly(model, sequences: list[torch.Tensor], implementation: str) -> dict:
    """As `run` with every pooling: the model's own, from a padded batch."""
    lengths = [len(s) for s in sequences]
    ids = pad_sequence(sequences, batch_first=True)
    out = model(ids, attention_mask=mask_of(lengths), implementation=implementation)
    own = [row[:n] for row, n in zip(out.last_hidden_state, lengths, strict=True)]
    return {
        "none": torch.cat(own),
        "mean": torch.stack([rows.float().mean(0) for rows in own]),
        "cls": out.last_hidden_state[:, 0].float(),
        "pooler": out.pooler_output.float(),
        "n_updates": torch.cat([r[:n] for r, n in zip(out.n_updates, lengths, strict=True)]),
        "remainders": torch.cat([r[:n] for r, n in zip(out.remainders, lengths, strict=True)]),
    }


@pytest.mark.parametrize("size", ["even", "odd"])
@pytest.mark.parametrize("position", ["absolute", "relative_key_query"])
def test_rows_are_the_model_s_own(size, position):
    model = random_model(1, size, position_embedding_type=position)
    sequences = ids_of(model, [1, *random_lengths(1, 9, 40), 1])
    expected, encoder = directly(model, sequences, "reference"), encoder_of(model)
    for pooling in POOLINGS:
        found = run(encoder, sequences, pooling)
        scale = expected[pooling].abs().max()
        torch.testing.assert_close(found.rows, expected[pooling], rtol=0, atol=1e-5 * scale)
        assert torch.equal(found.n_updates, expected["n_updates"])
        torch.testing.assert_close(found.remainders, expected["remainders"], rtol=0, atol=1e-5)
        assert sum(found.running_rows) == found.n_updates.sum()


@pytest.mark.parametrize("size", ["even", "odd"])
def test_bfloat16_is_as_near_as_plain_pytorch(size):
    model = random_model(2, size)
    sequences = ids_of(model, [1, *random_lengths(2, 9, 40)])
    truth = directly(model, sequences, "reference")
    model = model.bfloat16()
    plain, encoder = directly(model, sequences, "torch"), encoder_of(model)
    same = plain["n_updates"] == truth["n_updates"]
    for pooling in POOLINGS:
        found = run(encoder, sequences, pooling)
        assert found.rows.dtype == (torch.bfloat16 if pooling == "none" else torch.float32)
        all_same = same & (found.n_updates == truth["n_updates"])
        assert all_same.float().mean() > 0.9
        if pooling == "none":
            kept = all_same
        else:
            kept = torch.stack([s.all() for s in all_same.split([len(s) for s in sequences])])
        assert kept.any()
        error, yardstick = (
            (rows.float() - truth[pooling])[kept].abs().max()
            for rows in (found.rows, plain[pooling])
        )
        assert error <= 2 * yardstick, (pooling, error, yardstick)


@every_kind
def test_the_bits_are_those_of_the_model(dtype, int8):
    """Of all but pooling, which there is another library's."""
    model = random_model(3, dtype=dtype).quantize("int8" if int8 else None)
    sequences = ids_of(model, [1, *random_lengths(3, 9, 40)])
    expected, encoder = directly(model, sequences, "cpp"), encoder_of(model, int8=int8)
    for pooling in POOLINGS:
        found = run(encoder, sequences, pooling)
        assert torch.equal(found.n_updates, expected["n_updates"])
        assert torch.equal(found.remainders, expected["remainders"])
        if pooling in ("none", "cls"):
            assert torch.equal(found.rows, expected[pooling])
            continue
        scale = expected[pooling].float().abs().max()
        error = (found.rows.float() - expected[pooling].float()).abs().max() / scale
        assert error <= (1e-2 if dtype == torch.bfloat16 and pooling == "pooler" else 1e-6)


@every_kind
def test_the_same_bits_whatever_stands_beside_a_sequence(dtype, int8):
    """Alone, in batches of any size and order, and with any number of threads; more rows than
    small products take, sequences that share a panel of keys, and one of many blocks."""
    draw = random.Random(f"{dtype} {int8}")
    model = random_model(4, dtype=dtype, max_position_embeddings=400)
    encoder = encoder_of(model, int8=int8, batch_invariant=True)
    assert encoder.engine.is_batch_invariant
    lengths = [1, 1, 2, 16, 17, 31, 32, 33, 64, 130, 300] + [draw.randint(1, 60) for _ in range(9)]
    sequences = ids_of(model, lengths)
    pooled = {p: [run(encoder, [s], p).rows[0] for s in sequences] for p in POOLINGS[1:]}
    alone = [run(encoder, [s]) for s in sequences]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            order = draw.sample(range(len(lengths)), len(lengths))
            while order:
                count = draw.choice([2, 5, len(lengths)])
                batch, order = order[:count], order[count:]
                together = run(encoder, [sequences[i] for i in batch])
                states, n_updates, remainders = (
                    x.split([lengths[i] for i in batch]) for x in together[:3]
                )
                for place, i in enumerate(batch):
                    assert torch.equal(states[place], alone[i].rows), (threads, lengths[i])
                    assert torch.equal(n_updates[place], alone[i].n_updates)
                    assert torch.equal(remainders[place], alone[i].remainders)
                pooling = draw.choice(POOLINGS[1:])
                rows = run(encoder, [sequences[i] for i in batch], pooling).rows
                assert all(torch.equal(rows[p], pooled[pooling][i]) for p, i in enumerate(batch))
    finally:
        torch.set_num_threads(before)


def test_a_tie_with_the_threshold_asks_its_own_sequence_alone():
    """Where the accumulated probability equals the threshold a token asks for no further iteration
    but takes one if another asks: of the batch, in the model's loop, which is why the sequence ends
    elsewhere there."""
    model = random_model(5)
    encoder, others = encoder_of(model, batch_invariant=True), ids_of(model, [9, 3])
    # Each token alone. Up to 0.5 a remainder is exact: 1 minus it is what was accumulated before.
    each = run(encoder, list(torch.arange(61).split(1)))
    fits = (each.n_updates > 1) & (each.remainders > 0) & (each.remainders <= 0.5)
    token = int(fits.nonzero()[0])
    tied, n = torch.tensor([token]), each.n_updates[token].item()
    threshold = 1 - each.remainders[token].item()
    alone = run(encoder, [tied], threshold=threshold)
    assert alone.n_updates.tolist() == [n - 1]
    assert alone.remainders.tolist() == [0]
    rest = run(encoder, others, threshold=threshold)
    assert rest.n_updates.max() > n
    together = run(encoder, [others[0], tied, others[1]], threshold=threshold)
    for found, own in zip(together[:3], alone[:3], strict=True):
        assert torch.equal(found[9:10], own)
    for found, own in zip(together[:3], rest[:3], strict=True):
        assert torch.equal(torch.cat([found[:9], found[10:]]), own)


def test_ids_may_be_int32():
    model = random_model(6)
    encoder, sequences = encoder_of(model), ids_of(model, [3, 7])
    expected = run(encoder, sequences)
    assert torch.equal(run(encoder, [s.int() for s in sequences]).rows, expected.rows)


def test_memory_right_behind_int32_ids_is_another_s():
    """What is written may begin where the ids end, and not before."""
    encoder = encoder_of(random_model(6))
    for overlap in (0, 1):
        memory = torch.zeros(8, dtype=torch.int32)
        ids, state = memory[:4], memory[4 - overlap :].view(torch.float32)[:4]
        ids.copy_(torch.arange(4))
        arguments = (encoder._handle, ids, torch.tensor([0, 4]), 0.99, 12, "mean", False)
        outputs = (torch.empty(1, 48), state, torch.empty(4))
        if overlap:
            with pytest.raises(ValueError, match="n_updates: shares memory with ids"):
                torch.ops.albert_act_fast.encoder_run.default(*arguments, *outputs)
        else:
            torch.ops.albert_act_fast.encoder_run.default(*arguments, *outputs)
            expected = run(encoder, [torch.arange(4)], "mean")
            assert torch.equal(outputs[0], expected.rows)
            assert torch.equal(state, expected.n_updates)


@every_kind
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_told(dtype, int8, pooling, poison):
    model = random_model(8).to(dtype)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[7] = poison
    encoder = encoder_of(model, int8=int8)
    sequences = [torch.tensor([5, 3, 8]), torch.tensor([4, 2]), torch.tensor([1, 6])]
    good = run(encoder, sequences, pooling)
    assert good.finite
    assert good.rows.isfinite().all()
    for poisoned in range(3):
        other = [s.clone() for s in sequences]
        other[poisoned][-1] = 7
        found = run(encoder, other, pooling)
        assert not found.finite
        assert not found.rows.isfinite().all()


def test_the_product_behind_the_iterations_is_one_too():
    model = random_model(8)
    encoder, sequences = encoder_of(model), ids_of(model, [9, 5])
    run(encoder, sequences, "pooler")
    parts, inside = encoder.seconds, encoder.engine.seconds
    assert parts["products"] > inside["products"] > 0
    assert (parts["attention"], parts["other"]) == (inside["attention"], inside["other"])


def test_no_sequence():
    encoder = encoder_of(random_model(6))
    assert run(encoder, [], "mean").rows.shape == (0, 48)
    assert run(encoder, []).running_rows == []


BAD = {
    "beyond": (lambda i, o: (i.index_fill(0, torch.tensor(4), 61), o),
               r"ids\[4\]: got 61 \(token 1 of sequence 1\), expected 0 to 60 \(vocabulary: 61\)"),
    "negative": (lambda i, o: (i.index_fill(0, torch.tensor(0), -1), o),
                 r"ids\[0\]: got -1 \(token 0 of sequence 0\)"),
    "empty": (lambda i, o: (i, torch.tensor([0, 3, 3, 9])),
              "offsets: got 0 tokens in sequence 1, expected 1 to 64"),
    "long": (lambda i, o: (i.repeat(10), torch.tensor([0, 3, 70, 90])),
             "offsets: got 67 tokens in sequence 1, expected 1 to 64"),
    "first": (lambda i, o: (i, o + 1), r"offsets\[0\]: got 1, expected 0"),
    "falling": (lambda i, o: (i, torch.tensor([0, 7, 3, 9])), r"offsets\[2\]: got 3, expected at"),
    "last": (lambda i, o: (i[1:], o), r"offsets\[3\]: got 9, expected 8, the rows of ids"),
    "no offsets": (lambda i, o: (i, o[None]), r"offsets: got shape \(1, 4\), expected \(sequences"),
    "shape": (lambda i, o: (i[None], o), r"ids: got shape \(1, 9\), expected \(tokens,\)"),
    "dtype": (lambda i, o: (i.float(), o), "ids: got float32, expected int64 or int32"),
    "offsets' dtype": (lambda i, o: (i, o.int()), "offsets: got int32, expected int64"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=list(BAD))
def test_bad_arguments_are_refused(change, message):
    encoder = encoder_of(random_model(6))
    ids, offsets = change(torch.arange(9), torch.tensor([0, 3, 5, 9]))
    with pytest.raises(ValueError, match=message):
        encoder.run(ids, offsets, threshold=0.99, max_iterations=12)


def test_bad_rules_and_poolings_are_refused():
    model = random_model(6, add_pooling_layer=False)
    encoder = make_native(model, model._choose("cpp", model._inspect(), model.device)).encoder
    ids = ids_of(model, [2])
    for arguments, message in (
        ({"pooling": "max"}, "pooling: got max, expected none, mean, cls or pooler"),
        ({"pooling": "pooler"}, "pooling: got pooler, expected none, mean or cls: the encoder was"),
        ({"max_iterations": 0}, "max_iterations: got 0"),
        ({"threshold": float("nan")}, "threshold: got NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            run(encoder, ids, **arguments)


def test_tables_that_do_not_fit_are_refused():
    model = random_model(6)
    with pytest.raises(ValueError, match=r"position: got shape \(64, 16\), .* at least 65 rows"):
        encoder_of(model, max_tokens=65)
    relative = random_model(6, position_embedding_type="relative_key")
    with pytest.raises(ValueError, match="max_tokens: got 65, expected at most 64"):
        encoder_of(relative, max_tokens=65)
    call = call_of(model, "cpp")
    with pytest.raises(ValueError, match=r"pooler weight: got shape \(16, 48\), expected \(48, 48"):
        cpu.make_encoder(call, (model.pooler.weight[:16].detach(), model.pooler.bias.detach()), 9)
    weights = embedding_weights(model.embeddings)
    no_mapping = cpu.make_engine(call.layer_weights, False, None)
    with pytest.raises(ValueError, match="engine: has no mapping, expected one that was made with"):
        NativeEncoder(no_mapping, weights, None, 9)
    wider = cpu.make_engine(call.layer_weights, False, (torch.zeros(48, 17), torch.zeros(48)))
    with pytest.raises(ValueError, match=r"word: got shape \(.*, 16\), expected \(.*, 17\)"):
        NativeEncoder(wider, weights, None, 9)


def test_freed_with_its_last_reference_and_with_it_the_engine():
    gc.collect()
    before = native_encoder.count(), native_engine.count()
    encoder = encoder_of(random_model(6))
    engine = encoder.engine._handle
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            copied(encoder)
    handle = encoder._handle
    del encoder
    gc.collect()
    assert (native_encoder.count(), native_engine.count()) == before
    with pytest.raises(ValueError, match=f"encoder: got {handle}, expected the handle of an encod"):
        torch.ops.albert_act_fast.encoder_release.default(handle)
    with pytest.raises(ValueError, match=f"engine: got {engine}, expected the handle of an engine"):
        torch.ops.albert_act_fast.engine_release.default(engine)


def test_a_run_can_be_interrupted_and_the_next_is_right():
    """One that would not end in a lifetime, at the third signal of this process's own time."""
    model = random_model(6, halting_bias=-200.0, halting_spread=0.0)
    encoder, ids = encoder_of(model), ids_of(model, [3, 7])
    expected, signals = run(encoder, ids, "mean"), []

    def interrupt(*_):
        signals.append(1)
        if len(signals) == 3:
            raise KeyError("a handler's own")

    before = signal.signal(signal.SIGPROF, interrupt)
    try:
        signal.setitimer(signal.ITIMER_PROF, 0.1, 0.1)
        with pytest.raises(KeyError, match="a handler's own"):
            run(encoder, ids, "mean", max_iterations=2**62)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert torch.equal(run(encoder, ids, "mean").rows, expected.rows)


def test_memory_of_a_large_call_is_given_back():
    model = random_model(6, hidden_size=512, intermediate_size=64, num_attention_heads=1)
    encoder = encoder_of(model)
    run(encoder, ids_of(model, [40] * 2), "mean", max_iterations=1)
    assert 0 < encoder.workspace_bytes < 2**20
    run(encoder, ids_of(model, [64] * 320), "mean", max_iterations=1)
    assert encoder.workspace_bytes <= 64 << 20
