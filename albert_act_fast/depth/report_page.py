"""The report as a page of HTML with everything in it."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

from albert_act_fast.depth.html import page_head
from albert_act_fast.depth.report import PUBLISHED, PUBLISHED_MODELS, DepthReport, GroupDepth

_WIDTH, _HEIGHT = 160, 16


def save_report(report: DepthReport, path: str | os.PathLike, *, title: str) -> None:
    """Writes the page; the file appears when it is whole."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(report_page(report, title=title), encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def report_page(report: DepthReport, *, title: str) -> str:
    tables = "".join(_table(name, groups, report.limit) for name, groups in report.tables.items())
    return (
        "".join(page_head(title)) + f"<p>{report.texts} texts, {report.tokens} tokens; at most "
        f"{report.limit} iterations. {100 * report.mask_share:.0f} % of each text's tokens were "
        f"chosen for masking (seed {report.seed}), of these 80 % became [MASK], 10 % another "
        "token, 10 % stayed. Intervals are of 95 %, by bootstrap over texts; by classes and "
        f"by occurrences only tokens that were not chosen count.{_word_classes(report)}</p>\n"
        f"{tables}</main>\n</body>\n</html>\n"
    )


def _word_classes(report: DepthReport) -> str:
    if report.word_classes_by is None:
        return ""
    by = escape(report.word_classes_by)
    return f" Word classes are those of spaCy's {by}, of the word in which a token begins."


def _table(title: str, groups: list[GroupDepth], limit: int) -> str:
    published = title == "masking"
    names = ["tokens", "mean", "95 % interval", "of all iterations"]
    names += [f"published {name}" for name in PUBLISHED_MODELS] if published else []
    head = "".join(f"<th scope='col'>{name}</th>" for name in (title, *names))
    rows = []
    for group in groups:
        between = "" if group.low is None else f"{group.low:.2f} to {group.high:.2f}"
        cells = [str(group.tokens), f"{group.mean:.2f}", between, _bar(group, limit)]
        cells += [f"{mean:.1f}" for mean in PUBLISHED[group.name]] if published else []
        rows.append(
            f"<tr><th scope='row'>{escape(group.name)}</th>"
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    label = escape(f"Iterations by {title}")
    return (
        f"<h2>{label}</h2>\n<div class='scroll' tabindex='0' role='region' aria-label='{label}'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>\n"
    )


def _bar(group: GroupDepth, limit: int) -> str:
    """The mean as a bar, the interval as a line through its end."""
    scale = _WIDTH / limit
    middle = _HEIGHT / 2
    line = ""
    if group.low is not None:
        line = (
            f"<line x1='{group.low * scale:.1f}' x2='{group.high * scale:.1f}' y1='{middle}' "
            f"y2='{middle}' stroke-width='3'/>"
        )
    return (
        f"<svg width='{_WIDTH}' height='{_HEIGHT}' role='img' aria-label='mean "
        f"{group.mean:.2f} of {limit}'><rect x='0' y='3' width='{group.mean * scale:.1f}' "
        f"height='{_HEIGHT - 6}' fill='currentColor' fill-opacity='0.35' stroke='none'/>"
        f"{line}</svg>"
    )
