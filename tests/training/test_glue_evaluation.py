"""Metrics, evaluation of a model on a task, and the engine against the reference on it."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from albert_act_fast import AlbertActConfig, AlbertActForSequenceClassification, AlbertActModel
from albert_act_fast.glue import (
    NotFinite,
    PredictionsDiffer,
    compare,
    evaluate,
    get_task,
    read_examples,
)
from albert_act_fast.glue.evaluate import encode_batches
from albert_act_fast.glue.metrics import score
from albert_act_fast.glue.scoring import class_order
from albert_act_fast.tokenizer import load_tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures" / "glue"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


def named(*labels: str) -> dict:
    """A configuration's fields for these labels."""
    id2label = dict(enumerate(labels))
    return {"id2label": id2label, "label2id": {label: i for i, label in id2label.items()}}


def classifier(task: str = "sst-2", **overrides) -> AlbertActForSequenceClassification:
    torch.manual_seed(1)
    sizes = {
        "embedding_size": 8,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "num_hidden_layers": 8,
        **(named(*get_task(task).labels) if get_task(task).labels else {"num_labels": 1}),
    }
    model = AlbertActForSequenceClassification(AlbertActConfig(**(sizes | overrides)))
    with torch.no_grad():
        halting = model.albert.encoder.albert_layer.act.dense
        halting.bias.fill_(-1.2)
        halting.weight.normal_(std=0.3)
        model.classifier.weight.normal_()
    return model.eval()


def test_metrics_in_per_cent():
    found = score(["accuracy", "f1", "matthews"], [1, 1, 0, 0], [1, 0, 0, 0])
    assert found["accuracy"] == pytest.approx(75)
    assert found["f1"] == pytest.approx(100 * 2 / 3)
    assert found["matthews"] == pytest.approx(100 / math.sqrt(3))
    found = score(["spearman", "pearson"], [1.0, 2.0, 9.0], [0.0, 1.0, 2.0])
    assert found["spearman"] == pytest.approx(100)
    assert found["pearson"] == pytest.approx(91.7663, abs=1e-3)


def test_undefined_correlation_is_nan():
    assert math.isnan(score(["spearman"], [1.0, 1.0, 1.0], [0.0, 1.0, 2.0])["spearman"])


def test_metric_errors():
    with pytest.raises(ValueError, match="got 'bleu', expected one of accuracy"):
        score(["bleu"], [1], [1])
    with pytest.raises(ValueError, match="1 predictions for 2 labels"):
        score(["accuracy"], [1], [1, 0])


def test_evaluation_counts_what_was_computed(tokenizer):
    model = classifier()
    result = evaluate(model, tokenizer, "sst-2", FIXTURES, "reference", batch_size=2)
    tokens = [len(n) for n in result.n_updates]
    assert result.tokens == sum(tokens)
    assert result.mean_depth == pytest.approx(torch.cat(result.n_updates).mean().item())
    assert result.rows_computed == result.rows_dense
    assert result.depth_limit == 8
    assert result.seconds > 0
    assert result.metrics["accuracy"] in [pytest.approx(100 * n / 6) for n in range(7)]


def test_results_are_in_the_file_s_order_whatever_the_batches(tokenizer):
    model = classifier()
    one, many = (evaluate(model, tokenizer, "sst-2", FIXTURES, batch_size=size) for size in (1, 6))
    torch.testing.assert_close(one.logits, many.logits)
    assert [n.tolist() for n in one.n_updates] == [n.tolist() for n in many.n_updates]


@pytest.mark.parametrize("task", ["sst-2", "sts-b", "mnli-m"])
def test_engine_agrees_with_the_reference_and_computes_less(tokenizer, task):
    model = classifier(task)
    found = compare(model, tokenizer, task, FIXTURES, "torch", batch_size=3)
    assert found.differing_predictions == []
    assert found.differing_depths == 0
    assert found.largest_difference < 1e-5
    assert found.engine.implementation == "torch"
    assert found.engine.rows_computed < found.engine.rows_dense == found.reference.rows_computed
    assert found.engine.metrics == pytest.approx(found.reference.metrics, abs=0.01)


def test_differing_predictions_are_an_error(tokenizer, monkeypatch):
    model = classifier()
    forward = model.forward

    def wrong(**inputs):
        output = forward(**inputs)
        if inputs["implementation"] != "reference":
            output.logits = -output.logits
        return output

    monkeypatch.setattr(model, "forward", wrong)
    with pytest.raises(PredictionsDiffer, match=r"sst-2: torch .* 6 of 6 examples differently: 0"):
        compare(model, tokenizer, "sst-2", FIXTURES, "torch")
    found = compare(model, tokenizer, "sst-2", FIXTURES, "torch", must_agree=False)
    assert found.differing_predictions == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("task", "labels", "order"),
    [
        ("qnli", ["not_entailment", "entailment"], [1, 0]),
        ("qnli", ["ENTAILMENT", "Not-Entailment"], [0, 1]),
        ("mnli-m", ["contradiction", "entailment", "neutral"], [1, 2, 0]),
        ("mrpc", ["not equivalent", "equivalent"], [0, 1]),
        ("sts-b", ["LABEL_0"], [0]),
        ("sts-b", ["score"], [0]),
    ],
)
def test_classes_are_matched_by_name(task, labels, order):
    assert class_order(AlbertActConfig(**named(*labels)), get_task(task)) == order
    # Whatever the model calls them, what is said counts.
    other = AlbertActConfig(**named(*(f"other {i}" for i in range(len(labels)))))
    assert class_order(other, get_task(task), labels) == order


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("cola", ["negative", "positive"]),
        ("wnli", ["negative", "positive"]),
        ("sst-2", ["LABEL_0", "LABEL_1"]),
        ("sst-2", ["negative", "neutral"]),
        ("sts-b", ["toxicity"]),
    ],
)
def test_labels_of_another_task_are_refused(tokenizer, task, labels):
    """A model of the right number of labels has a score on any task."""
    expected = ", ".join(get_task(task).labels) or "one, a score"
    model = classifier(**named(*labels))
    message = f"the model's are {', '.join(labels)}; {task} expects {expected}"
    with pytest.raises(ValueError, match=message):
        evaluate(model, tokenizer, task, FIXTURES)
    with pytest.raises(ValueError, match="labels: got good, bad"):
        evaluate(model, tokenizer, task, FIXTURES, labels=["good", "bad"])


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_a_model_of_another_kind_is_refused(kind):
    config = AlbertActConfig(**named("negative", "positive"), problem_type=kind)
    with pytest.raises(
        ValueError, match=f"problem_type: the model's is '{kind}', expected 'single"
    ):
        class_order(config, get_task("sst-2"))


