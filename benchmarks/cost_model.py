"""What the GPU engine should take on GPUs, from published peaks: a prediction, nothing measured.

    make predictions        # writes docs/gpu_predictions.md

Every kernel of every iteration takes the longest of: its arithmetic, tile by tile as the launch
tables cut it and as many tiles at a time as there are multiprocessors; what all tiles read through
the L2 cache, each of them its rows and its weights; its activations through memory, where they do
not stay in L2 from one kernel to the next; the programs past the live rows, which leave; and a
least time. Needs no GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from albert_act_fast.engine.gpu.graphs import Capacity, capacity_of
from albert_act_fast.engine.gpu.iterations import LAUNCHES_PER_ITERATION
from albert_act_fast.kernels import launch_tables
from suite.calibration import LOGIT_SPREAD, PUBLISHED_DEPTHS

DOCUMENT = Path(__file__).parents[1] / "docs" / "gpu_predictions.md"
HIDDEN, INNER, HEADS, LENGTH, ELEMENT = 768, 3072, 12, 128, 2
ITERATIONS = {"tiny": 6, "small": 12, "base": 24}
BATCHES = (1, 8, 32, 128)
# Threads of a multiprocessor; blocks of a group, as in kernels/halting_step.py, which takes Triton.
THREADS, GROUP = 2048, 256
TILE = launch_tables.rows(HIDDEN)
# Of CUDA's halting step at the hidden size: rows of a block; blocks that a multiprocessor's
# registers hold (docs/gpu_kernels.md).
CUDA_ROWS, CUDA_RESIDENT = 8, 2


def tokens_of(length: int) -> dict[str, int]:
    """Tokens of a sequence by class, in pre-training: 15 % are chosen, 80 % of those masked."""
    masked = round((length - 2) * 0.15 * 0.8)
    return {"[CLS]": 1, "[SEP]": 1, "[MASK]": masked, "unmasked": length - 2 - masked}


@dataclass(frozen=True)
class Gpu:
    """Published peaks. flops: dense bfloat16 per second; memory, l2: bytes per second; l2_size,
    shared: bytes, of the cache and of a multiprocessor's shared memory. least: an assumption, the
    seconds that one of our kernels takes at least in a graph, less where launches are dependent."""

    architecture: str
    flops: float
    memory: float
    multiprocessors: int
    l2: float
    l2_size: float
    shared: float
    least: float


# NVIDIA's data sheets of the SXM modules (A100: of 80 GB) and its papers on the architectures. L2:
# 5120 bytes a clock, which NVIDIA says of the A100 and is assumed of the H100, at 1.4 and 1.7 GHz.
GPUS = {
    "A100": Gpu("sm_80", 312e12, 2.039e12, 108, 7.2e12, 40e6, 164e3, 3e-6),
    "H100": Gpu("sm_90", 989e12, 3.35e12, 132, 8.7e12, 50e6, 228e3, 2e-6),
}
# Assumptions. Parts of the peaks that our kernels, and a library's products, reach; the least time
# of a library's kernel in a graph, of one that leaves at once, of a step of a product's loop, of a
# program that leaves, and of a host that waits and is told, in seconds.
OUR_SHARE, LIBRARY_SHARE, MEMORY_SHARE = 0.6, 0.75, 0.8
LEAST, LEAVING, STEP, EXIT, WAIT = 3e-6, 1.5e-6, 0.25e-6, 1e-6, 10e-6
# What a block of CUDA's halting step waits for in turn, each as long as two steps of a product:
# its ticket, its rows, the blocks before it, its mark.
HALTING_STEPS = 4 * 2
# Around the iterations: launches, and how often the host waits.
AROUND = (5, 1)


@dataclass(frozen=True)
class Kernel:
    """One launch. activations: bytes that are read or written once; l2: bytes that all its tiles
    read and write; rounds: of tiles, one after the other on a multiprocessor; steps: of a tile;
    programs: that are launched, live or not; resident: of them on a multiprocessor at a time."""

    name: str
    flops: float = 0.0
    activations: float = 0.0
    l2: float = 0.0
    tile_flops: float = 0.0
    tiles: int = 0
    steps: int = 0
    programs: int = 0
    resident: int = 1

    def seconds(self, gpu: Gpu) -> float:
        # Tiles on one multiprocessor share its matrix units, and wait for memory side by side.
        rounds = math.ceil(self.tiles / gpu.multiprocessors)
        waits = math.ceil(self.tiles / (gpu.multiprocessors * self.resident)) * self.steps
        tile = self.tile_flops * gpu.multiprocessors / (gpu.flops * OUR_SHARE)
        leaving = math.ceil((self.programs - self.tiles) / (gpu.multiprocessors * self.resident))
        return max(
            gpu.least,
            rounds * tile,
            waits * STEP,
            self.activations / (gpu.memory * MEMORY_SHARE)
            if self.activations > gpu.l2_size
            else 0.0,
            max(self.l2, self.activations) / (gpu.l2 * MEMORY_SHARE),
            LEAVING + leaving * EXIT,
        )


@dataclass(frozen=True)
class Prediction:
    seconds: float
    flops: float
    launches: int


def running_rows(size: str, sequences: int, length: int = LENGTH) -> list[int]:
    """Rows of each iteration up to the last in which one is running: every class of tokens has its
    published mean depth, spread as in `calibration`."""
    rows = []
    for iteration in range(1, ITERATIONS[size] + 1):
        of_one = sum(
            count * _share_running(PUBLISHED_DEPTHS[size][name], iteration)
            for name, count in tokens_of(length).items()
        )
        rows.append(min(round(of_one * sequences), sequences * length))
    return [n for n in rows if n]


def _share_running(mean: float, iteration: int) -> float:
    """Share of tokens whose depth, the next integer above a log-normal x, is at least this."""
    if iteration == 1:
        return 1.0
    median = (mean - 0.5) * math.exp(-(LOGIT_SPREAD**2) / 2)
    z = math.log((iteration - 1) / median) / LOGIT_SPREAD
    return 0.5 * math.erfc(z / math.sqrt(2))


def iteration_kernels(
    rows: int,
    moved: int,
    capacity: Capacity,
    gpu: Gpu,
    halting_step: str = "cuda",
    length: int = LENGTH,
) -> Iterator[Kernel]:
    """The launches of an iteration with `rows` running of sequences of that length, in a graph of
    that capacity; with the halting step of that implementation."""
    yield _product("project_qkv", [rows, moved, moved], HIDDEN, HIDDEN, capacity, gpu)
    yield _attention(rows, capacity, length)
    yield _product("linear", [rows], HIDDEN, HIDDEN, capacity, gpu, may_split=True)
    yield _row_by_row("add_layer_norm", rows, 3.0 * rows, capacity)
    yield _product("linear", [rows], HIDDEN, INNER, capacity, gpu)
    # With the residual.
    yield _product("linear", [rows], INNER, HIDDEN, capacity, gpu, extra_rows=rows, may_split=True)
    # The rows that halt are written twice.
    passes = 3.0 * rows + (moved - rows)
    if halting_step == "cuda":
        yield _row_by_row(
            "halting_step", rows, passes, capacity,
            block=CUDA_ROWS, resident=CUDA_RESIDENT, steps=HALTING_STEPS,
        )  # fmt: skip
        return
    yield _row_by_row("decide", rows, 1.0 * rows, capacity)
    # Every program reads the counts of its group of blocks,
    # one of each other group, and a few offsets.
    blocks = launch_tables.blocks(rows, launch_tables.rows(HIDDEN).ROWS)
    counts = blocks * (GROUP + blocks / GROUP) * 4
    yield _row_by_row("move", rows, passes, capacity, more=counts)


def _row_by_row(
    name: str,
    rows: int,
    passes: float,
    capacity: Capacity,
    more: float = 0.0,
    block: int = TILE.ROWS,
    resident: int = THREADS // (32 * TILE.num_warps),
    steps: int = 0,
) -> Kernel:
    """Reads and writes `passes` rows of the hidden size, and `more` bytes; a block or program has
    `block` rows and waits as long as `steps` steps of a product."""
    moved = passes * HIDDEN * ELEMENT
    return Kernel(
        name,
        activations=moved,
        l2=moved + more,
        tiles=launch_tables.blocks(rows, block),
        steps=steps,
        programs=launch_tables.blocks(capacity.rows, block),
        resident=resident,
    )


def _attention(rows: int, capacity: Capacity, length: int) -> Kernel:
    head, sequences = HIDDEN // HEADS, capacity.sequences
    tile = launch_tables.attention(head, ELEMENT, relative=False)
    blocks = min(rows, sequences * math.ceil(math.ceil(rows / sequences) / tile.BLOCK_Q))
    return Kernel(
        "ragged_attention",
        flops=4.0 * rows * length * HIDDEN,
        activations=(2.0 * rows + 2 * length * min(sequences, rows)) * HIDDEN * ELEMENT,
        l2=(2.0 * rows + 2 * length * blocks) * HIDDEN * ELEMENT,
        tile_flops=4 * tile.BLOCK_Q * length * head,
        tiles=blocks * HEADS,
        steps=2 * math.ceil(length / tile.BLOCK_K),
        programs=(capacity.rows // tile.BLOCK_Q + sequences) * HEADS,
        resident=THREADS // (32 * tile.num_warps) // 2,
    )


def _product(
    name: str,
    rows: list[int],
    depth: int,
    columns: int,
    capacity: Capacity,
    gpu: Gpu,
    extra_rows: int = 0,
    may_split: bool = False,
) -> Kernel:
    """Products of so many rows each, in one launch, which reads so many rows of `columns` more. The
    depth may be in parts, whose sums in float32 the last program of a tile reads again."""
    arch, size = gpu.architecture, (ELEMENT, gpu.multiprocessors)
    splits = launch_tables.splits(arch, capacity.rows, depth, columns, *size) if may_split else 1
    wide = None
    if splits == 1:
        # As many programs as multiprocessors, which leave at once or not at all.
        wide = launch_tables.wide_products(arch, capacity.rows, len(rows) * columns, *size)
    ahead = launch_tables.steps_ahead(arch, capacity.rows, depth, ELEMENT, splits)
    tiles = wide or launch_tables.products(arch, capacity.rows, ELEMENT, ahead)
    if splits > 1 or wide:
        name = ("wide_" if wide else "split_") + name
    block_m, block_n, block_k = tiles.BLOCK_M, tiles.BLOCK_N, tiles.BLOCK_K
    # What stands in shared memory at a time: a step of both operands for each stage; or one of the
    # rows and all of the weight.
    step = (block_m + (ahead or 1) * block_n) * block_k
    if tiles.FEW_ROWS:
        step = max(step, (tiles.FEW_M + tiles.FEW_N) * tiles.FEW_K)
    if max(rows) <= tiles.FEW_ROWS:
        block_m, block_n, block_k = tiles.FEW_M, tiles.FEW_N, tiles.FEW_K
    total = sum(rows)
    down, across = sum(math.ceil(n / block_m) for n in rows), math.ceil(columns / block_n)
    written = (total + extra_rows) * columns
    sums = 2 * splits * total * columns * 4 if splits > 1 else 0
    return Kernel(
        name,
        flops=2.0 * total * depth * columns,
        activations=(written + max(rows) * depth) * ELEMENT,
        # Each tile reads its rows and its weights.
        l2=(written + total * depth * across + down * depth * columns) * ELEMENT + sums,
        tile_flops=2.0 * block_m * block_n * depth / splits,
        tiles=splits * down * across,
        steps=math.ceil(depth / block_k / splits) + (splits if splits > 1 else 0),
        programs=0 if wide else splits * len(rows) * tiles.programs(capacity.rows, columns),
        resident=max(1, int(gpu.shared // (step * ELEMENT * tiles.num_stages))),
    )


def predict(
    size: str,
    sequences: int,
    gpu: Gpu,
    *,
    dropping: bool,
    halting_step: str = "cuda",
    length: int = LENGTH,
) -> Prediction:
    """The iterations of one batch of that many tokens a sequence, bfloat16, in one graph;
    embeddings, input checks and pooler are not in it."""
    launches = LAUNCHES_PER_ITERATION[halting_step]
    tokens, limit = sequences * length, ITERATIONS[size]
    counts = running_rows(size, sequences, length) if dropping else [tokens] * limit
    capacity = capacity_of(tokens, sequences)
    seconds = flops = 0.0
    moved = tokens
    for rows in counts:
        for kernel in iteration_kernels(rows, moved, capacity, gpu, halting_step, length):
            seconds += kernel.seconds(gpu)
            flops += kernel.flops
        moved = rows
    # A graph launches all iterations the model may take.
    seconds += (limit - len(counts)) * launches * LEAVING
    return Prediction(seconds, flops, launches * limit)


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
    return Prediction(limit * seconds, limit * layer, 8 * limit)


def around(launches: int, waits: int) -> float:
    """Microseconds."""
    return (launches * LEAST + waits * WAIT) * 1e6


def one_short(name: str) -> str:
    """Milliseconds of one sequence of 16 tokens, base size."""
    return f"{1e3 * predict('base', 1, GPUS[name], dropping=True, length=16).seconds:.2f}"


HEAD = f"""# The GPU engine's time, predicted

