"""Texts as heat maps in HTML: a page with everything in it, or a fragment for notebooks.

Colour is never alone: each token shows its number. Screen readers get the tokens as a list and all
figures as a table; the keyboard goes from token to token. Light and dark follow the reader's
setting. No script and no other file is needed to read it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from albert_act_fast.depth import colours, style
from albert_act_fast.depth.data import TokenDepth, iterations_of, measured, tokens_of
from albert_act_fast.depth.plots import DepthHistograms

if TYPE_CHECKING:
    from albert_act_fast.text import TextDepth

# Of a curve in the table, in pixels.
_WIDTH, _HEIGHT = 96, 20


def page(depths: Iterable[TextDepth], *, title: str = "Iterations of each token") -> Iterator[str]:
    """A whole page, piece by piece, so that any number of texts can be written.

    Args:
        depths: of one text or many; a `TextError` in a text's place becomes its message.

    Raises:
        ValueError: there is none.
    """
    totals = DepthHistograms()
    texts = 0
    for texts, depth in enumerate(depths, 1):
        if texts == 1:
            yield from page_head(title)
        if hasattr(depth, "iterations"):
            if not totals.limit:
                yield _legend(depth.rule.max_iterations)
            totals.add(depth)
        yield _text(depth, texts, interactive=True)
    if not texts:
        raise ValueError("depths: got none, expected at least one text's.")
    if totals.limit:
        yield _classes(totals)
    yield (
        "<output aria-live='polite'>Choose a token with Tab and the arrow keys, or point at it."
        f"</output>\n</main>\n<script>{style.SCRIPT}</script>\n</body>\n</html>\n"
    )


def save_page(depths: Iterable[TextDepth], path: str | os.PathLike, **settings) -> None:
    """Writes `page` to a file, which appears when it is complete.

    Raises:
        ValueError: there is no depth; OSError: the file cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.writelines(page(depths, **settings))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def fragment(depths: Iterable[TextDepth]) -> str:
    """The same for a notebook's cell: no script, nothing that would reach beyond it."""
    depths = list(depths)
    limits = [one.rule.max_iterations for one in measured(depths)]
    return "\n".join(
        [
            f"<div class='aaf-depth'><style>{style.sheet()}</style>",
            *([_legend(max(limits))] if limits else []),
            *(_text(one, i, interactive=False) for i, one in enumerate(depths, 1)),
            "</div>",
        ]
    )


def page_head(title: str) -> Iterator[str]:
    yield (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{style.sheet()}\n"
        "html { color-scheme: light dark; } body { margin: 0; min-height: 100vh; }\n"
        "main { max-width: 60rem; margin: 0 auto; padding: 1rem; }</style>\n</head>\n"
        f"<body class='aaf-depth'>\n<main>\n<h1>{escape(title)}</h1>\n"
    )


def _legend(limit: int) -> str:
    groups: dict[int, list[int]] = {}
    for iterations in range(1, limit + 1):
        groups.setdefault(colours.level(iterations, limit), []).append(iterations)
    steps = [
        f"<li class='d{step}'>{of[0]}{f' to {of[-1]}' if len(of) > 1 else ''}</li>"
        for step, of in groups.items()
    ]
    return (
        f"<p>A token takes at most {iterations_of(limit)}.</p>\n"
        f"<ol class='legend' aria-label='Colours of iterations'>{''.join(steps)}</ol>\n"
    )


def _text(depth, number: int, *, interactive: bool) -> str:
    if not hasattr(depth, "iterations"):
        return f"<p class='failed'>Text {number}: {escape(depth.reason)}.</p>\n"
    tokens = tokens_of(depth)
    limit = depth.rule.max_iterations
    # Whether the token behind it is joined to it.
    goes_on = [*(token.joined for token in tokens[1:]), False]
    items = "".join(
        f"<li{' class=goes-on' if on else ''}>{_token(token, limit, interactive)}</li>"
        for token, on in zip(tokens, goes_on, strict=True)
    )
    cost = depth.cost
    count = f"{cost.tokens} token" + ("" if cost.tokens == 1 else "s")
    return (
        f"<section aria-label='Text {number}'>\n"
        f"<h2>Text {number} <span class='muted'>{count}"
        f", mean {cost.mean_iterations:.1f} iterations, most {max(depth.iterations)}"
        f"{', cut to the length of the model' if cost.truncated else ''}</span></h2>\n"
        f"<ol class='tokens' aria-label='Tokens of text {number}'>{items}</ol>\n"
        f"<details><summary>Table of text {number}</summary>"
        f"{_table(tokens, limit, number)}</details>\n</section>\n"
    )


