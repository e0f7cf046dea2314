"""Every kernel compiles for every target without a warning, takes no more of it than the committed
table says, moves rows 128 bits at a time, begins to load all rows before it sums any, and orders
memory between blocks."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from support.cuda_resources import (
    RELEASE,
    TABLE,
    TARGETS,
    measure,
    release,
    waits_between_rows,
    why_not,
)
from support.gpu_resources import read_table, worse
from support.memory_order import tokens, unordered, waits_first

from albert_act_fast.ops.contracts import OPERATORS


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.parametrize("target", TARGETS)
def test_machine_code(target):
    """Another nvcc than the table's may allocate other registers, but must not spill."""
    table = [row for row in read_table(TABLE) if row.target == target]
    measured, code = measure(target)
    assert len(measured) == len(table)
    for name, text in code.items():
        found = tokens(text)
        assert waits_between_rows(name, text) is None
        relaxed = ()
        if "halting_step" in name:
            # It is launched between kernels of Triton's, all of which wait for the one before.
            assert waits_first(text, target), name
            # The ticket and the mark of a finished block, which alone is for what others wrote; the
            # two statuses of a tile; those that are looked at: eight, the same once more where they
            # have to be waited for, and by the last block one.
            assert [found.count(kind) for kind in ("atomic", "publish", "ask")] == [2, 2, 17]
            assert found.count("release") == 1
            found.remove("atomic")
            relaxed = ("publish", "ask")
        assert unordered(found, relaxed) == [], name
    assert worse(table, measured, exactly=release() == RELEASE) == []


def test_the_table_holds_what_is_promised():
    table = read_table(TABLE)
    # write_kv is scatter_rows of two tables.
    assert {row.kernel for row in table} == set(OPERATORS) - {"write_kv"}
    assert {row.target for row in table} == set(TARGETS)
    assert all(row.spilled == 0 for row in table)
    for row in table:
        if ", 16 bytes" in row.case and row.kernel != "ragged_attention":
            # Three rows read, two of parameters, one written, for each vector of a thread.
            assert row.wide >= 5, row
        elif "4 bytes" in row.case or "2 bytes" in row.case:
            assert row.wide == 0, row


def test_the_floors_written_down_follow_from_the_table():
    """Registers of docs/gpu_kernels.md, and how many blocks of 8 warps they leave room for: a
    multiprocessor of sm_90 has 65536 registers, given to a warp by 8 per thread, and 64 warps."""
    written = re.findall(
        r"^\| `(\w+)`.* \| (\d+) \| (\d) \|$", (TABLE.parent / "gpu_kernels.md").read_text(), re.M
    )
    assert len(written) == 6
    rows = {(row.kernel, row.case): row for row in read_table(TABLE) if row.target == "sm_90"}
    for kernel, registers, blocks in written:
        columns = 256 if kernel == "embed_tokens" else 768
        case = f"bfloat16, 16 bytes, to {columns} columns"
        if kernel in ("write_kv", "scatter_rows"):
            kernel, case = "scatter_rows", "16 bytes"
        row = rows[kernel, case]
        granted = -(-row.registers // 8) * 8
        assert int(registers) == row.registers
        assert int(blocks) == min(65536 // (granted * 32 * row.warps), 64 // row.warps)


def test_the_check_finds_what_it_is_for():
    table = read_table(TABLE)
    row = table[0]
    assert worse(table, [row], exactly=True) == []
    assert "spills" in worse(table, [replace(row, spilled=8)], exactly=False)[0]
    assert worse(table, [replace(row, wide=row.wide - 1, narrow=row.narrow + 4)], exactly=True)