**A prediction.** Nothing here was measured: the engine has not yet been run on a GPU. Every figure
follows from published peaks, the launch tables and the assumptions below;
`benchmarks/cost_model.py` computes it and `make predictions` writes this file.

All iterations of one batch, {LENGTH} tokens a sequence without padding, bfloat16, published
depths, milliseconds. *dropping*: the engine as it is, with the halting step in CUDA C++, which
takes nvcc to build. *Triton alone*: without it, eight launches an iteration in place of seven.
*all rows*: the first of these if no token halted. *dense library*: fixed depth, on a library's
products at {LIBRARY_SHARE:.0%} of the peak with nothing lost to tiles. *rows saved* is the ceiling
for what dropping can give; what is lost between it and the ratio of times goes to tiles that are
not full, to kernels that take their least time, and to keys and values of rows that just halted.

Assumed: our products reach {OUR_SHARE:.0%} of the matrix peak, memory and L2 {MEMORY_SHARE:.0%} of
theirs; activations that fit into L2 stay there from one kernel to the next, and every tile reads
its rows and weights through it; a kernel in a graph takes {LEAST * 1e6:.0f} us at least, one of
ours on an H100, where its programs are in place before the kernel before has ended,
{GPUS["H100"].least * 1e6:.0f} us, and {LEAVING * 1e6:.1f} us if it has nothing to do; a step of a
product's loop {STEP * 1e6:.2f} us; a program past the live rows {EXIT * 1e6:.0f} us until it has
left.

