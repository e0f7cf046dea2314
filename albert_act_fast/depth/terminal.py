"""A text in a terminal, each token on the colour of its depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from albert_act_fast.depth import colours
from albert_act_fast.depth.data import tokens_of

if TYPE_CHECKING:
    from albert_act_fast.text import TextDepth

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def terminal_lines(
    depth: TextDepth, *, columns: int = 80, subscripts: bool = True
) -> list[list[tuple[str, str]]]:
    """The text as lines of (text, style) parts, styles as rich reads them; without colours the
    number of iterations behind each token still tells its depth.

    Args:
        columns: where lines are broken, between tokens.
        subscripts: numbers as small digits; else plain, after a slash.
    """
    from rich.cells import cell_len

    limit = depth.rule.max_iterations
    lines: list[list[tuple[str, str]]] = [[]]
    width = 0
    for token in tokens_of(depth):
        number = str(token.n_updates)
        number = number.translate(_SUBSCRIPTS) if subscripts else f"/{number}"
        # What a text holds may not steer the terminal.
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in token.text)
        space = "" if token.joined or not lines[-1] else " "
        needed = cell_len(space + text + number)
        if lines[-1] and width + needed > columns:
            lines.append([])
            width, space = 0, ""
            needed = cell_len(text + number)
        if space:
            lines[-1].append((space, ""))
        colour = colours.background(colours.level(token.n_updates, limit))
        lines[-1].append((text + number, f"{colours.ink(colour)} on {colour}"))
        width += needed
    return lines
