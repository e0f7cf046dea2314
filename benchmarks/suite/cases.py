"""What is measured: cases and selections of them, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from suite import inputs, peers
from suite.inputs import Batch

ENGINES = (
    "torch float32",
    "torch bfloat16",
    "cpp float32",
    "cpp bfloat16",
    "cpp int8",
    "triton float32",
    "triton bfloat16",
    "cuda float32",
    "cuda bfloat16",
)
PEERS = ("compiled reference float32", *(peer.name for peer in peers.PEERS))
BASELINE = "reference float32"
OURS = (BASELINE, *ENGINES)
CPP = (BASELINE, "cpp float32", "cpp bfloat16", "cpp int8")


@dataclass(frozen=True)
class Case:
    """One input on one model, and who computes it.

    Args:
        size: "tiny", "small" or "base", random weights with calibrated depths; or "shipped", the
            sentiment model of the package at the depths it was trained to.
        text: "fixed", all sequences of the same length; "mixed", synthetic lengths; or real
            sentences: "sst2", "cola", "wiki", "books", "sentences" (SST-2 and encyclopedia).
        length: tokens of the longest sequence; real sentences have their own.
        depth: None for the published depths; else [CLS] runs all iterations and every other token
            this many on average, which sets how much work halting saves; nothing at the limit.
        variants: names; those that a machine cannot run are skipped with the reason.
        memory: measure peak memory too, each variant in a process of its own.
        seconds: the timing may take about this long.
        rounds: but there are at least so many.
    """

    size: str
    text: str
    batch: int
    length: int = 0
    depth: float | None = None
    variants: tuple[str, ...] = OURS
    memory: bool = False
    seconds: float = 20.0
    rounds: int = 3

    @property
    def name(self) -> str:
        what = {
            "fixed": f"{self.batch} x {self.length}",
            "mixed": f"{self.batch} of 8 to {self.length}",
            "sentences": f"{self.batch} sentences",
        }.get(self.text, f"{self.batch} {self.text} sentences")
        depth = "" if self.depth is None else f", depth {self.depth:g}"
        return f"{self.size}, {what}{depth}"

    def inputs(self) -> Batch:
        if self.text == "fixed":
            return inputs.fixed_batch(self.batch, self.length)
        if self.text == "mixed":
            return inputs.mixed_batch(self.batch, self.length)
        return inputs.sentence_batch(self.batch, self.text.replace("sentences", "mixed"))


def fixed(size: str, batch: int, length: int, **options) -> Case:
    return Case(size, "fixed", batch, length, **options)


# What the engine on CPUs is judged by.
TARGETS = (
    fixed("base", 8, 128, variants=OURS + PEERS, memory=True, rounds=5),
    Case("base", "sentences", 32, memory=True, seconds=25),
    fixed("base", 1, 16, seconds=10),
    fixed("base", 1, 128, seconds=10),
)
# Speed-up by batch and length; beyond these a call of the reference takes ten seconds and more.
GRID_LENGTHS = {1: (16, 64, 128, 512), 8: (16, 64, 128), 32: (16, 64, 128), 128: (16,)}
GRID = tuple(
    fixed("base", batch, length, variants=CPP, seconds=5)
    for batch, lengths in GRID_LENGTHS.items()
    for length in lengths
)
# Where dropping starts to pay, and how time follows the running rows.
DEPTHS = tuple(
    fixed("base", 8, 128, depth=depth, variants=("torch float32", *CPP), seconds=8)
    for depth in (3, 6, 12, 18, 24)
)
SIZES = tuple(fixed(size, 8, 128, variants=CPP, seconds=5) for size in ("tiny", "small"))
LENGTHS = (
    *(
        Case("base", text, 32, variants=CPP, seconds=5)
        for text in ("sst2", "cola", "wiki", "books")
    ),
    Case("base", "mixed", 16, 128, variants=CPP, seconds=5),
)
SHIPPED = (Case("shipped", "sst2", 32, seconds=5), Case("shipped", "sst2", 1, seconds=3))
QUICK = (
    fixed("shipped", 1, 16, variants=(*OURS, "HF SDPA float32"), seconds=1),
    Case("shipped", "sst2", 4, seconds=1),
    Case("shipped", "mixed", 4, 32, seconds=1),
)
LARGE = tuple(
    replace(case, batch=batch, length=length, seconds=30)
    for case in (fixed("base", 0, 0, variants=OURS + PEERS),)
    for batch in (1, 8, 32, 128)
    for length in (16, 128, 512)
)

SELECTIONS: dict[str, tuple[str, tuple[Case, ...]]] = {
    "quick": ("a smoke test: does everything run? Its times mean little", QUICK),
    "targets": ("what the engine on CPUs is judged by, with all peers", TARGETS),
    "grid": ("speed-up by batch and length", GRID),
    "depths": ("time against running rows; where dropping starts to pay", DEPTHS),
    "sizes": ("the smaller published sizes", SIZES),
    "lengths": ("real and synthetic mixes of lengths", LENGTHS),
    "shipped": ("the trained model that ships, at its own depths", SHIPPED),
    "gpu": ("large batches, for a GPU", LARGE),
}


# What is no case of a model.
EXTRAS = ("operators", "parts", "training", "serve", "sentence", "corpus", "crowd")


def selected(name: str) -> tuple[Case, ...]:
    """The cases of a selection; "cpu" is all that the report on a CPU shows; those in
    `EXTRAS` have no cases.

    A case that several selections name is measured once, as the first of them has it.

    Raises:
        ValueError: no selection has that name.
    """
    if name in EXTRAS:
        return ()
    if name in SELECTIONS:
        return SELECTIONS[name][1]
    if name == "cpu":
        cases = [*TARGETS, *GRID, *DEPTHS, *SIZES, *LENGTHS, *SHIPPED]
        first: dict[str, Case] = {}
        for case in cases:
            first.setdefault(case.name, case)
        return tuple(first.values())
    raise ValueError(
        f"selection: got {name!r}, expected one of {', '.join([*SELECTIONS, *EXTRAS, 'cpu'])}."
    )


def case_named(name: str) -> Case:
    """The first case of that name.

    Raises:
        ValueError: there is none.
    """
    for _, cases in SELECTIONS.values():
        for case in cases:
            if case.name == name:
                return case
    raise ValueError(f"case: got {name!r}, which no selection holds.")


def committed_rows() -> Path:
    """The measured rows that documentation and README are made of."""
    return inputs.ROOT / "benchmarks/results/cpu.jsonl"
