"""What the GPU engine should take on GPUs, from published peaks: a prediction, nothing measured.

    make predictions        # writes docs/gpu_predictions.md

Every kernel of every iteration takes the longest of: its arithmetic, tile by tile as the launch
tables cut it and as many tiles at a time as there are multiprocessors; its activations through
memory; its weights through the L2 cache; and a least time. Needs no GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from albert_act_fast.engine.gpu.graphs import capacity_of
from albert_act_fast.kernels import launch_tables
from suite.calibration import LOGIT_SPREAD, PUBLISHED_DEPTHS

DOCUMENT = Path(__file__).parents[1] / "docs" / "gpu_predictions.md"
HIDDEN, INNER, HEADS, LENGTH, ELEMENT = 768, 3072, 12, 128, 2
ITERATIONS = {"tiny": 6, "small": 12, "base": 24}
BATCHES = (1, 8, 32, 128)
# In pre-training text of 128 tokens: 15 % are chosen, 80 % of those masked.
MASKED = round((LENGTH - 2) * 0.15 * 0.8)
TOKENS = {"[CLS]": 1, "[SEP]": 1, "[MASK]": MASKED, "unmasked": LENGTH - 2 - MASKED}


@dataclass(frozen=True)
class Gpu:
    """Published peaks. flops: dense bfloat16 per second; memory: bytes per second."""

    architecture: str
    flops: float
    memory: float
    multiprocessors: int


# NVIDIA's data sheets of the SXM modules (A100: of 80 GB).
GPUS = {
    "A100": Gpu("sm_80", 312e12, 2.039e12, 108),
    "H100": Gpu("sm_90", 989e12, 3.35e12, 132),
}
# Assumptions. Parts of the peaks that our kernels, and a library's products, reach; bytes per
# second of the L2 cache (5120 bytes a clock, from NVIDIA's paper on the A100's architecture, at
# 1.4 GHz); the least time of a kernel in a graph, of one that leaves at once, and of a step of a
# product's loop, in seconds.
OUR_SHARE, LIBRARY_SHARE, MEMORY_SHARE = 0.6, 0.75, 0.8
L2 = 7.2e12
LEAST, LEAVING, STEP = 3e-6, 1.5e-6, 0.25e-6


@dataclass(frozen=True)
class Kernel:
    """One launch. rounds: of tiles, one after the other on a multiprocessor; steps: of a tile."""

    name: str
    flops: float = 0.0
    activations: float = 0.0
    weights: float = 0.0
    tile_flops: float = 0.0
    tiles: int = 0
    steps: int = 0

    def seconds(self, gpu: Gpu) -> float:
        rounds = math.ceil(self.tiles / gpu.multiprocessors)
        tile = self.tile_flops * gpu.multiprocessors / (gpu.flops * OUR_SHARE)
        return max(
            LEAST,
            rounds * max(tile, self.steps * STEP),
            self.activations / (gpu.memory * MEMORY_SHARE),
            self.weights / (L2 * MEMORY_SHARE),
        )


@dataclass(frozen=True)
class Prediction:
    seconds: float
    flops: float
    bytes: float
    launches: int


def running_rows(size: str, sequences: int) -> list[int]:
    """Rows of each iteration up to the last in which one is running: every class of tokens has its
    published mean depth, spread as in `calibration`."""
    rows = []
    for iteration in range(1, ITERATIONS[size] + 1):
        of_one = sum(
            count * _share_running(PUBLISHED_DEPTHS[size][name], iteration)
            for name, count in TOKENS.items()
        )
        rows.append(min(round(of_one * sequences), sequences * LENGTH))
    return [n for n in rows if n]


def _share_running(mean: float, iteration: int) -> float:
    """Share of tokens whose depth, the next integer above a log-normal x, is at least this."""
    if iteration == 1:
        return 1.0
    median = (mean - 0.5) * math.exp(-(LOGIT_SPREAD**2) / 2)
    z = math.log((iteration - 1) / median) / LOGIT_SPREAD
    return 0.5 * math.erfc(z / math.sqrt(2))


def iteration_kernels(
    rows: int, moved: int, capacity: int, sequences: int, architecture: str
) -> Iterator[Kernel]:
    """The eight launches of an iteration with `rows` running, in a graph of that capacity."""
    yield _product("project_qkv", [rows, moved, moved], HIDDEN, HIDDEN, capacity, architecture)
    tile = launch_tables.attention(HIDDEN // HEADS, ELEMENT, relative=False)
    blocks = min(rows, sequences * math.ceil(math.ceil(rows / sequences) / tile.BLOCK_Q))
    per_block = 4 * tile.BLOCK_Q * LENGTH * (HIDDEN // HEADS)
    yield Kernel(
        "ragged_attention",
        flops=4.0 * rows * LENGTH * HIDDEN,
        activations=(2.0 * rows + 2 * LENGTH * min(sequences, rows)) * HIDDEN * ELEMENT,
        tile_flops=per_block,
        tiles=blocks * HEADS,
        steps=2 * math.ceil(LENGTH / tile.BLOCK_K),
    )
    yield _product("linear", [rows], HIDDEN, HIDDEN, capacity, architecture)
    yield Kernel("add_layer_norm", activations=3.0 * rows * HIDDEN * ELEMENT)
    yield _product("linear", [rows], HIDDEN, INNER, capacity, architecture)
    # With the residual.
    yield _product("linear", [rows], INNER, HIDDEN, capacity, architecture, extra_rows=rows)
    yield Kernel("decide", activations=1.0 * rows * HIDDEN * ELEMENT)
    # The rows that halt are written twice.
    yield Kernel("move", activations=(3.0 * rows + (moved - rows)) * HIDDEN * ELEMENT)


def _product(
    name: str,
    rows: list[int],
    depth: int,
    columns: int,
    capacity: int,
    architecture: str,
    extra_rows: int = 0,
) -> Kernel:
    """Products of so many rows each, in one launch, which reads so many rows of `columns` more."""
    tiles = launch_tables.products(architecture, capacity, ELEMENT)
    block_m, block_n, block_k = tiles.BLOCK_M, tiles.BLOCK_N, tiles.BLOCK_K
    if max(rows) <= tiles.FEW_ROWS:
        block_m, block_n, block_k = tiles.FEW_M, tiles.FEW_N, tiles.FEW_K
    total = sum(rows)
    return Kernel(
        name,
        flops=2.0 * total * depth * columns,
        activations=((total + extra_rows) * columns + max(rows) * depth) * ELEMENT,
        weights=math.ceil(max(rows) / block_m) * len(rows) * depth * columns * ELEMENT,
        tile_flops=2.0 * block_m * block_n * depth,
        tiles=sum(math.ceil(n / block_m) for n in rows) * math.ceil(columns / block_n),
        steps=math.ceil(depth / block_k),
    )


def predict(size: str, sequences: int, gpu: Gpu, *, dropping: bool) -> Prediction:
    """The iterations of one batch of 128 tokens a sequence, bfloat16, in one graph; embeddings,
    input checks and pooler are not in it."""
    tokens, limit = sequences * LENGTH, ITERATIONS[size]
    counts = running_rows(size, sequences) if dropping else [tokens] * limit
    capacity = capacity_of(tokens, sequences).rows
    seconds = flops = moved_bytes = 0.0
    moved = tokens
    for rows in counts:
        for kernel in iteration_kernels(rows, moved, capacity, sequences, gpu.architecture):
            seconds += kernel.seconds(gpu)
            flops += kernel.flops
            moved_bytes += kernel.activations + kernel.weights
        moved = rows
    # A graph launches all iterations the model may take.
    seconds += (limit - len(counts)) * 8 * LEAVING
    return Prediction(seconds, flops, moved_bytes, 8 * limit)


def dense_library(size: str, sequences: int, gpu: Gpu) -> Prediction:
    """A dense ALBERT of as many layers on a library's products and fused attention: the best case,
    a fixed share of the peak or of the memory's bandwidth and the least time for each kernel."""
    tokens = sequences * LENGTH
    layer = 2.0 * tokens * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)
    layer += 4.0 * tokens * LENGTH * HIDDEN
    # Eight kernels too, which read and write so many rows of the hidden size for each token: the
    # product for q, k and v; attention; its output; LayerNorm; ffn; activation; ffn_output;
    # LayerNorm.
    passes = tokens * (4 + 4 + 2 + 3 + 5 + 8 + 5 + 3) * HIDDEN * ELEMENT
    seconds = max(
        8 * LEAST,
        layer / (gpu.flops * LIBRARY_SHARE) + passes / (gpu.memory * MEMORY_SHARE),
    )
    limit = ITERATIONS[size]
    return Prediction(limit * seconds, limit * layer, limit * passes, 8 * limit)


