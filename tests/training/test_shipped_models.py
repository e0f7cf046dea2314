"""The shipped models: size, loading, and the figures of their model cards."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support.training_logs import log_of
from transformers import AutoTokenizer, pipeline

from albert_act_fast import AlbertActForSequenceClassification, AlbertActModel
from albert_act_fast.glue import compare, get_task, read_examples
from albert_act_fast.shipped import pooling, shipped_model, shipped_models
from albert_act_fast.tokenizer import load_tokenizer

NAMES = ("sentence", "sst2")
ROOT = Path(__file__).parents[2]
# Sentences written for this project, in the manner of SST-2's.
REVIEWS = ROOT / "tests" / "fixtures" / "reviews"
DATA = os.environ.get("ALBERT_ACT_FAST_DATA")
needs_data = pytest.mark.skipif(
    not DATA, reason="ALBERT_ACT_FAST_DATA is not set to a folder with glue/SST-2/dev.tsv in it"
)


def held_out(name: str) -> dict:
    """The figures at the end of the model's training log."""
    return log_of(shipped_model(name))[-1]["held_out"]


def card(name: str) -> str:
    return (shipped_model(name) / "README.md").read_text(encoding="utf-8")


def stated(name: str, row: str) -> float:
    """The first figure of a row of the model card's tables."""
    return float(re.search(rf"^\| {re.escape(row)} \| ([\d.]+)", card(name), re.MULTILINE)[1])


def embed(texts: list[str], implementation: str, dtype: torch.dtype = torch.float32):
    """Normalised embeddings [n, H] and the iterations of all tokens."""
    folder = shipped_model("sentence")
    tokenizer = load_tokenizer(folder)
    model = AlbertActModel.from_pretrained(folder).to(dtype).eval()
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(**batch, implementation=implementation)
    mask = batch["attention_mask"]
    mean = out.last_hidden_state.float().sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(mean, dim=1), out.n_updates[mask.bool()]


def test_both_are_there():
    assert set(NAMES) == set(shipped_models())


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="got 'base', expected one of sentence, sst2"):
        shipped_model("base")


def test_the_sentence_encoder_is_the_default():
    assert shipped_model() == shipped_model("sentence")
    assert pooling(shipped_model()) == "mean"


def test_pooling_that_is_neither_mean_nor_cls_is_refused(tmp_path):
    assert pooling(tmp_path) == "mean"
    (tmp_path / "1_Pooling").mkdir()
    settings = tmp_path / "1_Pooling" / "config.json"
    settings.write_text('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}')
    assert pooling(tmp_path) == "cls"
    settings.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ValueError, match="pooling_mode_max_tokens"):
        pooling(tmp_path)


def test_together_they_take_at_most_20_megabytes_of_the_wheel(tmp_path):
    wheel = tmp_path / "models.zip"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in NAMES:
            for file in shipped_model(name).rglob("*"):
                archive.write(file)
    assert wheel.stat().st_size < 20_000_000


