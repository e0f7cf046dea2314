"""Where a test needs the kernels interpreted, it asks for the fixture."""

from __future__ import annotations

import pytest

from albert_act_fast.ops import triton_ops


@pytest.fixture
def interpreted() -> None:
    if not triton_ops.interpreted():
        pytest.skip("Triton does not interpret kernels in this process; `make interpret` does")