def test_a_model_of_another_number_of_labels_is_refused(tokenizer):
    with pytest.raises(ValueError, match="the model has 2, expected 3 for mnli-m"):
        evaluate(classifier(), tokenizer, "mnli-m", FIXTURES)


@pytest.mark.parametrize(
    ("missing", "arguments", "error", "message"),
    [
        ("sklearn", {}, ImportError, "pip install scikit-learn scipy"),
        ("scipy", {}, ImportError, "pip install scikit-learn scipy"),
        ("datasets", {"data": "hub"}, ImportError, "pip install datasets"),
        (None, {"data": "nowhere"}, ValueError, "no file"),
        (None, {"labels": ["good", "bad"]}, ValueError, "labels: got good, bad"),
        (None, {"implementation": "fast"}, ValueError, "fast"),
        (None, {"limit": 0}, ValueError, "limit: got 0, expected at least 1"),
        (None, {"batch_size": 0}, ValueError, "batch_size: got 0, expected at least 1"),
    ],
)
def test_what_is_missing_is_said_before_the_model_runs(
    tokenizer, monkeypatch, missing, arguments, error, message
):
    model = classifier()
    monkeypatch.setattr(model, "forward", lambda **inputs: pytest.fail("it runs"))
    if missing is not None:
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(error, match=message):
        compare(
            **{"model": model, "tokenizer": tokenizer, "task": "sst-2", "data": FIXTURES}
            | arguments
        )


def test_pairs_have_token_types(tokenizer):
    examples = read_examples(get_task("sts-b"), FIXTURES)
    (indices, batch), *_ = encode_batches(examples, tokenizer, 2, 128)
    row = batch["input_ids"][0].tolist()
    types = batch["token_type_ids"][0].tolist()
    assert types[row.index(tokenizer.sep_token_id)] == 0
    assert types[row.index(tokenizer.sep_token_id) + 1] == 1
    assert len(indices) == 2


def test_the_model_s_mode_is_restored(tokenizer):
    model = classifier().train()
    evaluate(model, tokenizer, "sst-2", FIXTURES)
    assert model.training


def sentence_encoder() -> AlbertActModel:
    return classifier("sts-b").albert


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_model_without_a_head_is_scored_by_cosine(tokenizer, pooling):
    """By hand: every text alone, without padding."""
    model = sentence_encoder()
    found = compare(model, tokenizer, "sts-b", FIXTURES, "torch", batch_size=3, pooling=pooling)
    assert found.engine.scored_by == f"cosine of {pooling}-pooled embeddings"
    assert (found.differing_predictions, found.differing_depths) == ([], 0)
    examples = read_examples(get_task("sts-b"), FIXTURES)
    assert found.engine.examples == len(examples)
    for i, example in enumerate(examples):
        with torch.no_grad():
            pair = [model(**tokenizer(text, return_tensors="pt")) for text in example.texts]
        states = [out.last_hidden_state[0] for out in pair]
        first, second = (s.mean(0) if pooling == "mean" else s[0] for s in states)
        cosine = torch.cosine_similarity(first, second, dim=0).item()
        assert found.engine.predictions[i] == pytest.approx(cosine, abs=1e-5)
        depths = torch.cat([out.n_updates[0] for out in pair])
        assert torch.equal(found.engine.n_updates[i], depths)
    labels = [example.label for example in examples]
    expected = score(["spearman", "pearson"], found.engine.predictions, labels)
    assert found.engine.metrics == pytest.approx(expected)


def test_what_a_cosine_cannot_score_is_refused(tokenizer):
    model = sentence_encoder()
    for task in ("sst-2", "mrpc"):
        with pytest.raises(ValueError, match=f"task: got '{task}', expected sts-b"):
            evaluate(model, tokenizer, task, FIXTURES)
    with pytest.raises(ValueError, match="labels: got score, expected none"):
        evaluate(model, tokenizer, "sts-b", FIXTURES, labels=["score"])
    with pytest.raises(ValueError, match="pooling: got 'max', expected one of mean, cls"):
        evaluate(model, tokenizer, "sts-b", FIXTURES, pooling="max")
    with torch.no_grad():
        model.encoder.albert_layer.ffn.weight[0, 0] = float("nan")
    with pytest.raises(NotFinite, match="cosines: implementation"):
        evaluate(model, tokenizer, "sts-b", FIXTURES)
