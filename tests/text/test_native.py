"""Where a `TextEncoder` computes in one native call, and what it promises there."""

from __future__ import annotations

import gc
import pickle
import random

import numpy as np
import pytest
import torch
from support.models import random_model

from albert_act_fast import TextEncoder, native
from albert_act_fast.engine import cpu, native_encoder, native_engine
from albert_act_fast.text.compute import FrozenModel, PackedBatch, encode_packed, states_packed

pytestmark = pytest.mark.skipif(native.why_no_cpp is not None, reason=str(native.why_no_cpp))
WORDS = "so it was the best of times quiet monkeys stirred (and) 3.14 Ishmael sea".split()
SETTINGS = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"quantization": "int8"},
    "int8 of bfloat16": {"dtype": torch.bfloat16, "quantization": "int8"},
}
every_precision = pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))


def texts_of(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 25))) for _ in range(count)]


@every_precision
def test_a_text_has_the_same_bits_however_it_comes(model, tokenizer, settings):
    """Alone, among others, shuffled, in another window and with other numbers of threads."""
    encoder = TextEncoder(model, tokenizer, batch_invariant=True, **settings)
    assert encoder.batch_invariant
    texts, draw = ["so", *texts_of(7, 30)], random.Random(8)
    alone = np.stack([encoder.encode(text) for text in texts])
    depths = [encoder.depth(text) for text in texts]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            order = draw.sample(range(len(texts)), len(texts))
            shuffled = [texts[i] for i in order]
            found = encoder.encode(shuffled, batch_tokens=draw.choice([1, 90, 4000]))
            np.testing.assert_array_equal(found, alone[order])
            stream = encoder.stream(shuffled, window=draw.choice([1, 7]), batch_size=3)
            for one in stream:
                np.testing.assert_array_equal(one.embedding, alone[order[one.index]])
            for i, depth in zip(order, encoder.depth(shuffled), strict=True):
                assert depth.iterations == depths[i].iterations
                assert depth.remainders == depths[i].remainders
    finally:
        torch.set_num_threads(before)


@every_precision
@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_rows_are_those_of_the_model_s_own_forward_pass(
    model, tokenizer, settings, pooling, monkeypatch
):
    """Which the same encoder takes where the native call may not be made."""
    encoder, texts = TextEncoder(model, tokenizer, **settings), ["so", *texts_of(9, 20)]
    found = encoder.encode(texts, pooling=pooling, details=True)
    monkeypatch.setattr(FrozenModel, "native_for", lambda *_: None)
    expected = encoder.encode(texts, pooling=pooling, details=True)
    scale, same = np.abs(expected.embeddings).max(), found.rows == expected.rows
    if not settings:
        assert same.all()
        np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-5 * scale)
    assert same.mean() > 0.7
    difference = np.abs(found.embeddings - expected.embeddings)[same]
    assert np.median(difference) <= 1e-2 * scale
    np.testing.assert_array_equal(found.tokens, expected.tokens)


def test_nothing_is_looked_after_and_nothing_packed_again(model, tokenizer, monkeypatch):
    """No checksum, and one packed copy of the weights under whatever rule."""
    gc.collect()
    before = native_engine.count(), native_encoder.count()
    encoder = TextEncoder(model, tokenizer)
    expected = encoder.encode("so")

    def never(*_, **__):
        raise AssertionError("weights are read again")

    monkeypatch.setattr(cpu, "_fingerprint", never)
    monkeypatch.setattr(cpu, "make_engine", never)
    np.testing.assert_array_equal(encoder.encode("so"), expected)
    encoder.depth(["so", "it"])
    for max_iterations in (3, 4, 5):
        assert encoder.encode("so", max_iterations=max_iterations).shape == (48,)
    assert (native_engine.count(), native_encoder.count()) == (before[0] + 1, before[1] + 1)
    monkeypatch.undo()
    again = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(again.encode("so"), expected)
    del encoder, again
    gc.collect()
    assert (native_engine.count(), native_encoder.count()) == before


def _hook_on_the_model(model):
    model.register_forward_hook(lambda _, __, out: out)


def _hook_on_the_mapping(model):
    model.encoder.embedding_hidden_mapping_in.register_forward_hook(lambda _, __, out: 2 * out)


