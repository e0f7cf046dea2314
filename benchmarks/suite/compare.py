"""Two row files of the same cases: what became slower by more than the noise.

Compared are speed-ups over the reference loop of the same run, so that a machine that is faster or
slower today cancels out. Rows of different machines can be compared, too, but say less.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from suite.timing import quartiles

# Below this nothing is called a regression, however little the rounds vary; and below this with so
# few rounds that they say little about how much they vary.
SMALLEST, SMALLEST_OF_FEW, FEW_ROUNDS = 0.05, 0.10, 5
# Of some hundred comparisons none should be flagged by chance.
STANDARD_ERRORS = 4.0


@dataclass(frozen=True)
class Change:
    """old, new: speed-ups over the reference, None where a side has no time; limit: the relative
    loss beyond which it is a regression."""

    case: str
    variant: str
    old: float | None
    new: float | None
    limit: float
    reason: str = ""

    @property
    def is_regression(self) -> bool:
        if self.old is None:
            return False
        return self.new is None or self.new < self.old * (1 - self.limit)


def compare_rows(old: list[dict], new: list[dict]) -> list[Change]:
    """What both files hold, in the new one's order; and what the new one lost or got wrong.

    Raises:
        ValueError: the files have no timed case of the same text in common.
    """
    before, after = _by_key(old), _by_key(new)
    # A selection is compared with a larger one's rows as far as it goes.
    cases = {key[:3] for key in before} & {key[:3] for key in after}
    keys = [key for key in [*after, *(k for k in before if k not in after)] if key[:3] in cases]
    changes = [_change(key, before.get(key, {}), after.get(key, {})) for key in keys]
    changes = [change for change in changes if change.old is not None or change.new is not None]
    if not changes:
        raise ValueError("the two files have no timed case in common.")
    return changes


def _by_key(rows: list[dict]) -> dict[tuple, dict]:
    return {(r.get("kind"), r["case"], r.get("text"), r["variant"]): r for r in rows}


def _change(key: tuple, old: dict, new: dict) -> Change:
    _, case, _, variant = key
    limit = SMALLEST
    if "ratios" in old and "ratios" in new:
        noise = (_relative_error(old["ratios"]) ** 2 + _relative_error(new["ratios"]) ** 2) ** 0.5
        few = min(len(old["ratios"]), len(new["ratios"])) < FEW_ROUNDS
        limit = max(SMALLEST_OF_FEW if few else SMALLEST, STANDARD_ERRORS * noise)
    reason = new.get("wrong") or new.get("skipped") or ("" if new else "not in the new rows")
    return Change(case, variant, old.get("speed_up"), new.get("speed_up"), limit, reason)


def _relative_error(ratios: list[float]) -> float:
    """Standard error of the median of the ratios, over it; from the quartiles, because one round in
    which the machine did something else says nothing about the others."""
    low, median, high = quartiles(ratios)
    sigma = (high - low) / (2 * statistics.NormalDist().inv_cdf(0.75))
    return 1.2533 * sigma / len(ratios) ** 0.5 / median
