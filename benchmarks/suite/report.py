"""The report on measured rows: pictures, one HTML page, the tables in the documents."""

from __future__ import annotations

from pathlib import Path

import jinja2

from suite.inputs import ROOT
from suite.measured_rows import FIELDS
from suite.plots import at, draw_all, timed
from suite.tables import TABLES, fill_file, where

# Documents whose tables are made of the committed rows.
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "docs/performance.md",
    ROOT / "docs/cpu_engine.md",
)
# What is measured apart, by kind of row: `run serve`, `run corpus`, `run crowd`.
APART = {
    "serve": ROOT / "docs/serve.md",
    "corpus": ROOT / "docs/text.md",
    "crowd": ROOT / "docs/threads.md",
}
_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>albert_act_fast: benchmarks</title>
<meta name="viewport" content="width=device-width"><style>
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0 }
td, th { border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100% } .why { font-style: italic } .wide { overflow-x: auto }
</style></head><body><main>
<h1>albert_act_fast: benchmarks</h1>
<p>{{ where }} Speed-ups are medians over interleaved rounds of the reference loop's seconds over
the variant's. How to read them: docs/performance.md.</p>
{% for file, caption in pictures %}<h2>{{ caption }}</h2>
<img src="{{ file }}" alt="{{ caption }}">
{% endfor %}
{% for title, header, lines in tables %}<h2>{{ title }}</h2>
<div class="wide" role="region" aria-label="{{ title }}" tabindex="0"><table>
<tr>{% for h in header %}<th>{{ h }}</th>{% endfor %}</tr>
{% for line in lines %}<tr>{% for cell in line %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% endfor %}
<h2>All rows</h2>
<div class="wide" role="region" aria-label="All rows" tabindex="0"><table>
<tr><th>case</th><th>variant</th><th>ms</th><th>quartiles</th><th>speed-up</th>
<th>work saved</th><th>useful GFLOP/s</th><th>of peak</th><th>memory, MiB</th><th>error</th></tr>
{% for r in rows %}<tr><td>{{ r.case }}</td><td>{{ r.variant }}</td>
{% if r.seconds is defined %}<td class="n">{{ "%.2f"|format(1000 * r.seconds) }}</td>
<td class="n">{{ "%.2f"|format(1000 * r.seconds_low) }} to
{{ "%.2f"|format(1000 * r.seconds_high) }}</td>
<td class="n">{{ "%.2f"|format(r.speed_up) }}</td>
<td class="n">{{ r.work_saved if r.work_saved is defined else "" }}</td>
<td class="n">{{ "%.0f"|format(r.useful_flops / 1e9) if r.useful_flops else "" }}</td>
<td class="n">{{ "%.0f %%"|format(100 * r.share_of_peak) if r.share_of_peak else "" }}</td>
<td class="n">{{ "%.0f"|format(r.peak_memory / 1048576) if r.peak_memory else "" }}</td>
<td class="n">{{ "%.1e"|format(r.error) if r.error is defined else "" }}</td>
{% else %}<td class="why" colspan="8">{{ r.skipped or r.wrong }}</td>{% endif %}</tr>
{% endfor %}</table></div>
<h2>What a row holds</h2>
<dl>{% for field, meaning in fields.items() %}<dt><b>{{ field }}</b></dt><dd>{{ meaning }}</dd>
{% endfor %}</dl>
</main></body></html>
"""
_TITLES = {
    "speed-ups": "Speed-ups",
    "peers": "Everyone on 8 x 128 tokens",
    "fits": "Time against running rows",
    "parts": "Where a call of the engine in C++ spends its time, milliseconds",
    "serving": "The service under load",
    "sentence": "One sentence, from its string to its embedding",
    "corpus": "From texts to embeddings",
    "corpus-memory": "Memory of a stream",
    "crowd": "A stream beside other programs",
}


def write_report(rows: list[dict], folder: Path) -> Path:
    """Pictures and index.html of the rows; returns the page.

    Raises:
        ValueError: no row of a model, a server or a corpus was timed.
    """
    if not timed(rows) and not any(at(rows, kind=kind) for kind in APART):
        raise ValueError("none of the rows is a model's, a server's or a corpus's with a time.")
    folder.mkdir(parents=True, exist_ok=True)
    tables = [(title, *_parsed(TABLES[name](rows))) for name, title in _TITLES.items()]
    page = jinja2.Environment(autoescape=True).from_string(_TEMPLATE)
    text = page.render(
        where=where(rows),
        pictures=draw_all(rows, folder),
        tables=[table for table in tables if table[2]],
        rows=[
            row for row in rows if row["kind"] not in ("parts", "sentence", "corpus memory", *APART)
        ],
        fields=FIELDS,
    )
    (folder / "index.html").write_text(text, encoding="utf-8")
    return folder / "index.html"


def _parsed(table: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a Markdown table."""
    cells = [
        [cell.strip().replace("`", "") for cell in line.strip("|\n").split("|")]
        for line in table.splitlines()
    ]
    return cells[0], cells[2:]


def fill_documents(rows: list[dict]) -> None:
    """Tables of the documents, and the pictures of what is measured apart, of the rows that there
    are."""
    if timed(rows):
        for document in DOCUMENTS:
            fill_file(document, rows)
    for kind, document in APART.items():
        if at(rows, kind=kind):
            fill_file(document, rows)
            draw_all(at(rows, kind=kind), ROOT / "docs/performance")
