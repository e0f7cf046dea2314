"""The engine against the reference loop, ALBERT-base size, at the published model's depths."""

from __future__ import annotations

import copy

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


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def models():
    model = calibrated_model("base", *pretraining_batch(8, 128))
    return {name: copy.deepcopy(model).to(dtype) for name, dtype in DTYPES.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_encoder(benchmark, report, models, case, engine, dtype):
    """The baseline is the reference loop in float32, whatever the engine's dtype."""
    if (reason := implementations.availability("cpu")[engine]) is not None:
        pytest.skip(reason)
    if "real" in case and data_folder() is None:
        pytest.skip(f"{DATA_VARIABLE} is not set")
    input_ids, attention_mask = CASES[case]()

    def run(implementation, dtype):
        return models[dtype](input_ids, attention_mask, implementation=implementation)

    with torch.inference_mode():
        reference, result = run("reference", "float32"), run(engine, dtype)
        # A wrong result is not worth timing.
        error, flips = difference(result, reference, attention_mask)
        if dtype == "float32":
            assert error < 1e-5
            assert flips == 0
        else:
            plain_error, plain_flips = difference(
                run("reference", dtype), reference, attention_mask
            )
            assert error <= 2 * plain_error
            assert flips <= 2 * plain_flips + 0.01
        comparison = compare(
            benchmark,
            lambda: run("reference", "float32"),
            lambda: run(engine, dtype),
            rounds=9,
        )

    depth = reference.n_updates
    dense_rows = depth.numel() * depth.max().item()
    report(
        benchmark,
        case=case,
        engine=f"{engine}, {dtype}",
        comparison=comparison,
        rows_saved=dense_rows / depth.sum().item(),
        depth=depth[attention_mask.bool()].mean().item(),
        error=error,
        differing_depths=flips,
        depth_by_class={
            name: round(depth[where].mean().item(), 1)
            for name, where in token_classes(input_ids, attention_mask).items()
            if where.any()
        },
    )


def difference(result, reference, attention_mask) -> tuple[float, float]:
    """Root mean square error of the states, and the share of tokens whose depths differ."""
    token = attention_mask.bool()
    error = (result.last_hidden_state - reference.last_hidden_state)[token].float()
    flips = (result.n_updates != reference.n_updates)[token].float()
    return error.square().mean().sqrt().item(), flips.mean().item()
