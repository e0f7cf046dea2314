"""Depths as figures. matplotlib is imported when one is drawn, and not before."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from albert_act_fast.depth import colours
from albert_act_fast.depth.data import TOKEN_CLASSES, measured, tokens_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from albert_act_fast.text import TextDepth

FORMATS = (".png", ".svg", ".pdf")
# Beyond this a heat map is an image that nothing shows any more.
MOST_ROWS = 400
# Of a heat map's line, in characters, and the size of one in inches.
_COLUMNS, _CHARACTER, _ROW = 96, 0.095, 0.42


def heat_map(depths: TextDepth | Iterable[TextDepth], *, columns: int = _COLUMNS) -> Figure:
    """Each text as a row of tokens on the colour of their iterations; long texts go on in the next.

    Args:
        columns: characters of a row.

    Raises:
        ValueError: there is no depth, or more than 400 rows would be needed.
        ImportError: matplotlib is not installed.
    """
    from rich.cells import cell_len

    figure_class = matplotlib().figure.Figure
    depths = _list(depths)
    rows: list[list] = []
    for depth in depths:
        at = columns
        for token in tokens_of(depth):
            text = token.text.replace("\n", " ")
            width = max(cell_len(text), len(str(token.n_updates))) + 1
            space = 0 if token.joined else 0.4
            if at + space + width > columns or not rows:
                rows.append([])
                at = space = 0
            rows[-1].append((at + space, width, text, token.n_updates, depth.rule.max_iterations))
            at += space + width
        if len(rows) > MOST_ROWS:
            raise ValueError(
                f"depths: got texts of more than {MOST_ROWS} rows, expected fewer in one heat map "
                "(`page` writes any number, `histograms` counts them)."
            )
    widest = max(row[-1][0] + row[-1][1] for row in rows)
    size = (widest * _CHARACTER + 0.4, len(rows) * _ROW + 0.5)
    figure = figure_class(figsize=(max(size[0], 3.2), size[1]), layout="constrained")
    axes = figure.subplots()
    for line, row in enumerate(rows):
        for at, width, text, iterations, limit in row:
            colour = colours.background(colours.level(iterations, limit))
            axes.add_patch(_rectangle(at, line, width, colour))
            _write(axes, at + width / 2, line + 0.3, text, 8, colour)
            _write(axes, at + width / 2, line + 0.68, str(iterations), 6.5, colour)
    axes.set(xlim=(0, max(widest, 3.2 / _CHARACTER)), ylim=(len(rows), 0))
    axes.axis("off")
    limit = max(depth.rule.max_iterations for depth in depths)
    axes.set_title(f"Iterations of each token (at most {limit})", loc="left", size=10)
    return figure


def halting_curves(depth: TextDepth, tokens: Sequence[int] | None = None) -> Figure:
    """p of each iteration, and the accumulated probability, of some tokens of one text.

    Args:
        depth: measured with `probabilities=True`.
        tokens: their places in the text, at most ten; default, the three that halt first and the
            three that halt last.

    Raises:
        ValueError: it has no probabilities, or a place is none.
        ImportError: matplotlib is not installed.
    """
    figure_class = matplotlib().figure.Figure
    if depth.probabilities is None:
        raise ValueError("depth: has no probabilities, expected one measured with them.")
    all_tokens = tokens_of(depth)
    chosen = _chosen(depth, tokens)
    figure = figure_class(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for order, place in enumerate(chosen):
        token = all_tokens[place]
        iterations = range(1, token.n_updates + 1)
        # Lines are told apart by their marks as well.
        look = {"marker": "osD^vP*Xdh"[order], "markersize": 4, "linewidth": 1.2}
        left.plot(iterations, token.probabilities, **look)
        right.plot(iterations, token.accumulated, label=_plain(f"{place} {token.text}"), **look)
    threshold = 1 - depth.rule.act_epsilon
    right.axhline(threshold, color="0.35", linestyle=":", linewidth=1)
    left.set(xlabel="iteration", ylabel="halting probability p", ylim=(0, 1.03))
    right.set(xlabel="iteration", ylabel="accumulated probability", ylim=(0, 1.03))
    left.set_xlim(0.5, depth.rule.max_iterations + 0.5)
    left.xaxis.get_major_locator().set_params(integer=True)
    right.legend(title="token", fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


class DepthHistograms:
    """Tokens counted by class and iterations, of any number of texts."""

    def __init__(self, depths: Iterable[TextDepth] = ()):
        self.limit = 0
        self._counts: dict[str, dict[int, int]] = {}
        for depth in measured(depths):
            self.add(depth)

    def add(self, depth: TextDepth) -> None:
        self.limit = max(self.limit, depth.rule.max_iterations)
        for token in tokens_of(depth):
            counts = self._counts.setdefault(token.token_class, {})
            counts[token.n_updates] = counts.get(token.n_updates, 0) + 1

    def classes(self) -> list[tuple[str, list[int]]]:
        """Each class that there is, with its tokens of 0, 1, 2 ... `limit` iterations."""
        return [
            (name, [self._counts[name].get(i, 0) for i in range(self.limit + 1)])
            for name in TOKEN_CLASSES
            if name in self._counts
        ]


def histograms(depths: TextDepth | Iterable[TextDepth] | DepthHistograms) -> Figure:
    """How many iterations the tokens of each class take.

    Raises:
        ValueError: there is no depth. ImportError: matplotlib is not installed.
    """
    figure_class = matplotlib().figure.Figure
    counted = depths if isinstance(depths, DepthHistograms) else DepthHistograms(_list(depths))
    classes = counted.classes()
    if not classes:
        raise ValueError("depths: got none, expected at least one text's.")
    figure = figure_class(figsize=(6, 1.1 * len(classes) + 0.6), layout="constrained")
    rows = figure.subplots(len(classes), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, counts) in zip(rows, classes, strict=True):
        total = sum(counts)
        shares = [n / total for n in counts]
        levels = [colours.level(i, counted.limit) for i in range(len(counts))]
        axes.bar(
            range(len(counts)),
            shares,
            color=[colours.background(step) for step in levels],
            edgecolor="0.3",
            linewidth=0.5,
        )
        mean = sum(i * share for i, share in enumerate(shares))
        title = f"{name}: {total} token{'' if total == 1 else 's'}, mean {mean:.1f}"
        axes.set_title(title, loc="left", size=9)
        axes.set_ylim(0, 1.05 * max(shares))
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
    rows[-1].set(xlim=(0.4, counted.limit + 0.6), xlabel="iterations")
    rows[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure


def save_picture(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure as .png, .svg (its text as text) or .pdf, without a date in it.

    Raises:
        ValueError: the name ends otherwise. OSError: the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise ValueError(
            f"path: got {str(path)!r}, expected a name that ends in .png, .svg or .pdf."
        )
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}
    settings = {"svg.fonttype": "none", "svg.hashsalt": "albert_act_fast"}
    with matplotlib().rc_context(settings):
        figure.savefig(path, dpi=144, facecolor="white", metadata=dates[kind])


def matplotlib():
    """The module; raises ImportError, with the extra's name, where it is not installed."""
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib: pip install 'albert_act_fast[plots]'"
        ) from error
    return matplotlib


