"""Depths, classes, masks and classes of tokens: those of the model called directly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.models import random_model

from albert_act_fast import (
    AlbertActForMaskedLM,
    AlbertActForPreTraining,
    AlbertActForSequenceClassification,
    AlbertActForTokenClassification,
    AlbertActModel,
    TextEncoder,
    TextError,
)

TEXTS = ["Call me Ishmael.", "so", "It was the best of times, it was the worst of times."]


def build(model_class, tokenizer, **overrides):
    model = random_model(
        5, model_class=model_class, vocab_size=30000, halting_bias=-0.5, **overrides
    )
    return model, TextEncoder(model, tokenizer)


def directly(model, tokenizer, text):
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt"), implementation="reference")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_depth(encoder, model, tokenizer, batch_size):
    for text, found in zip(TEXTS, encoder.depth(TEXTS, batch_size=batch_size), strict=True):
        expected = tokenizer(text, return_offsets_mapping=True)
        out = directly(model, tokenizer, text)
        assert found.text == text
        assert found.input_ids == expected["input_ids"]
        assert found.tokens == tokenizer.convert_ids_to_tokens(found.input_ids)
        assert found.offsets == [tuple(pair) for pair in expected["offset_mapping"]]
        assert found.iterations == out.n_updates[0].tolist()
        np.testing.assert_allclose(found.remainders, out.remainders[0], atol=2e-5)
        assert found.cost.rows == sum(found.iterations)
        assert found.cost.mean_iterations == sum(found.iterations) / len(found.tokens)
        assert list(found.cost.tokens_by_iterations) == np.bincount(found.iterations).tolist()


def test_one_string_gives_one_result(encoder):
    assert encoder.depth("so").tokens == ["[CLS]", "▁so", "[SEP]"]


def test_depth_under_another_rule(encoder):
    deep, shallow = encoder.depth(TEXTS[0]), encoder.depth(TEXTS[0], max_iterations=2)
    assert shallow.iterations == [min(n, 2) for n in deep.iterations]
    assert shallow.rule.max_iterations == 2


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [(None, 3), ("multi_label_classification", 3), ("regression", 1), (None, 1)],
)
def test_classify(tokenizer, problem_type, labels):
    model, encoder = build(
        AlbertActForSequenceClassification, tokenizer, num_labels=labels, problem_type=problem_type
    )
    for text, found in zip(TEXTS, encoder.classify(TEXTS), strict=True):
        out = directly(model, tokenizer, text)
        logits = out.logits[0]
        if labels == 1:
            assert found.label is None
            assert found.score == pytest.approx(logits[0].item(), abs=2e-5)
            continue
        several = problem_type is not None
        expected = (logits.sigmoid() if several else logits.softmax(0)).tolist()
        assert list(found.scores) == ["LABEL_0", "LABEL_1", "LABEL_2"]
        assert list(found.scores.values()) == pytest.approx(expected, abs=2e-5)
        assert found.label == f"LABEL_{np.argmax(expected)}"
        assert found.score == found.scores[found.label]
        over = [f"LABEL_{i}" for i, p in enumerate(expected) if p > 0.5]
        assert found.labels == (over if several else [found.label])
        assert found.cost.rows == out.n_updates.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "model_class", [AlbertActForSequenceClassification, AlbertActForTokenClassification]
)
def test_a_class_has_the_same_bits_in_every_batch(tokenizer, model_class, dtype):
    _, encoder = build(model_class, tokenizer, num_labels=3, dtype=dtype)
    if not encoder.batch_invariant:
        encoder = TextEncoder(encoder._frozen.model, tokenizer, batch_invariant=True)
    pooled = model_class is AlbertActForSequenceClassification
    find = encoder.classify if pooled else encoder.token_classify
    texts = [*TEXTS, "so it was " * 9, "quiet", "Ishmael " * 17]
    scores = (lambda one: one.scores) if pooled else (lambda one: [t.score for t in one.tokens])
    alone = [scores(find(text)) for text in texts]
    for order in ([5, 3, 1, 0, 2, 4], [0, 1, 2, 3, 4, 5], [4, 4, 4, 0]):
        assert [scores(one) for one in find([texts[i] for i in order])] == [alone[i] for i in order]


@pytest.mark.parametrize(
    "model_class", [AlbertActForSequenceClassification, AlbertActForTokenClassification]
)
def test_a_head_that_was_changed_is_called_as_it_is(tokenizer, model_class):
    """A hook on its module runs; where one on the model does, the model is called."""
    model, _ = build(model_class, tokenizer, num_labels=3)
    model.classifier.register_forward_hook(lambda _, __, logits: 3 * logits)
    method = "classify" if model_class is AlbertActForSequenceClassification else "token_classify"
    for name in ("head", "model"):
        if name == "model":

            def doubled(_, __, out):
                out.logits = 2 * out.logits
                return out

            model.register_forward_hook(doubled)
        encoder = TextEncoder(model, tokenizer)
        logits = directly(model, tokenizer, "quiet").logits[0]
        found = getattr(encoder, method)("quiet")
        score = found.score if method == "classify" else found.tokens[0].score
        expected = logits if method == "classify" else logits[1]
        assert score == pytest.approx(expected.softmax(0).max().item(), abs=2e-5)


@pytest.mark.parametrize("model_class", [AlbertActForMaskedLM, AlbertActForPreTraining])
def test_fill_mask(tokenizer, model_class):
    model, encoder = build(model_class, tokenizer)
    texts = ["Call me [MASK].", "so [MASK] it [MASK] was", "no mask"]
    *found, error = encoder.fill_mask(texts, top_k=3, errors="collect")
    assert (error.index, error.kind) == (2, "no mask")
    assert [len(one.masks) for one in found] == [1, 2]
    for one in found:
        out = directly(model, tokenizer, one.text)
        for mask in one.masks:
            assert tokenizer(one.text)["input_ids"][mask.position] == 4
            best = out[0][0, mask.position].softmax(0).topk(3)
            assert mask.token_ids == best.indices.tolist()
            assert mask.scores == pytest.approx(best.values.tolist(), abs=1e-5)
            assert mask.tokens == tokenizer.convert_ids_to_tokens(mask.token_ids)
            assert mask.iterations == out.n_updates[0, mask.position]
    with pytest.raises(TextError, match=r"text 2: got no \[MASK\]"):
        encoder.fill_mask(texts)
    with pytest.raises(ValueError, match="top_k: got 0"):
        encoder.fill_mask(texts, top_k=0)


def test_token_classify(tokenizer):
    model, encoder = build(AlbertActForTokenClassification, tokenizer, num_labels=4)
    for text, found in zip(TEXTS, encoder.token_classify(TEXTS), strict=True):
        out = directly(model, tokenizer, text)
        probabilities = out.logits[0].softmax(-1)[1:-1]
        assert [t.token for t in found.tokens] == tokenizer.tokenize(text)
        assert [t.label for t in found.tokens] == [
            f"LABEL_{i}" for i in probabilities.argmax(-1).tolist()
        ]
        assert [t.score for t in found.tokens] == pytest.approx(
            probabilities.max(-1).values.tolist(), abs=2e-5
        )
        assert [t.iterations for t in found.tokens] == out.n_updates[0, 1:-1].tolist()
        expected = tokenizer(text, return_offsets_mapping=True)["offset_mapping"][1:-1]
        assert [t.offsets for t in found.tokens] == [tuple(pair) for pair in expected]


def test_embeddings_of_a_task_model_are_those_of_its_encoder(tokenizer):
    model, encoder = build(AlbertActForSequenceClassification, tokenizer)
    np.testing.assert_array_equal(
        encoder.encode(TEXTS), TextEncoder(model.albert, tokenizer).encode(TEXTS)
    )


def test_a_model_without_the_head(encoder, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="classify: got a AlbertActModel, expected a AlbertActFor"):
        encoder.classify("so")
    # A checkpoint that says it has one, but has not.
    model = random_model(0, vocab_size=30000, model_class=AlbertActForSequenceClassification)
    bare: AlbertActModel = model.albert
    bare.config.architectures = ["AlbertActForSequenceClassification"]
    bare.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(
        config.read_text().replace('"AlbertActModel"', '"AlbertActForSequenceClassification"')
    )
    loaded = TextEncoder.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no trained head: classifier"):
        loaded.classify("so")


def test_the_shipped_model_says_what_it_was_trained_for():
    film = TextEncoder.from_pretrained("sst2").classify("A warm, funny and honest film.")
    assert (film.label, film.score > 0.9) == ("positive", True)
