"""The engine against the reference loop, ALBERT-base size, at the published model's depths."""

from __future__ import annotations

import pytest
import torch
from calibration import calibrated_model, token_classes
from inputs import DATA_VARIABLE, data_folder, padded_batch, pretraining_batch, real_sentences
from interleaved import compare

from albert_act_fast import implementations

CASES = {
    "8 x 128, unpadded": lambda: pretraining_batch(8, 128),
    "1 x 128, unpadded": lambda: pretraining_batch(1, 128),
    "1 x 16, unpadded": lambda: pretraining_batch(1, 16),
    "32 real sentences, padded": lambda: padded_batch(real_sentences(32)),
}
ENGINES = [name for name in implementations.IMPLEMENTATIONS if name != "reference"]


@pytest.fixture(scope="module")
def model():
    return calibrated_model("base", *pretraining_batch(8, 128))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_encoder(benchmark, report, model, case, engine):
    if (reason := implementations.availability("cpu")[engine]) is not None:
        pytest.skip(reason)
    if "real" in case and data_folder() is None:
        pytest.skip(f"{DATA_VARIABLE} is not set")
    input_ids, attention_mask = CASES[case]()

    with torch.inference_mode():
        reference = model(input_ids, attention_mask, implementation="reference")
        result = model(input_ids, attention_mask, implementation=engine)
        # A wrong result is not worth timing.
        torch.testing.assert_close(
            result.last_hidden_state, reference.last_hidden_state, rtol=0, atol=1e-5
        )
        assert torch.equal(result.n_updates, reference.n_updates)
        comparison = compare(
            benchmark,
            lambda: model(input_ids, attention_mask, implementation="reference"),
            lambda: model(input_ids, attention_mask, implementation=engine),
            rounds=9,
        )

    depth = reference.n_updates
    dense_rows = depth.numel() * depth.max().item()
    report(
        benchmark,
        case=case,
        engine=engine,
        comparison=comparison,
        rows_saved=dense_rows / depth.sum().item(),
        depth=depth[attention_mask.bool()].mean().item(),
        depth_by_class={
            name: round(depth[where].mean().item(), 1)
            for name, where in token_classes(input_ids, attention_mask).items()
            if where.any()
        },
    )
