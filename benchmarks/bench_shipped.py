"""The shipped sentiment model at the depths it was trained to, engine against reference loop."""

from __future__ import annotations

import pytest
import torch
from inputs import data_folder, own_text, padded_batch, real_sentences
from interleaved import compare

from albert_act_fast import AlbertActForSequenceClassification, implementations, shipped_model

ENGINES = [name for name in implementations.IMPLEMENTATIONS if name != "reference"]


@pytest.mark.parametrize("engine", ENGINES)
def test_shipped_model(benchmark, report, engine):
    if (reason := implementations.availability("cpu")[engine]) is not None:
        pytest.skip(reason)
    sentences = [line for line in own_text().splitlines() if len(line) > 20][:32]
    if data_folder() is not None:
        sentences = real_sentences(32)
    input_ids, attention_mask = padded_batch(sentences)
    model = AlbertActForSequenceClassification.from_pretrained(shipped_model("sst2")).eval()

    def run(implementation):
        return model(input_ids, attention_mask, implementation=implementation)

    with torch.inference_mode():
        reference, result = run("reference"), run(engine)
        assert torch.equal(result.n_updates, reference.n_updates)
        torch.testing.assert_close(result.logits, reference.logits, rtol=0, atol=1e-5)
        comparison = compare(benchmark, lambda: run("reference"), lambda: run(engine), rounds=15)
    depth = reference.n_updates
    report(
        benchmark,
        case="shipped sst2, 32 sentences",
        engine=f"{engine}, float32",
        comparison=comparison,
        rows_saved=depth.numel() * depth.max().item() / depth.sum().item(),
        depth=depth[attention_mask.bool()].mean().item(),
    )
