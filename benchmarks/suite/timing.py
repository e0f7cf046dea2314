"""Variants timed in turn in one process, so that a drifting machine hits all of them alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

# A turn lasts about this long: shorter calls are repeated, and the median of the turn is kept.
TURN_SECONDS = 0.15
MAX_CALLS = 20
# What one library's threads still do after its call (spinning) must not be the next one's time.
SETTLING_SECONDS = 0.01


@dataclass(frozen=True)
class Clock:
    """Where the seconds come from: the machine's own, or in tests ones that are stated.

    Args:
        now: seconds since some moment.
        pause: does nothing for so many seconds.
    """

    now: Callable[[], float] = time.perf_counter
    pause: Callable[[float], None] = time.sleep


MACHINE_CLOCK = Clock()


def interleave(
    variants: dict[str, Callable],
    estimates: dict[str, float],
    rounds: int,
    advance: Callable[[], None] = lambda: None,
    synchronize: Callable[[], None] = lambda: None,
    after_round: Callable[[], None] = lambda: None,
    clock: Clock = MACHINE_CLOCK,
) -> dict[str, list[float]]:
    """Seconds of a call of each variant, one figure for each round.

    In every round each variant has one turn, in an order drawn anew. A turn of a short call starts
    with one that does not count, because the variants push each other's weights out of the caches;
    what is measured is a model in use.

    Args:
        estimates: seconds of a call, known roughly.
        advance: called after each turn.
        synchronize: waits until the device is done.
        after_round: called after each round.
    """
    chooser = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    for _ in range(rounds):
        chooser.shuffle(order)
        for name in order:
            seconds[name].append(turn(variants[name], estimates[name], synchronize, clock))
            advance()
        after_round()
    return seconds


def turn(
    call: Callable, estimate: float, synchronize: Callable[[], None], clock: Clock = MACHINE_CLOCK
) -> float:
    """Median seconds of the calls of one turn."""
    calls = max(1, min(MAX_CALLS, int(TURN_SECONDS / max(estimate, 1e-9))))
    clock.pause(SETTLING_SECONDS)
    if calls > 1:
        call()
    synchronize()
    times = []
    for _ in range(calls):
        start = clock.now()
        call()
        synchronize()
        times.append(clock.now() - start)
    return statistics.median(times)


def timed(
    call: Callable,
    synchronize: Callable[[], None] = lambda: None,
    clock: Clock = MACHINE_CLOCK,
) -> float:
    """Seconds of one call."""
    synchronize()
    start = clock.now()
    call()
    synchronize()
    return clock.now() - start


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def figures(measured: list[float], reference: list[float]) -> dict:
    """A row's figures of the rounds of a variant and of the reference."""
    ratios = [a / b for a, b in zip(reference, measured, strict=True)]
    low, median, high = quartiles(measured)
    return {
        "seconds": median,
        "seconds_low": low,
        "seconds_high": high,
        "speed_up": quartiles(ratios)[1],
        "ratios": [round(ratio, 4) for ratio in ratios],
    }