@pytest.mark.parametrize("name", NAMES)
def test_folder_is_complete(name):
    files = {file.name for file in shipped_model(name).iterdir()}
    wanted = {"README.md", "config.json", "model.safetensors", "training_log.jsonl"}
    assert wanted | {"tokenizer_config.json"} <= files
    assert {"tokenizer.json", "spiece.model"} & files
    assert not {file for file in files if file.startswith("checkpoint")}
    assert "license: apache-2.0" in card(name)
    with safe_open(shipped_model(name) / "model.safetensors", "pt") as weights:
        types = {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118
    assert types == {"F16"}


@pytest.mark.parametrize("name", NAMES)
def test_auto_tokenizer_of_the_folder_is_the_package_s(name):
    ours = load_tokenizer(shipped_model(name))
    auto = AutoTokenizer.from_pretrained(shipped_model(name))
    pair = ("A lump in the middle stirred.", 'He said "no" - at 3.14 (or so).')
    assert auto(*pair)["input_ids"] == ours(*pair)["input_ids"]
    assert ours.model_max_length == 512
    assert ours(*pair)["token_type_ids"][-1] == 1


@pytest.mark.parametrize(
    ("name", "model_class"),
    [("sentence", AlbertActModel), ("sst2", AlbertActForSequenceClassification)],
)
def test_loads_complete_and_in_float32(name, model_class):
    model, info = model_class.from_pretrained(shipped_model(name), output_loading_info=True)
    assert not any(info.values())  # transformers has nothing to report
    assert model.dtype == torch.float32
    assert model.config.num_hidden_layers == 12
    assert model.config.implementation == "auto"
    assert all(torch.isfinite(p).all() for p in model.parameters())


def sample() -> list[tuple[str, str, float]]:
    """The pairs in the sentence encoder's card with the cosines it gives there."""
    found = re.findall(r"^\| (.+?) \| (.+?) \| (-?0\.\d\d\d) \|$", card("sentence"), re.MULTILINE)
    return [(first, second, float(cosine)) for first, second, cosine in found]


@pytest.mark.parametrize("implementation", ["reference", "torch", "auto"])
def test_cosines_of_the_card_s_sample(implementation):
    pairs = sample()
    assert len(pairs) >= 6
    vectors, _ = embed([text for *pair, _ in pairs for text in pair], implementation)
    found = (vectors[0::2] * vectors[1::2]).sum(1)
    expected = torch.tensor([cosine for *_, cosine in pairs])
    torch.testing.assert_close(found, expected, atol=6e-4, rtol=0)  # written with three digits


def test_a_query_finds_the_sentence_that_means_the_same():
    """Sentences and queries written for this test; no word of a query is in its sentence."""
    texts = [
        "The doctor gave the child some medicine.",
        "Heavy rain flooded the streets of the town.",
        "She bought a new car last week.",
        "The orchestra played a symphony.",
        "He was hungry, so he cooked some pasta.",
    ]
    queries = ["music at a concert", "a storm and too much water", "preparing a meal in a kitchen"]
    vectors, _ = embed(texts + queries, "auto")
    nearest = (vectors[len(texts) :] @ vectors[: len(texts)].T).argmax(1)
    assert nearest.tolist() == [3, 1, 4]


def test_sentiment_pipeline():
    classify = pipeline("text-classification", model=str(shipped_model("sst2")))
    good, bad = classify(["a wonderful , moving film .", "a dull , stupid mess ."])
    assert (good["label"], bad["label"]) == ("positive", "negative")


@pytest.mark.parametrize("name", NAMES)
def test_depth_neither_collapsed_nor_saturated(name):
    figures = held_out(name)
    assert 0.25 * 12 <= figures["depth_all"] <= 0.65 * 12
    assert figures["depth_deviation"] >= 1.5
    assert figures["depth_all"] == pytest.approx(
        stated(name, "mean iterations a token (of at most 12)"), abs=0.02
    )


def test_engine_and_reference_agree_on_the_project_s_texts():
    lines = (ROOT / "tests" / "fixtures" / "text" / "harbour.txt").read_text().splitlines()
    texts = [line for line in lines if line.strip()]
    (loop, loop_depths), (engine, depths) = (embed(texts, name) for name in ("reference", "auto"))
    assert torch.equal(depths, loop_depths)
    torch.testing.assert_close(engine, loop, atol=1e-5, rtol=0)
    half, _ = embed(texts, "auto", torch.bfloat16)
    assert (half * loop).sum(1).min() > 0.99


def sentiment(dtype: torch.dtype = torch.float32, quantization: str | None = None, **settings):
    """`sst2` on a task's data, the plain loop and the engine; on the committed reviews if not said
    otherwise."""
    folder = shipped_model("sst2")
    model = AlbertActForSequenceClassification.from_pretrained(folder).to(dtype)
    model.quantize(quantization)
    settings = {"data": REVIEWS, "implementation": "auto"} | settings
    return compare(model, load_tokenizer(folder), "sst-2", **settings)


@pytest.mark.parametrize("implementation", ["torch", "auto"])
def test_sentiment_of_the_committed_reviews(implementation):
    """As many right as the card says, and on average as many iterations."""
    found = sentiment(implementation=implementation)
    examples = read_examples(get_task("sst-2"), REVIEWS)
    right = [a == e.label for a, e in zip(found.engine.predictions, examples, strict=True)]
    written = re.search(
        r"(\d+) of the (\d+) reviews are right, with a mean of ([\d.]+) iterations", card("sst2")
    )
    assert (sum(right), len(right)) == (int(written[1]), int(written[2]))
    assert (found.differing_predictions, found.differing_depths) == ([], 0)
    assert round(found.engine.mean_depth, 2) == float(written[3])


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [(torch.float32, None), (torch.bfloat16, None), (torch.float32, "int8")],
)
def test_sts_b_on_the_dev_set_and_parity(dtype, quantization):
    folder = shipped_model("sentence")
    model = AlbertActModel.from_pretrained(folder).to(dtype)
    model.quantize(quantization)
    found = compare(model, load_tokenizer(folder), "sts-b", Path(DATA) / "glue")
    assert found.engine.examples == 1500
    row = "STS-B dev, Spearman of cosine and score, without fine-tuning"
    if dtype == torch.float32 and quantization is None:
        assert (found.differing_predictions, found.differing_depths) == ([], 0)
        assert round(found.engine.metrics["spearman"], 1) == stated("sentence", row)
    assert abs(found.engine.metrics["spearman"] - stated("sentence", row)) <= 0.5


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("implementation", ["auto", "torch"])
def test_accuracy_on_the_dev_set_and_parity(implementation):
    """All 872 sentences; predictions and iterations the same in the reference and the engine."""
    found = sentiment(data=Path(DATA) / "glue", implementation=implementation)
    assert found.reference.examples == 872
    assert (found.differing_predictions, found.differing_depths) == ([], 0)
    assert round(found.engine.metrics["accuracy"], 1) == stated("sst2", "accuracy")
    depth = stated("sst2", "mean iterations a token (of at most 12)")
    assert found.engine.mean_depth == pytest.approx(depth, abs=0.005)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(
    ("dtype", "quantization"), [(torch.bfloat16, None), (torch.float32, "int8")]
)
def test_accuracy_on_the_dev_set_in_bfloat16_and_int8(dtype, quantization):
    found = sentiment(dtype, quantization, data=Path(DATA) / "glue")
    assert abs(found.engine.metrics["accuracy"] - stated("sst2", "accuracy")) <= 0.5
