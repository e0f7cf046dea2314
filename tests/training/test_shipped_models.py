"""The shipped models: size, loading, and the figures of their model cards on the real data."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, pipeline

from albert_act_fast import (
    AlbertActForMaskedLM,
    AlbertActForPreTraining,
    AlbertActForSequenceClassification,
)
from albert_act_fast.glue import compare
from albert_act_fast.shipped import shipped_model, shipped_models
from albert_act_fast.tokenizer import load_tokenizer

NAMES = ("mlm", "sst2")
DATA = os.environ.get("ALBERT_ACT_FAST_DATA")
needs_data = pytest.mark.skipif(
    not DATA, reason="ALBERT_ACT_FAST_DATA is not set to a folder with glue/SST-2/dev.tsv in it"
)
SENTENCE = "A lump in the middle of the monkeys stirred and then fell quiet."


def held_out(name: str) -> dict:
    """The figures at the end of the model's training log."""
    lines = (shipped_model(name) / "training_log.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["held_out"]


def test_both_are_there():
    assert set(NAMES) <= set(shipped_models())


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="got 'base', expected one of mlm, sst2"):
        shipped_model("base")


def test_together_they_are_small():
    size = sum(f.stat().st_size for name in NAMES for f in shipped_model(name).rglob("*"))
    assert size < 12_000_000


@pytest.mark.parametrize("name", NAMES)
def test_folder_is_complete(name):
    files = {file.name for file in shipped_model(name).iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "training_log.jsonl"} <= files
    card = (shipped_model(name) / "README.md").read_text()
    assert "license: apache-2.0" in card


@pytest.mark.parametrize("name", NAMES)
def test_auto_tokenizer_of_the_folder_is_the_package_s(name):
    ours, auto = load_tokenizer(), AutoTokenizer.from_pretrained(shipped_model(name))
    pair = (SENTENCE, 'He said "no" - at 3.14 (or so).')
    assert auto(*pair)["input_ids"] == ours(*pair)["input_ids"]
    assert auto(*pair)["token_type_ids"] == ours(*pair)["token_type_ids"]
    assert load_tokenizer(shipped_model(name))(*pair) == ours(*pair)


@pytest.mark.parametrize(
    ("name", "model_class"),
    [
        ("mlm", AlbertActForPreTraining),
        ("mlm", AlbertActForMaskedLM),
        ("sst2", AlbertActForSequenceClassification),
    ],
)
def test_loads_complete_and_in_float32(name, model_class):
    model, info = model_class.from_pretrained(shipped_model(name), output_loading_info=True)
    assert not info["missing_keys"]
    assert model.dtype == torch.float32
    assert model.config.num_hidden_layers == 12
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_sentiment_pipeline():
    classify = pipeline("text-classification", model=str(shipped_model("sst2")))
    good, bad = classify(["a wonderful , moving film .", "a dull , stupid mess ."])
    assert (good["label"], bad["label"]) == ("positive", "negative")


def test_masked_tokens_go_deeper_than_others():
    tokenizer = load_tokenizer(shipped_model("mlm"))
    model = AlbertActForMaskedLM.from_pretrained(shipped_model("mlm")).eval()
    text = "It was the [MASK] of times, it was the worst of times, said the [MASK] old man."
    batch = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        depths = model(**batch).n_updates
    masked = batch["input_ids"] == tokenizer.mask_token_id
    assert depths[masked].mean() > depths[~masked].mean()


def test_training_logs_reproduce_the_paper_s_finding():
    figures = held_out("mlm")
    assert figures["depth_mask"] > 1.15 * figures["depth_unmasked"]


def test_depth_has_not_collapsed():
    figures = held_out("sst2")
    assert 0.25 * 12 <= figures["depth_all"] <= 0.65 * 12
    assert figures["depth_deviation"] > 0.5


def stated(row: str) -> float:
    """The fp32 figure of a row of the sentiment model's card."""
    card = (shipped_model("sst2") / "README.md").read_text()
    return float(re.search(rf"^\| {re.escape(row)} \| ([\d.]+)", card, re.MULTILINE)[1])


def test_model_card_and_log_agree():
    # The log's figures are of the weights before they were rounded for storage.
    assert stated("accuracy") == pytest.approx(held_out("sst2")["accuracy"], abs=0.25)
    found = stated("mean iterations a token (of at most 12)")
    assert found == pytest.approx(held_out("sst2")["depth_all"], abs=0.01)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("implementation", ["auto", "torch"])
def test_accuracy_on_the_dev_set_and_parity(implementation):
    """All 872 sentences; predictions and iterations the same in the reference and the engine."""
    model = AlbertActForSequenceClassification.from_pretrained(shipped_model("sst2"))
    tokenizer = load_tokenizer(shipped_model("sst2"))
    found = compare(model, tokenizer, "sst-2", Path(DATA) / "glue", implementation)
    assert found.reference.examples == 872
    assert found.differing_predictions == []
    assert found.differing_depths == 0
    assert round(found.engine.metrics["accuracy"], 1) == stated("accuracy")
    depth = stated("mean iterations a token (of at most 12)")
    assert found.engine.mean_depth == pytest.approx(depth, abs=0.005)
