"""Collects the rows that the benchmarks report and prints them as one table at the end."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

_rows: list[dict] = []


@pytest.fixture
def report():
    """Adds a row to the final table and to pytest-benchmark's own record (--benchmark-json)."""

    def add(benchmark, *, comparison, **row):
        row["reference_seconds"] = statistics.median(comparison.baseline)
        row["engine_seconds"] = statistics.median(comparison.variant)
        row["speed_up"] = comparison.speed_up
        row["speed_up_range"] = (min(comparison.ratios), max(comparison.ratios))
        row["threads"] = torch.get_num_threads()
        row["torch"] = torch.__version__
        benchmark.extra_info.update(row)
        _rows.append(row)

    return add


def pytest_terminal_summary(terminalreporter):
    if not _rows:
        return
    table = Table(title=f"reference / engine, interleaved; {torch.get_num_threads()} threads")
    for column in (
        "case",
        "engine",
        "reference",
        "seconds",
        "speed-up",
        "rows saved",
        "depth",
    ):
        table.add_column(column)
    for row in _rows:
        low, high = row["speed_up_range"]
        table.add_row(
            row["case"],
            row["engine"],
            f"{row['reference_seconds']:.3f} s",
            f"{row['engine_seconds']:.3f} s",
            f"{row['speed_up']:.2f}x ({low:.2f}-{high:.2f})",
            f"{row['rows_saved']:.2f}x",
            f"{row['depth']:.1f}",
        )
    Console(width=110).print(table)
