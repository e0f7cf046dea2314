"""Sums over the texts of `depth`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from albert_act_fast import TextEncoder
    from albert_act_fast.text import TextDepth


class Totals:
    """A row is one token in one iteration; the dense loop computes, for each batch of consecutive
    texts, every place of the padded batch in every iteration until its last token has halted.

    Args:
        batch_size: texts in such a batch.
    """

    def __init__(self, encoder: TextEncoder, batch_size: int):
        self._computes_all = encoder.implementation == "reference"
        self._batch_size = batch_size
        special = ("cls", "sep", "mask")
        self._names = {
            getattr(encoder.tokenizer, f"{name}_token_id"): f"[{name.upper()}]" for name in special
        }
        self.texts = self.tokens = self.updates = self.max_iterations = 0
        self.truncated = self.skipped = 0
        self._dense = 0
        # Of the batch that is not full yet: texts, longest, deepest.
        self._batch = (0, 0, 0)
        self._classes: dict[str, list[int]] = {}

    def add(self, depth: TextDepth) -> None:
        """Takes in one text."""
        deepest = max(depth.iterations)
        self.texts += 1
        self.tokens += depth.cost.tokens
        self.updates += depth.cost.rows
        self.max_iterations = max(self.max_iterations, deepest)
        self.truncated += depth.cost.truncated
        count, longest, most = self._batch
        self._batch = (count + 1, max(longest, depth.cost.tokens), max(most, deepest))
        if self._batch[0] == self._batch_size:
            self._dense += self._batch[0] * self._batch[1] * self._batch[2]
            self._batch = (0, 0, 0)
        for token, iterations in zip(depth.input_ids, depth.iterations, strict=True):
            name = self._names.get(token, "text")
            sums = self._classes.setdefault(name, [0, 0, 0])
            sums[0] += 1
            sums[1] += iterations
            sums[2] = max(sums[2], iterations)

    @property
    def rows_dense(self) -> int:
        count, longest, deepest = self._batch
        return self._dense + count * longest * deepest

    @property
    def rows_computed(self) -> int:
        """The reference loop computes every row; the engine those of running tokens."""
        return self.rows_dense if self._computes_all else self.updates

    def as_dict(self) -> dict:
        """What `--json` prints."""
        return {
            "texts": self.texts,
            "skipped": self.skipped,
            "tokens": self.tokens,
            "mean_iterations": self.updates / self.tokens,
            "max_iterations": self.max_iterations,
            "rows_computed": self.rows_computed,
            "rows_dense": self.rows_dense,
            "rows_ratio": self.rows_computed / self.rows_dense,
            "classes": {
                name: {
                    "tokens": tokens,
                    "mean_iterations": updates / tokens,
                    "max_iterations": most,
                }
                for name, (tokens, updates, most) in sorted(self._classes.items())
            },
        }