def _doubled_words(model):
    class Doubled(torch.nn.Embedding):
        def forward(self, ids):
            return 2 * super().forward(ids)

    words = model.embeddings.word_embeddings
    doubled = Doubled(words.num_embeddings, words.embedding_dim)
    doubled.load_state_dict(words.state_dict())
    model.embeddings.word_embeddings = doubled


def _another_pooler(model):
    model.pooler_activation = torch.nn.Sigmoid()


@pytest.mark.parametrize(
    "change", [_hook_on_the_model, _hook_on_the_mapping, _doubled_words, _another_pooler]
)
def test_what_was_done_to_a_model_is_not_passed_by(model, tokenizer, change):
    changed = pickle.loads(pickle.dumps(model))
    change(changed)
    encoder, texts = TextEncoder(changed, tokenizer), ["so", *texts_of(10, 5)]
    reason = encoder.why_not_batch_invariant
    if change is _another_pooler:  # as before: what this processor's products allow
        assert reason == TextEncoder(model, tokenizer).why_not_batch_invariant
    else:
        assert "hook" in reason or "reference" in reason
    found = encoder.encode(texts, pooling="pooler")
    for text, row in zip(texts, found, strict=True):
        with torch.no_grad():
            out = changed(**tokenizer(text, return_tensors="pt"), implementation="reference")
        np.testing.assert_allclose(row, out.pooler_output[0].numpy(), atol=2e-5)


def test_other_token_types_are_computed_by_the_model(model, encoder):
    """No tokenizer that the encoder takes gives any; a batch may have them."""
    ids = [torch.tensor([2, 31, 47, 3]), torch.tensor([2, 8, 3])]
    types = [torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0])]
    batch = PackedBatch(torch.cat(ids), torch.cat(types), torch.tensor([0, 4, 7]))
    rule = encoder._frozen.rule
    found = encode_packed(encoder._frozen, batch, rule=rule, pooling="mean")
    states = states_packed(encoder._frozen, batch, rule=rule)
    for i, (sequence, kinds) in enumerate(zip(ids, types, strict=True)):
        with torch.no_grad():
            out = model(sequence[None], token_type_ids=kinds[None], implementation="reference")
        expected = out.last_hidden_state[0]
        np.testing.assert_allclose(found.rows[i], expected.mean(0).numpy(), atol=2e-5)
        torch.testing.assert_close(states["last_hidden_state"][i], expected, rtol=0, atol=2e-5)
        assert torch.equal(states["n_updates"][i], out.n_updates[0])


def test_what_comes_and_goes_around_a_model_is_not_passed_by(encoder):
    expected = encoder.encode("so")
    calls = []
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))
    try:
        assert "global module hook" in encoder.why_not_batch_invariant
        with pytest.raises(ValueError, match="a global module hook is registered"):
            encoder.encode("so")
    finally:
        hook.remove()
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match="autocast is on"),
    ):
        encoder.encode("so")
    np.testing.assert_array_equal(encoder.encode("so"), expected)


def test_the_promise_is_made_where_it_holds(model, tokenizer):
    plain = TextEncoder(model, tokenizer, implementation="torch")
    assert not plain.batch_invariant
    assert "implementation 'torch' computes (asked for)" in plain.why_not_batch_invariant
    with pytest.raises(ValueError, match=r"batch_invariant: got True, .* implementation 'torch'"):
        TextEncoder(model, tokenizer, implementation="torch", batch_invariant=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_onednn_make_no_promise(tokenizer, dtype):
    """Unless they are not to be used; an odd width is no reason."""
    odd = random_model(3, "odd", vocab_size=30000, dtype=dtype)
    encoder, texts = TextEncoder(odd, tokenizer), ["so", *texts_of(10, 5)]
    own = str(dtype).removeprefix("torch.") in native.build_info()["own_products"].split()
    assert encoder.batch_invariant == (own or not cpu._has_onednn(dtype))
    if not encoder.batch_invariant:
        assert "are oneDNN's" in encoder.why_not_batch_invariant
    promised = TextEncoder(odd, tokenizer, batch_invariant=True)
    together = promised.encode(texts)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_array_equal(promised.encode(text), row)
    with torch.no_grad():
        out = odd(**tokenizer("so", return_tensors="pt"), implementation="reference")
    expected = out.last_hidden_state[0].float().mean(0)
    np.testing.assert_allclose(together[0], expected, atol=0.02)
