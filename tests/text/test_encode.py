"""`TextEncoder.encode`: the model's own results, text by text; its settings; texts that fail."""

from __future__ import annotations

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.models import random_config, random_model

import albert_act_fast
from albert_act_fast import AlbertActForTokenClassification, AlbertActModel, TextEncoder, TextError
from albert_act_fast.text import HaltingRule
from albert_act_fast.tokenizer import load_tokenizer

TEXTS = [
    "Call me Ishmael.",
    "so",
    "It was the best of times, it was the worst of times.",
    "a lump in the middle of the monkeys stirred",
    "quiet .",
    "He said no more, and went.",
]
LONG = " ".join(
    f"{word} and then" for word in "one two three four five six seven eight".split() * 4
)


def directly(model, tokenizer, text, pooling="mean", **tokenize):
    with torch.no_grad():
        out = model(**tokenizer(text, return_tensors="pt", **tokenize), implementation="reference")
    return {
        "cls": out.last_hidden_state[0, 0],
        "mean": out.last_hidden_state[0].mean(0),
        "pooler": out.pooler_output[0],
    }[pooling].numpy(), out.n_updates[0]


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
@pytest.mark.parametrize("batch_tokens", [1, 30, 10000])
def test_rows_are_the_model_s_own(encoder, model, tokenizer, pooling, batch_tokens):
    found = encoder.encode(TEXTS, pooling=pooling, batch_tokens=batch_tokens, details=True)
    assert (found.embeddings.shape, found.embeddings.dtype) == ((6, 48), np.float32)
    for i, text in enumerate(TEXTS):
        row, n_updates = directly(model, tokenizer, text, pooling)
        np.testing.assert_allclose(found.embeddings[i], row, atol=2e-5)
        assert found.rows[i] == n_updates.sum()
        assert found.tokens[i] == len(n_updates)
    assert found.rule == HaltingRule(12, 0.01)


_WORDS = "so it was the best of times quiet monkeys stirred (and) 3.14".split()


@given(
    st.lists(st.lists(st.sampled_from(_WORDS), min_size=1, max_size=12).map(" ".join), max_size=9),
    st.integers(1, 60),
    st.integers(1, 4),
    st.booleans(),
)
def test_whatever_window_batch_and_order(encoder, texts, batch_tokens, window, ordered):
    alone = {text: encoder.encode(text, details=True) for text in set(texts)}
    found = list(encoder.stream(texts, batch_tokens=batch_tokens, window=window, ordered=ordered))
    assert sorted(one.index for one in found) == list(range(len(texts)))
    if ordered:
        assert [one.index for one in found] == list(range(len(texts)))
    for one in found:
        assert one.text == texts[one.index]
        expected = alone[one.text].embeddings[0]
        if encoder.batch_invariant:
            np.testing.assert_array_equal(one.embedding, expected)
        np.testing.assert_allclose(one.embedding, expected, atol=2e-5)
        assert one.cost.rows == alone[one.text].rows[0]
        depth = encoder.depth(one.text)
        assert list(one.cost.tokens_by_iterations) == np.bincount(depth.iterations).tolist()


def test_shapes(encoder):
    assert encoder.encode("so").shape == (48,)
    assert encoder.encode(["so"]).shape == (1, 48)
    assert encoder.encode([]).shape == (0, 48)
    assert encoder.encode(iter(["so", "so"])).shape == (2, 48)
    assert encoder.encode(np.array(["so", "it"])).shape == (2, 48)
    assert encoder.embedding_dimension == encoder.get_sentence_embedding_dimension() == 48


def test_names_of_sentence_transformers(encoder):
    expected = encoder.encode(TEXTS, normalize=True, output="torch")
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(6))
    found = encoder.encode(
        TEXTS,
        batch_size=2,
        show_progress_bar=False,
        convert_to_tensor=True,
        normalize_embeddings=True,
    )
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert isinstance(encoder.encode("so", convert_to_numpy=True), np.ndarray)
    assert isinstance(encoder.encode("so", convert_to_numpy=False), torch.Tensor)


def test_truncation(encoder, model, tokenizer):
    found = encoder.encode(LONG, truncation=True)
    row, _ = directly(model, tokenizer, LONG, truncation=True, max_length=40)
    np.testing.assert_allclose(found, row, atol=2e-5)


