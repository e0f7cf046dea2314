"""A small case on the shipped model, whose calibration costs nothing."""

from __future__ import annotations

import pytest

from suite.cases import BASELINE, Case
from suite.runner import Runner
from suite.timing import MACHINE_CLOCK


@pytest.fixture(scope="session")
def small_case() -> Case:
    return Case("shipped", "mixed", 3, 20, variants=(BASELINE, "torch float32"), seconds=0.2)


@pytest.fixture
def run(tmp_path, small_case):
    """Runs a case with the variants given, and returns the runner and the rows."""

    def run_with(variants, case=small_case, clock=MACHINE_CLOCK):
        rows = []
        runner = Runner(tmp_path, rows.append, variants=variants, memory=False, clock=clock)
        runner.run(case)
        return runner, rows

    return run_with
