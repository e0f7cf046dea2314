"""Where a test needs the kernels interpreted, it asks for the fixture; and graphs without a GPU."""

from __future__ import annotations

import pytest
from support import cuda_on_cpu

from albert_act_fast.engine.gpu import graphs, iterations
from albert_act_fast.engine.gpu.graphs import LayerGraphs
from albert_act_fast.ops import triton_ops


@pytest.fixture
def interpreted() -> None:
    if not triton_ops.interpreted():
        pytest.skip("Triton does not interpret kernels in this process; `make interpret` does")


@pytest.fixture(autouse=True)
def halting_step(request, monkeypatch) -> str:
    """Whose the engine takes: Triton's, where no test asks for CUDA's as `BOTH_HALTING_STEPS` does;
    on a GPU what the engine chooses."""
    name = getattr(request, "param", "triton")
    if name == "cuda" and not cuda_on_cpu.asked_for():
        pytest.skip(
            "the CUDA kernels do not run on the CPU in this process; `make interpret` does it"
        )
    if name == "cuda" and cuda_on_cpu.why_not() is not None:
        pytest.skip(cuda_on_cpu.why_not())
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr(iterations, "whose_halting_step", lambda layer: name)
    return name


@pytest.fixture
def copies(monkeypatch):
    """Instead of iterating, every row's result is itself plus the weights' first number."""

    def launch_all(layer, buffers, limits, counts):
        buffers.out.copy_(buffers.hidden[0] + layer.query[0][0, 0])
        buffers.n_updates.fill_(limits.max_iterations)

    monkeypatch.setattr(graphs, "launch_all", launch_all)


@pytest.fixture
def captured():
    """LayerGraphs, and the devices that captures were made on."""
    made = []

    def capture(launch, device):
        made.append(device)
        launch()
        return launch

    return LayerGraphs(capture), made
