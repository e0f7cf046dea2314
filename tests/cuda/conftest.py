"""Where a test needs the kernels on the CPU, it asks for the fixture."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support import cuda_on_cpu


@pytest.fixture
def schedule() -> Callable[[int, int], None]:
    """Sets the seed of the order of threads, and how many blocks run at a time."""
    if not cuda_on_cpu.asked_for():
        pytest.skip("CUDA kernels do not run on the CPU in this process; `make simulate` does that")
    reason = cuda_on_cpu.why_not()
    if reason is not None:
        pytest.skip(reason)
    return cuda_on_cpu.install().simt_schedule
