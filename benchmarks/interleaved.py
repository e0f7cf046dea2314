"""Variants timed in turn in one process, so that a drifting machine hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Seconds of each round, for the baseline and the variant."""

    baseline: list[float]
    variant: list[float]

    @property
    def ratios(self) -> list[float]:
        """Round by round, baseline / variant: above 1 the variant is faster."""
        return [a / b for a, b in zip(self.baseline, self.variant, strict=True)]

    @property
    def speed_up(self) -> float:
        """The median ratio."""
        return statistics.median(self.ratios)


def compare(benchmark, baseline: Callable, variant: Callable, rounds: int) -> Comparison:
    """Times both `rounds` times in turn, the variant under pytest-benchmark's fixture.

    One round of each runs first and is not counted.
    """
    times: list[float] = []

    def run_baseline():
        start = time.perf_counter()
        baseline()
        times.append(time.perf_counter() - start)

    benchmark.pedantic(variant, setup=run_baseline, rounds=rounds, warmup_rounds=1, iterations=1)
    return Comparison(times[1:], list(benchmark.stats.stats.data))
