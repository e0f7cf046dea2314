"""What a row says of the machine it was measured on, and what that machine can do at best."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Callable, Collection
from importlib import metadata
from pathlib import Path

import torch
from torch.nn import functional as F

from albert_act_fast import native
from suite.inputs import ROOT
from suite.timing import MACHINE_CLOCK, Clock

PACKAGES = ("torch", "transformers", "triton", "onnxruntime", "openvino", "nncf", "flash-attn")
# Rows, inputs, outputs: the shapes of a large batch's feed-forward block, and a square one.
PEAK_SHAPES = ((1024, 768, 3072), (1024, 3072, 768), (2048, 2048, 2048))
PEAK_SECONDS = 0.1


def facts(device: str) -> dict:
    """Machine, versions and commit: the same in every row of a run."""
    return {
        "machine": processor() if device == "cpu" else torch.cuda.get_device_name(device),
        "device": device,
        "threads": torch.get_num_threads(),
        "instruction_set": native.instruction_set(),
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := installed(name))},
    }


def processor() -> str:
    """The processor's own name for itself, the architecture's where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """Abbreviated, with "+" where the sources differ from it; "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        sources = ("albert_act_fast", "kernels", "csrc", "benchmarks/suite")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *sources)
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def product_peaks(device: str, dtypes: Collection[str]) -> dict[str, float]:
    """Operations a second of the best matrix product found, for each of these dtypes: the best of
    several shapes and ways, each run for a while; what a product inside a model can be held
    against. int8 has one on the CPU alone."""
    return {
        dtype: max(best(PEAK_SHAPES, device))
        for dtype, best in (
            ("float32", _float_products(torch.float32)),
            ("bfloat16", _float_products(torch.bfloat16)),
            ("int8", _int8_products),
        )
        if dtype in dtypes and not (device != "cpu" and dtype == "int8")
    }


def _float_products(dtype: torch.dtype) -> Callable:
    def best(shapes, device):
        for rows, inputs, outputs in shapes:
            x = torch.randn(rows, inputs, device=device).to(dtype)
            weight = torch.randn(outputs, inputs, device=device).to(dtype)
            flop = 2 * rows * inputs * outputs
            yield flop / shortest(lambda x=x, weight=weight: F.linear(x, weight), device)
            if device == "cpu" and _onednn_takes(dtype):
                packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
                yield flop / shortest(functools.partial(_onednn, x, packed), device)

    return best


def _onednn_takes(dtype: torch.dtype) -> bool:
    """Of bfloat16 it has products only where the processor has instructions that they need."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _onednn(x: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _int8_products(shapes, device):
    """oneDNN's, of unsigned rows and signed weights."""
    for rows, inputs, outputs in shapes:
        x = torch.randint(0, 255, (rows, inputs), dtype=torch.uint8)
        weight = torch.randint(-127, 127, (outputs, inputs), dtype=torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(weight, [rows, inputs])
        scales, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)

        def product(x=x, packed=packed, scales=scales, zeros=zeros):
            torch.ops.onednn.qlinear_pointwise(
                x, 1.0, 3, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
            )

        yield 2 * rows * inputs * outputs / shortest(product, device)


def copy_bandwidth(bytes_moved: int, device: str) -> float:
    """Bytes a second, read and written, of a copy that moves as many bytes as asked for: small
    ones stay in the caches, as the operators' operands do."""
    source = torch.ones(max(1, bytes_moved // 8), device=device)
    target = torch.empty_like(source)
    return 8 * source.numel() / shortest(lambda: target.copy_(source), device)


def shortest(call: Callable, device: str, clock: Clock = MACHINE_CLOCK) -> float:
    """Seconds of the fastest of the calls that fit into a while; of one call at least, however
    long this process is kept waiting."""
    synchronize = synchronizer(device)
    call()
    synchronize()
    best, start = float("inf"), clock.now()
    end = start + PEAK_SECONDS
    while start < end:
        call()
        synchronize()
        before, start = start, clock.now()
        best = min(best, start - before)
    return best


def synchronizer(device: str) -> Callable[[], None]:
    """Waits for the device; nothing to wait for on a CPU."""
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None