def test_chunks_are_the_tokenizer_s_own_windows(encoder, model, tokenizer):
    found = encoder.encode(LONG, chunk=True, chunk_overlap=5, details=True)
    windows = tokenizer(
        LONG, truncation=True, max_length=40, stride=5, return_overflowing_tokens=True
    )["input_ids"]
    assert len(windows) > 2
    rows, weights, updates = [], [], 0
    for ids in windows:
        with torch.no_grad():
            out = model(torch.tensor([ids]), implementation="reference")
        rows.append(out.last_hidden_state[0].mean(0).numpy())
        weights.append(len(ids) - 2)
        updates += int(out.n_updates.sum())
    np.testing.assert_allclose(found.embeddings[0], np.average(rows, 0, weights), atol=2e-5)
    assert found.rows[0] == updates
    # A text that fits is one window.
    np.testing.assert_array_equal(encoder.encode("so", chunk=True), encoder.encode("so"))


@pytest.mark.parametrize("truncation_side", ["right", "left"])
def test_a_huge_text_is_cut_as_the_tokenizer_cuts_it(model, truncation_side):
    """Texts beyond 64 characters a position are read piece by piece."""
    tokenizer = load_tokenizer()
    tokenizer.truncation_side = truncation_side
    encoder = TextEncoder(model, tokenizer)
    text = " \n ".join([LONG, " " * 9000, LONG.upper()] * 3)
    expected = tokenizer(text, truncation=True, max_length=40, return_offsets_mapping=True)
    found = encoder.depth(text, truncation=True)
    assert found.input_ids == expected["input_ids"]
    assert [tuple(pair) for pair in expected["offset_mapping"]] == found.offsets
    assert found.cost.truncated
    # One word that never ends.
    assert encoder.encode("word" * 3000, truncation=True).shape == (48,)
    with pytest.raises(TextError, match=r"got over 40 tokens, expected at most 40|got \d+ tokens"):
        encoder.encode(text)


def test_offsets_of_a_huge_text_are_its_own(encoder, tokenizer):
    text = ("so it was. " * 20 + "\n") * 30
    options = albert_act_fast.text.tokenize.TokenizeOptions(offsets=True, chunk=True)
    (windows,) = encoder._tokenizer(0, [text], options)
    expected = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert [i for w in windows for i in w.input_ids[1:-1]] == expected["input_ids"]
    assert [o for w in windows for o in w.offsets[1:-1]] == [
        tuple(o) for o in expected["offset_mapping"]
    ]


def test_anytime_rules_are_exact(encoder, model, tokenizer):
    for fields in ({"num_hidden_layers": 3}, {"act_epsilon": 0.4}):
        other = copy.deepcopy(model)
        for name, value in fields.items():
            setattr(other.config, name, value)
        asked = {"max_iterations": fields.get("num_hidden_layers"), **fields}
        asked.pop("num_hidden_layers", None)
        found = encoder.encode(TEXTS, details=True, **asked)
        for i, text in enumerate(TEXTS):
            row, n_updates = directly(other, tokenizer, text)
            np.testing.assert_allclose(found.embeddings[i], row, atol=2e-5)
            assert found.rows[i] == n_updates.sum()
        assert found.rule == HaltingRule(
            fields.get("num_hidden_layers", 12), fields.get("act_epsilon", 0.01)
        )
    # The model's own rule again, after others.
    assert encoder.encode("so", details=True).rule == HaltingRule(12, 0.01)
    assert encoder.encode(TEXTS, details=True).rows.sum() > found.rows.sum()


def test_the_weights_are_the_encoder_s_own(tokenizer):
    model = random_model(0, vocab_size=30000)
    encoder = TextEncoder(model, tokenizer)
    before = encoder.encode("so")
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.zero_()
    np.testing.assert_array_equal(encoder.encode("so"), before)
    model.train()
    assert not encoder._frozen.model.training
    encoder.config.num_hidden_layers = 1
    np.testing.assert_array_equal(encoder.encode("so"), before)


def test_settings_of_a_checkpoint_do_not_reach_it(tokenizer):
    plain = random_model(0, vocab_size=30000)
    odd = copy.deepcopy(plain)
    odd.config.return_dict = False
    odd.config.output_attentions = odd.config.output_hidden_states = True
    found = TextEncoder(odd, tokenizer).encode(TEXTS)
    np.testing.assert_array_equal(found, TextEncoder(plain, tokenizer).encode(TEXTS))
    assert odd.config.output_attentions


def test_pickled_and_back(encoder):
    again = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