HEAD = f"""# The GPU engine's time, predicted

**A prediction.** Nothing here was measured: the engine has not yet been run on a GPU. Every figure
follows from published peaks, the launch tables and the assumptions below;
`benchmarks/cost_model.py` computes it and `make predictions` writes this file.

All iterations of one batch, {LENGTH} tokens a sequence without padding, bfloat16, published
depths, milliseconds. *dropping*: the engine as it is. *all rows*: the same engine if no token
halted. *dense library*: fixed depth, on a library's products at {LIBRARY_SHARE:.0%} of the peak
with nothing lost to tiles. *rows saved* is the ceiling for what dropping can give; what is lost
between it and the ratio of times goes to tiles that are not full, to kernels that take their least
time, and to keys and values of rows that just halted.

Assumed: our products reach {OUR_SHARE:.0%} of the matrix peak, memory and L2 {MEMORY_SHARE:.0%} of
theirs; a kernel in a graph takes {LEAST * 1e6:.0f} us at least and {LEAVING * 1e6:.1f} us if it has
nothing to do; a step of a product's loop {STEP * 1e6:.2f} us.
"""


def document() -> str:
    lines = [HEAD]
    for name, gpu in GPUS.items():
        lines += [
            f"## {name}, predicted",
            "",
            f"{gpu.flops / 1e12:.0f} TFLOP/s, {gpu.memory / 1e12:.2f} TB/s, "
            f"{gpu.multiprocessors} multiprocessors.",
            "",
            "| model | batch | dropping | all rows | all rows / dropping | rows saved |"
            " dense library | dense library / dropping | GFLOP | launches |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for size, limit in ITERATIONS.items():
            for batch in BATCHES:
                with_, without = (predict(size, batch, gpu, dropping=x) for x in (True, False))
                library = dense_library(size, batch, gpu)
                saved = batch * LENGTH * limit / sum(running_rows(size, batch))
                lines.append(
                    f"| {size} | {batch} | {with_.seconds * 1e3:.2f} | {without.seconds * 1e3:.2f}"
                    f" | {without.seconds / with_.seconds:.2f}x | {saved:.2f}x"
                    f" | {library.seconds * 1e3:.2f} | {library.seconds / with_.seconds:.2f}x"
                    f" | {with_.flops / 1e9:.0f} | {with_.launches} |"
                )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
    print(f"wrote {DOCUMENT}")
