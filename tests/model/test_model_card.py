"""The snippet of the published model card, its import line changed and nothing else."""

from __future__ import annotations

import pytest
from huggingface_hub import try_to_load_from_cache

from albert_act_fast.shipped import shipped_model

SNIPPET = """
from albert_act_fast import AlbertActConfig, AlbertActModel, TFAlbertActModel
from transformers import AlbertTokenizer

tokenizer = AlbertTokenizer.from_pretrained('asi/albert-act-base')
model = AlbertActModel.from_pretrained('asi/albert-act-base')
_ = model.eval()

inputs = tokenizer("a lump in the middle of the monkeys stirred and then fell quiet .", return_tensors="pt")
outputs = model(**inputs)
outputs.updates
"""  # noqa: E501


def run(source: str) -> dict:
    here: dict = {}
    exec(SNIPPET.replace("asi/albert-act-base", source), here)
    return here


def test_with_a_shipped_model():
    found = run(str(shipped_model("sst2")))
    count = found["inputs"]["input_ids"].shape[1]
    updates = found["outputs"].updates
    assert updates.shape == (1, 1, 1, count)
    assert 1 <= updates.min() <= updates.max() <= found["model"].config.num_hidden_layers
    assert found["outputs"].last_hidden_state.shape == (1, count, 192)


def test_with_the_published_one():
    # Asked of the cache alone: without a network the hub's client would try for minutes.
    for file in ("config.json", "spiece.model"):
        if not isinstance(try_to_load_from_cache("asi/albert-act-base", file), str):
            pytest.skip(f"asi/albert-act-base is not in the hub's cache (no {file})")
    updates = run("asi/albert-act-base")["outputs"].updates
    assert updates.tolist() == [[[[15, 9, 10, 7, 3, 8, 5, 7, 12, 10, 6, 8, 8, 9, 5, 8]]]]
