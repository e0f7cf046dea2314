"""How many rows and operations a result takes, by whoever computes it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from albert_act_fast import AlbertActConfig


@dataclass(frozen=True)
class Work:
    """rows: rows of the layer's products, over all iterations; flop: operations of its products
    and its attention (a multiplication and an addition are two), element-wise work left out;
    running_rows: rows of each iteration."""

    rows: int
    flop: float
    running_rows: list[int]


def needed_work(config: AlbertActConfig, n_updates: Tensor, attention_mask: Tensor) -> Work:
    """What an encoder does that computes running tokens only: n_updates, attention_mask [B, S].

    Queries and all that follows are of the tokens that run, keys and values of those that moved
    in the iteration before.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    lengths = attention_mask.sum(1)
    moved = int(lengths.sum())
    flop, running_rows = 0.0, []
    for iteration in range(1, int(n_updates.max()) + 1):
        running = (n_updates >= iteration).sum(1)
        rows = int(running.sum())
        flop += 2 * rows * (2 * hidden * hidden + 2 * hidden * inner)
        flop += 2 * moved * 2 * hidden * hidden
        flop += 4 * hidden * int((running * lengths).sum())
        running_rows.append(rows)
        moved = rows
    return Work(sum(running_rows), flop, running_rows)


def dense_work(config: AlbertActConfig, sequences: int, length: int, iterations: int) -> Work:
    """What a loop does that computes every token, padding included, in every iteration."""
    hidden, inner = config.hidden_size, config.intermediate_size
    rows = sequences * length
    flop = 2 * rows * (4 * hidden * hidden + 2 * hidden * inner) + 4 * hidden * rows * length
    return Work(rows * iterations, float(flop * iterations), [rows] * iterations)