class TestTextsThatFail:
    BAD = {
        1: ("", "empty"),
        3: (None, "type"),
        4: ("日本語", "unknown"),
        6: ("x\ud800", "unicode"),
        7: (LONG, "too long"),
        8: (b"bytes", "type"),
    }

    @pytest.fixture
    def texts(self):
        good = iter(TEXTS)
        return [self.BAD[i][0] if i in self.BAD else next(good) for i in range(12)]

    def test_collected(self, encoder, texts):
        found = encoder.encode(texts, errors="collect")
        assert {e.index: (e.text, e.kind) for e in found.errors} == self.BAD
        assert [e.index for e in found.errors] == sorted(self.BAD)
        failed = np.isnan(found.embeddings).all(axis=1)
        assert set(np.flatnonzero(failed)) == set(self.BAD)
        np.testing.assert_allclose(found.embeddings[~failed], encoder.encode(TEXTS), atol=2e-5)

    def test_in_a_stream_they_stand_in_their_places(self, encoder, texts):
        found = list(encoder.stream(texts, errors="collect", window=2))
        assert [one.index for one in found] == list(range(12))
        assert {one.index for one in found if isinstance(one, TextError)} == set(self.BAD)

    @pytest.mark.parametrize("ordered", [True, False])
    def test_raised_after_what_precedes(self, encoder, ordered):
        found, stream = [], encoder.stream([*TEXTS, "", "so"], ordered=ordered)
        with pytest.raises(TextError, match=r"^text 6: got '', in which") as caught:
            found.extend(stream)
        assert caught.value.index == 6
        assert sorted(one.index for one in found) == list(range(6))

    def test_nothing_computed_is_lost(self, encoder):
        with pytest.raises(TextError) as caught:
            encoder.encode([*TEXTS, "", "so"])
        found = caught.value.computed
        np.testing.assert_allclose(found.embeddings[:6], encoder.encode(TEXTS), atol=2e-5)
        assert np.isnan(found.embeddings[6:]).all()

    def test_values_that_are_not_finite(self, tokenizer):
        model = random_model(0, vocab_size=30000)
        (so,) = tokenizer("so", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            model.embeddings.word_embeddings.weight[so] = float("nan")
        encoder = TextEncoder(model, tokenizer)
        found = encoder.encode(TEXTS, errors="collect")
        (error,) = found.errors
        assert (error.index, error.kind) == (1, "not finite")
        assert "float32" in str(error)
        assert isinstance(encoder.depth(TEXTS, errors="collect")[1], TextError)
        with pytest.raises(TextError) as caught:
            encoder.encode(TEXTS[1])
        assert caught.value.kind == "not finite"

    def test_memory_that_runs_out_halves_the_batch(self, encoder, monkeypatch):
        expected = encoder.encode(TEXTS)
        sizes = []

        def little_memory(compute, model, batch, **kwargs):
            # Of many texts, and of a string.
            lengths = [len(batch)] if isinstance(batch, list) else batch.lengths
            sizes.append(len(lengths))
            if len(lengths) > 2 or 16 in lengths:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
            return compute(model, batch, **kwargs)

        for name in ("encode_packed", "row_of"):
            compute = getattr(albert_act_fast.text.encoder, name)
            limited = functools.partial(little_memory, compute)
            monkeypatch.setattr(albert_act_fast.text.encoder, name, limited)
        found = encoder.encode(TEXTS, errors="collect")
        assert sizes[0] == 6
        (error,) = found.errors
        assert (error.index, error.kind) == (2, "memory")
        rest = [0, 1, 3, 4, 5]
        np.testing.assert_allclose(found.embeddings[rest], expected[rest], atol=2e-5)
        with pytest.raises(TextError) as caught:
            encoder.encode(TEXTS[2])
        assert caught.value.kind == "memory"

    def test_other_failures_are_not_taken_for_it(self, encoder, monkeypatch):
        def broken(model, batch, **kwargs):
            raise RuntimeError("a defect")

        for name in ("encode_packed", "row_of"):
            monkeypatch.setattr(albert_act_fast.text.encoder, name, broken)
        with pytest.raises(RuntimeError, match="a defect"):
            encoder.encode(TEXTS, errors="collect")
        with pytest.raises(RuntimeError, match="a defect"):
            encoder.encode(TEXTS[0])

    def test_pickled_errors_keep_what_they_say(self):
        error = TextError(3, "x", "empty", "got 'x'")
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.index, again.kind) == (str(error), 3, "empty")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "max"}, "pooling: got 'max', expected one of mean, cls, pooler"),
        ({"output": "list"}, "output: got 'list'"),
        ({"errors": "ignore"}, "errors: got 'ignore'"),
        ({"batch_tokens": 0}, "batch_tokens: got 0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"truncation": True, "chunk": True}, "truncation, chunk: got both"),
        ({"chunk": True, "chunk_overlap": 38}, "chunk_overlap: got 38, expected 0 to 37"),
        ({"chunk_overlap": 3}, "chunk_overlap: got it without chunk=True"),
        ({"max_iterations": 13}, "max_iterations: got 13, expected None or a whole number"),
        ({"max_iterations": 0}, "max_iterations: got 0"),
        ({"max_iterations": True}, "max_iterations: got True"),
        ({"act_epsilon": 1.0}, r"act_epsilon: got 1.0, expected None or a number in \[0, 1\)"),
    ],
)
def test_settings_out_of_range(encoder, settings, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode(["so"], **settings)


def test_arguments_of_another_kind(encoder, model, tokenizer):
    with pytest.raises(TypeError, match="sentences: got dict"):
        encoder.encode({"a": 1})
    with pytest.raises(TypeError, match="sentences: got int"):
        encoder.encode(3)
    with pytest.raises(TypeError, match="sentences: got a string"):
        encoder.stream("so")
    with pytest.raises(TypeError, match="model: got Linear"):
        TextEncoder(torch.nn.Linear(1, 1), tokenizer)
    with pytest.raises(ValueError, match="tokenizer: its vocabulary has 30000 entries"):
        TextEncoder(random_model(0), tokenizer)
    with pytest.raises(ValueError, match="implementation: got 'fast'"):
        TextEncoder(model, tokenizer, implementation="fast")
    with pytest.raises(ValueError, match="quantization: got 'int8', which only"):
        TextEncoder(model, tokenizer, implementation="torch", quantization="int8")


def test_a_model_without_a_pooler(tokenizer, tmp_path):
    config = random_config(vocab_size=30000)
    AlbertActForTokenClassification(config).save_pretrained(tmp_path / "head")
    with pytest.raises(ValueError, match="pooling: got 'pooler'"):
        TextEncoder.from_pretrained(tmp_path / "head").encode("so", pooling="pooler")
    # A checkpoint of the bare model that does not say so: its pooler would be random.
    AlbertActModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    file = tmp_path / "bare" / "config.json"
    file.write_text(file.read_text().replace('"add_pooling_layer": false', '"act_tau": null'))
    encoder = TextEncoder.from_pretrained(tmp_path / "bare")
    assert encoder._lacks("pooler.")
    assert encoder.encode("so").shape == (48,)
    with pytest.raises(ValueError, match="pooling: got 'pooler'"):
        encoder.encode("so", pooling="pooler")


def test_loading_is_quiet(capfd):
    TextEncoder.from_pretrained("sentence").encode("so")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes(model, tokenizer, encoder, dtype):
    half = TextEncoder(model, tokenizer, dtype=dtype)
    assert half.dtype == dtype
    assert model.dtype == torch.float32
    found = half.encode(TEXTS)
    assert found.dtype == np.float32
    assert np.abs(found - encoder.encode(TEXTS)).max() < 0.5
    assert "TextEncoder(AlbertActModel, 48 columns" in repr(half)


def test_pooling_is_the_model_s_own_unless_told(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    assert TextEncoder.from_pretrained(tmp_path).pooling == "mean"
    (tmp_path / "1_Pooling").mkdir()
    config = tmp_path / "1_Pooling" / "config.json"
    for content in ('{"pooling_mode_max_tokens": true}', '{"pooling_mode": ["mean", "max"]}'):
        config.write_text(content)
        with pytest.raises(ValueError, match="asks for another one than mean and cls"):
            TextEncoder.from_pretrained(tmp_path).encode(TEXTS)
        assert TextEncoder.from_pretrained(tmp_path).encode(TEXTS, pooling="mean").shape == (6, 48)
    for content in ('{"pooling_mode_cls_token": true}', '{"pooling_mode": "cls"}'):
        config.write_text(content)
        assert TextEncoder.from_pretrained(tmp_path).pooling == "cls"
    encoder = TextEncoder.from_pretrained(tmp_path)
    assert encoder.pooling == "cls"
    np.testing.assert_array_equal(encoder.encode(TEXTS), encoder.encode(TEXTS, pooling="cls"))
    assert np.abs(encoder.encode(TEXTS) - encoder.encode(TEXTS, pooling="mean")).max() > 1e-2