def _token(token: TokenDepth, limit: int, interactive: bool) -> str:
    place = f"d{colours.level(token.n_updates, limit)}"
    said = f"{token.text}: {iterations_of(token.n_updates)}, {token.token_class}"
    said += f", remainder {token.remainder:.3f}" if token.remainder else ", did not halt"
    if token.offsets:
        said += f", characters {token.offsets[0]} to {token.offsets[1]}"
    inside = (
        f"{escape(token.text)}<span class='n'>{token.n_updates}</span>"
        f"<span class='hidden'> iteration{'' if token.n_updates == 1 else 's'}</span>"
    )
    info = escape(said)
    if interactive:
        return f'<button type="button" class="token {place}" data-info="{info}">{inside}</button>'
    return f'<span class="token {place}" title="{info}">{inside}</span>'


def _table(tokens: list[TokenDepth], limit: int, number: int) -> str:
    recorded = tokens[0].probabilities is not None
    names = ["token", "characters", "class", "iterations", "remainder"]
    names += ["p of each iteration", "accumulated"] if recorded else []
    head = "".join(f"<th scope='col'>{name}</th>" for name in names)
    rows = []
    for token in tokens:
        offsets = "" if token.offsets is None else f"{token.offsets[0]} to {token.offsets[1]}"
        cells = [offsets, token.token_class, str(token.n_updates), f"{token.remainder:.4f}"]
        if recorded:
            cells += [" ".join(f"{p:.3f}" for p in token.probabilities), _curve(token, limit)]
        rows.append(
            f"<tr><th scope='row'>{escape(token.text)}</th>"
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='Table of text {number}'>"
        f"<table><caption>Tokens of text {number}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _curve(token: TokenDepth, limit: int) -> str:
    """Accumulated probability over iterations, from 0 at the left to 1 at the top."""
    points = [(0.0, 0.0), *((i / limit, a) for i, a in enumerate(token.accumulated, 1))]
    line = " ".join(f"{x * _WIDTH:.1f},{(1 - y) * (_HEIGHT - 2) + 1:.1f}" for x, y in points)
    return (
        f"<svg width='{_WIDTH}' height='{_HEIGHT}' role='img' aria-label='accumulated "
        f"probability up to {token.accumulated[-1]:.3f}'><polyline points='{line}'/></svg>"
    )


def _classes(totals: DepthHistograms) -> str:
    rows = []
    for name, counts in totals.classes():
        total = sum(counts)
        mean = sum(i * n for i, n in enumerate(counts)) / total
        most = max(i for i, n in enumerate(counts) if n)
        bars = _bars(counts, total)
        rows.append(
            f"<tr><th scope='row'>{escape(name)}</th><td>{total}</td><td>{mean:.2f}</td>"
            f"<td>{most}</td><td>{bars}</td></tr>"
        )
    head = "".join(
        f"<th scope='col'>{name}</th>"
        for name in ("class", "tokens", "mean iterations", "most", "tokens by iterations")
    )
    return (
        "<h2>Classes of tokens</h2>\n<div class='scroll' tabindex='0' role='region' "
        "aria-label='Classes of tokens'><table><caption>Iterations by class of token</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>\n"
    )


def _bars(counts: list[int], total: int) -> str:
    width = _WIDTH / (len(counts) - 1)
    most = max(counts)
    bars = "".join(
        f"<rect x='{(i - 1) * width:.1f}' y='{_HEIGHT * (1 - n / most):.1f}' "
        f"width='{width * 0.8:.1f}' height='{_HEIGHT * n / most:.1f}' fill='currentColor' "
        "stroke='none'/>"
        for i, n in enumerate(counts)
        if n
    )
    said = ", ".join(f"{i}: {n / total:.0%}" for i, n in enumerate(counts) if n)
    return (
        f"<svg width='{_WIDTH}' height='{_HEIGHT}' role='img' aria-label='share of tokens by "
        f"iterations: {said}'>{bars}</svg>"
    )
