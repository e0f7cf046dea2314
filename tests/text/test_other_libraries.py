"""sentence-transformers, datasets and transformers' pipelines on our models."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from albert_act_fast import TextEncoder, shipped_model

TEXTS = [
    "Call me Ishmael.",
    "so",
    "It was the best of times, it was the worst of times.",
    "He said no more, and went.",
]


@pytest.fixture(scope="module")
def shipped() -> TextEncoder:
    return TextEncoder.from_pretrained("sentence")


class TestSentenceTransformers:
    @pytest.fixture(autouse=True)
    def _library(self):
        pytest.importorskip("sentence_transformers")

    @pytest.mark.parametrize("module", ["its own", "ours"])
    def test_embeddings_are_the_encoder_s(self, shipped, module):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        from albert_act_fast.text.sentence_transformers import AlbertActTransformer

        module_class = Transformer if module == "its own" else AlbertActTransformer
        transformer = module_class(str(shipped_model("sentence")))
        model = SentenceTransformer(modules=[transformer, Pooling(384, "mean")], device="cpu")
        np.testing.assert_allclose(model.encode(TEXTS), shipped.encode(TEXTS), atol=2e-5)
        # The engine, not the dense loop.
        with torch.inference_mode():
            explanation = transformer.model.eval().explain_implementation()
        assert not explanation.startswith("reference"), explanation

    def test_a_saved_folder_loads_without_our_name(self, shipped, tmp_path):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        from albert_act_fast.text.sentence_transformers import AlbertActTransformer

        transformer = AlbertActTransformer(str(shipped_model("sentence")))
        SentenceTransformer(modules=[transformer, Pooling(384, "mean")]).save(str(tmp_path / "st"))
        code = (
            "import json, sys\n"
            "from sentence_transformers import SentenceTransformer\n"
            "model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device='cpu')\n"
            "print(json.dumps(model.encode(json.loads(sys.argv[2])).tolist()))\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "st"), json.dumps(TEXTS)],
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        assert result.returncode == 0, result.stderr
        found = np.array(json.loads(result.stdout.splitlines()[-1]), np.float32)
        np.testing.assert_allclose(found, shipped.encode(TEXTS), atol=2e-5)


class TestDatasets:
    @pytest.fixture
    def rows(self):
        datasets = pytest.importorskip("datasets")
        return datasets.Dataset.from_dict({"text": TEXTS * 3, "id": list(range(12))})

    @pytest.mark.parametrize("options", [{"batched": True, "batch_size": 5}, {"batched": False}])
    def test_map(self, shipped, rows, options):
        found = rows.map(shipped, **options)
        assert found.column_names == ["text", "id", "embedding"]
        expected = shipped.encode(TEXTS * 3)
        np.testing.assert_allclose(np.array(found["embedding"][:]), expected, atol=2e-5)

    def test_map_in_several_processes(self, shipped, rows):
        found = rows.map(shipped, batched=True, batch_size=3, num_proc=2)
        expected = shipped.encode(TEXTS * 3)
        np.testing.assert_allclose(np.array(found["embedding"][:]), expected, atol=2e-5)

    def test_columns_and_settings(self, shipped, rows):
        options = {"column": "body", "output_column": "row", "pooling": "cls"}
        found = rows.rename_column("text", "body").map(shipped, batched=True, fn_kwargs=options)
        expected = shipped.encode(TEXTS * 3, pooling="cls")
        np.testing.assert_allclose(np.array(found["row"][:]), expected, atol=2e-5)
        with pytest.raises(ValueError, match="column: got 'body', expected one of text, id"):
            shipped(rows[:2], column="body")

    def test_a_column_as_texts(self, shipped, rows):
        np.testing.assert_array_equal(shipped.encode(rows["text"]), shipped.encode(TEXTS * 3))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_pipelines_give_the_same(batch_size):
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(shipped_model("sst2")), device="cpu")
    found = classify(TEXTS, batch_size=batch_size)
    encoder = TextEncoder.from_pretrained("sst2")
    for theirs, ours in zip(found, encoder.classify(TEXTS), strict=True):
        assert theirs["label"] == ours.label
        assert theirs["score"] == pytest.approx(ours.score, abs=2e-5)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_data_loader_s_workers_encode(shipped, method):
    """As docs/text.md has it. Forked workers compute with one thread, and say so."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    expected = shipped.encode(TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = DataLoader(
            TEXTS,
            batch_size=2,
            num_workers=2,
            collate_fn=shipped.encode,
            multiprocessing_context=method,
        )
        found = np.concatenate(list(loader))
    np.testing.assert_allclose(found, expected, atol=1e-5)
