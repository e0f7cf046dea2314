"""The same cases under pytest-benchmark, for its statistics and its options.

    pytest benchmarks --benchmark-only -k "base and 8 and cpp"

Each variant is checked first, but timed alone: for speed-ups use `python benchmarks run`, which
times the variants in turn.
"""

from __future__ import annotations

import pytest
import torch

from suite.cases import selected
from suite.gate import Gate
from suite.models import model_folder, model_of
from suite.variants import all_variants

CASES = {case.name: case for name in ("quick", "cpu") for case in selected(name)}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize(
    ("case", "variant"), [(case, name) for case in CASES for name in CASES[case].variants]
)
def test_case(benchmark, folder, case, variant):
    case, variant = CASES[case], all_variants()[variant]
    if (reason := variant.why_not("cpu")) is not None:
        pytest.skip(reason)
    model, batch = model_of(case, folder), case.inputs()
    with torch.no_grad():
        call = variant.prepare(model, batch, model_folder(case, folder))
    with torch.inference_mode():
        Gate(model, batch).check(variant, call())
        benchmark.pedantic(call, rounds=5, warmup_rounds=1)