def _list(depths: TextDepth | Iterable[TextDepth]) -> list[TextDepth]:
    found = [depths] if hasattr(depths, "iterations") else list(measured(depths))
    if not found:
        raise ValueError("depths: got none, expected at least one text's.")
    return found


def _chosen(depth: TextDepth, tokens: Sequence[int] | None) -> list[int]:
    count = len(depth.tokens)
    if tokens is None:
        order = sorted(range(count), key=lambda place: depth.iterations[place])
        return sorted({*order[:3], *order[-3:]})
    tokens = list(tokens)
    if not 1 <= len(tokens) <= 10 or any(
        not isinstance(t, int) or not 0 <= t < count for t in tokens
    ):
        raise ValueError(f"tokens: got {tokens}, expected one to ten places from 0 to {count - 1}.")
    return tokens


def _rectangle(at: float, line: int, width: float, colour: str):
    from matplotlib.patches import Rectangle

    return Rectangle((at, line), width - 0.1, 0.92, color=colour, linewidth=0)


def _write(axes, x: float, y: float, text: str, size: float, colour: str) -> None:
    axes.text(
        x,
        y,
        text,
        size=size,
        color=colours.ink(colour),
        ha="center",
        va="center",
        family=["DejaVu Sans Mono"],
        parse_math=False,
    )


def _plain(text: str) -> str:
    """A legend would read $...$ as mathematics, and leave out what begins with an underscore."""
    return text.replace("$", r"\$")
