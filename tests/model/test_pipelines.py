"""transformers' pipelines and tokenizers on the models, for single texts and padded batches."""

import logging

import numpy as np
import pytest
import torch
from support import models as builders
from support.count_rows import count_rows
from transformers import AutoTokenizer, pipeline

import albert_act_fast as aaf
from albert_act_fast.tokenizer import load_tokenizer

TEXTS = [
    "Call me Ishmael.",
    "It was the best of times, it was the worst of times.",
    "Yes",
]
TASKS = {
    "feature-extraction": aaf.AlbertActModel,
    "text-classification": aaf.AlbertActForSequenceClassification,
    "token-classification": aaf.AlbertActForTokenClassification,
    "fill-mask": aaf.AlbertActForMaskedLM,
}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def models():
    return {
        cls: builders.model(cls, vocab_size=30000, max_position_embeddings=64)
        for cls in TASKS.values()
    }


@pytest.fixture
def complaints():
    """What transformers' pipelines log at error level."""
    records: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def assert_same(actual, expected) -> None:
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(actual[key], value)
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_same(a, e)
    elif isinstance(expected, float | np.floating):
        assert actual == pytest.approx(expected, abs=1e-5)
    else:
        assert actual == expected


@pytest.mark.parametrize("task", TASKS)
def test_a_padded_batch_gives_what_single_texts_give(task, models, tokenizer, complaints):
    texts = [text + " [MASK]" for text in TEXTS] if task == "fill-mask" else TEXTS
    run = pipeline(task, model=models[TASKS[task]], tokenizer=tokenizer, device="cpu")
    together = run(texts, batch_size=3)
    assert len(together) == 3
    if task == "feature-extraction":
        # This pipeline hands padding on; the tokens come first.
        for text, features in zip(texts, together, strict=True):
            alone = np.array(run(text)[0])
            assert alone.shape == (len(tokenizer(text).input_ids), 16)
            np.testing.assert_allclose(np.array(features[0])[: len(alone)], alone, atol=1e-5)
            assert not np.array(features[0])[len(alone) :].any()
    else:
        assert_same(together, [single for text in texts for single in as_list(run(text), task)])
    assert not complaints


def as_list(result, task: str) -> list:
    """One text's result as the element it is in a batch's."""
    return result if task == "text-classification" else [result]


def test_fill_mask_gives_the_model_s_best_tokens(models, tokenizer):
    model = models[aaf.AlbertActForMaskedLM]
    run = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")
    text = "Call me [MASK]."
    answers = run(text, top_k=3)
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, inputs["input_ids"][0] == tokenizer.mask_token_id]
    best = logits.softmax(-1)[0].topk(3)
    assert [answer["token"] for answer in answers] == best.indices.tolist()
    assert [a["score"] for a in answers] == pytest.approx(best.values.tolist(), abs=1e-6)


def test_text_classification_speaks_the_model_s_labels(tokenizer):
    model = builders.model(
        aaf.AlbertActForSequenceClassification,
        vocab_size=30000,
        id2label={0: "bad", 1: "fair", 2: "good"},
    )
    run = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    answers = run(TEXTS[0], top_k=None)
    assert {answer["label"] for answer in answers} == {"bad", "fair", "good"}
    assert sum(answer["score"] for answer in answers) == pytest.approx(1, abs=1e-5)


def test_zero_shot_classification(tokenizer):
    model = builders.model(
        aaf.AlbertActForSequenceClassification,
        vocab_size=30000,
        id2label={0: "contradiction", 1: "neutral", 2: "entailment"},
        label2id={"contradiction": 0, "neutral": 1, "entailment": 2},
    )
    run = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer, device="cpu")
    labels = ["whales", "taxes", "weather"]
    together = run(TEXTS[0], candidate_labels=labels, batch_size=3)
    alone = run(TEXTS[0], candidate_labels=labels)
    assert set(together["labels"]) == set(labels)
    assert together["labels"] == alone["labels"]
    assert together["scores"] == pytest.approx(alone["scores"], abs=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_a_pipeline_of_a_directory(task, models, tokenizer, tmp_path):
    model = models[TASKS[task]]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = TEXTS[0] + " [MASK]"
    from_directory = pipeline(task, model=str(tmp_path), device="cpu")
    in_memory = pipeline(task, model=model, tokenizer=tokenizer, device="cpu")
    assert type(from_directory.model) is TASKS[task]
    assert_same(from_directory(text), in_memory(text))


def test_pipelines_run_on_the_engine(models, tokenizer):
    model = models[aaf.AlbertActModel]
    run = pipeline("feature-extraction", model=model, tokenizer=tokenizer, device="cpu")
    inputs = tokenizer(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        running = int(model(**inputs).n_updates.sum())
    with count_rows(model) as rows:
        run(TEXTS[0])
    assert sum(rows["ffn"]) == running


def test_auto_tokenizer_reads_a_saved_directory(tokenizer, tmp_path):
    builders.config(vocab_size=30000).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == len(tokenizer) == 30000
    for text in TEXTS:
        assert loaded(text).input_ids == tokenizer(text).input_ids
    assert loaded.decode(loaded(TEXTS[2]).input_ids) == "[CLS] yes[SEP]"


def test_sentence_pairs_differ_in_their_token_types(tokenizer, tmp_path):
    pair = tokenizer("a whale", "a ship", return_tensors="pt")
    assert pair["token_type_ids"].unique().tolist() == [0, 1]
    builders.config(vocab_size=30000).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)("a whale", "a ship", return_tensors="pt")
    assert torch.equal(again["token_type_ids"], pair["token_type_ids"])