Around the iterations, not in the tables: {AROUND[0]} launches and {AROUND[1]} wait of the host,
together {around(*AROUND):.0f} us at {WAIT * 1e6:.0f} us a wait (some 25 launches and 7 waits,
{around(25, 7):.0f} us, where embeddings have to be called).

One sequence of 16 tokens, base size: {one_short("A100")} ms on an A100, {one_short("H100")} on an
H100, nearly all of it kernels' least time.
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
            "| model | batch | dropping | Triton alone | all rows | all rows / dropping |"
            " rows saved | dense library | dense library / dropping | GFLOP | launches |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for size, limit in ITERATIONS.items():
            for batch in BATCHES:
                with_, without = (predict(size, batch, gpu, dropping=x) for x in (True, False))
                alone = predict(size, batch, gpu, dropping=True, halting_step="triton")
                library = dense_library(size, batch, gpu)
                saved = batch * LENGTH * limit / sum(running_rows(size, batch))
                lines.append(
                    f"| {size} | {batch} | {with_.seconds * 1e3:.2f} | {alone.seconds * 1e3:.2f}"
                    f" | {without.seconds * 1e3:.2f}"
                    f" | {without.seconds / with_.seconds:.2f}x | {saved:.2f}x"
                    f" | {library.seconds * 1e3:.2f} | {library.seconds / with_.seconds:.2f}x"
                    f" | {with_.flops / 1e9:.0f} | {with_.launches} |"
                )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
    print(f"wrote {DOCUMENT}")
