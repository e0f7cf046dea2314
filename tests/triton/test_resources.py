"""Every kernel compiles for every target, takes no more of it than the committed table says, orders
memory between programs, and multiplies float32 in float32."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.gpu_resources import Resources, read_table, worse
from support.memory_order import tokens, unordered, waits_first
from support.triton_resources import TABLE, TARGETS, Launch, compile_all, launches

from albert_act_fast.ops import triton_ops

WIDE = ("wide_linear", "wide_project_qkv")
MATRIX = ("linear", "split_linear", "project_qkv", "ragged_attention", *WIDE)
# Whole tiles copied by the GPU itself, and the matrix instructions that read them where they lie.
COPIED = {"sm_90": (r"UTMALDG", r"HGMMA"), "sm_100": (r"UTMALDG", r"UTC\w*MMA")}
# Shared memory that a program may take, in KiB: of sm_80 what all GPUs have that take its tiles.
SHARED = {"sm_80": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99, "gfx942": 64}
PINNED = (Path(__file__).parents[2] / "requirements" / "triton.txt").read_text()

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="Triton is not installed"
    ),
    pytest.mark.skipif(triton_ops.interpreted(), reason="TRITON_INTERPRET=1 compiles nothing"),
]


def pinned_triton() -> bool:
    return f"triton=={importlib.metadata.version('triton')}" in PINNED.split()


def tensor_cores_in_float32(row: Resources) -> bool:
    """NVIDIA's know float32 only cut to TF32; AMD's compute it whole."""
    return row.matrix > 0 and ", float32" in row.case and row.target.startswith("sm_")


def few(launch: Launch) -> bool:
    """One of 16 bits with split products, and the one whose attention once spilled."""
    if launch.case == "4096 wide, float32, 8192 rows":
        return launch.kernel.__name__ == "ragged_attention"
    return launch.case == "base, bfloat16, 64 rows"


# Compiling all for one target takes most of a minute.
@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        *(pytest.param(target, [few], id=f"{target}, few") for target in TARGETS),
        *(pytest.param(target, [], id=target, marks=pytest.mark.slow) for target in TARGETS),
    ],
)
def test_machine_code(target, wanted):
    """Another Triton than the pinned one may allocate other registers, but must not spill."""
    table = [row for row in read_table(TABLE) if row.target == target]
    compiled = compile_all(target, *wanted)
    measured = [kernel.resources for kernel in compiled]
    # The launches are as they are with PyTorch's float32 left at "ieee".
    assert [row for row in measured if tensor_cores_in_float32(row)] == []
    ordered, from_ahead = set(), set()
    for kernel in compiled:
        if kernel.resources.kernel in WIDE:
            for instruction in COPIED[target]:
                assert re.search(rf"\b{instruction}\b", kernel.code), kernel.resources
        found = tokens(kernel.code, amd=target.startswith("gfx"))
        assert waits_first(kernel.code, target, kernel.loads_ahead), kernel.resources
        if kernel.loads_ahead:
            from_ahead.add(kernel.resources.kernel)
            # Multiplied from where they stand.
            assert re.search(rf"\b{COPIED[target][1]}\b", kernel.code), kernel.resources
        decides = kernel.resources.kernel == "decide"
        # Its sums are for the next launch.
        relaxed = ("atomic",) if decides else ()
        assert unordered(found, relaxed) == [], kernel.resources
        assert not decides or found.count("atomic") == 2
        if kernel.resources.kernel in ("move", "split_linear"):
            ordered.add(kernel.resources.kernel)
            # A split product may have a second tile.
            assert found.count("atomic") in ((1,) if kernel.resources.kernel == "move" else (1, 2))
            assert {"release", "acquire", "barrier"} < set(found)
    assert ordered == {"move", "split_linear"}
    assert from_ahead == ({"linear", "split_linear", "project_qkv"} if target in COPIED else set())
    assert worse(table, measured, exactly=pinned_triton()) == []


def test_the_check_finds_what_it_is_for():
    table = read_table(TABLE)
    row = table[0]
    assert worse(table, [row], exactly=True) == []
    spilling = replace(row, spilled=row.spilled + 8)
    assert "spills" in worse(table, [spilling], exactly=False)[0]
    narrow = replace(row, wide=row.wide - 1, narrow=row.narrow + 4)
    assert worse(table, [narrow], exactly=True)
    assert worse(table, [replace(row, case="unheard of")], exactly=False)
    assert not any(tensor_cores_in_float32(row) for row in table)
    assert waits_first("S2R R0 ;\nACQBULK ;\nPREEXIT ;\nLDG.E R1 ;", "sm_90")
    for wrong in ("LDG.E R1 ;\nACQBULK ;", " LDG.E R1 ;", " STG.E R1 ;\n ACQBULK ;"):
        assert not waits_first(wrong, "sm_90")
    assert not waits_first(" ACQBULK ;\n LDG.E R1 ;", "sm_80")
    load, store, wait = " LDG.E.128 R4 ;\n", " STS.128 [R2] ;\n", " ACQBULK ;\n"
    assert waits_first(2 * load + 2 * store + wait + load, "sm_90", 2)
    for wrong in (
        load + store + wait,
        2 * load + store + wait + store,
        2 * load + " LDG.E R1 ;\n" + 2 * store + wait,
        load + store + wait + load + store,
    ):
        assert not waits_first(wrong, "sm_90", 2)
    products = [row for row in table if row.kernel == "linear" and ", float32" in row.case]
    assert tensor_cores_in_float32(replace(products[0], matrix=1))


def test_every_kernel_and_both_kinds_of_access_are_in_the_table():
    table = read_table(TABLE)
    named = {path.stem for path in Path(triton_ops.__file__).parents[2].glob("kernels/*.py")}
    shared = {"layer_norm", "products", "launch_tables", "dependent_launch"}
    launched = named - shared - {"halting_step", "wide_products"} | {"decide", "move", *WIDE}
    assert {row.kernel for row in table} == launched
    assert {row.target for row in table} == set(TARGETS)
    assert all(row.shared <= 1024 * SHARED[row.target] for row in table)
    # In bfloat16 at the published width rows move 128 bits at a time; ids go one by one.
    for row in table:
        if "base, bfloat16" in row.case and row.kernel not in ("count_tokens", "pack_tokens"):
            assert row.wide >= 2, row
    # What is multiplied in 16 bits is multiplied by tensor cores.
    for row in table:
        if row.kernel in MATRIX and "bfloat16" in row.case:
            assert row.matrix > 0, row


def test_launches_are_those_of_the_package():
    recorded = launches("sm_90")
    names = {launch.kernel.__name__ for launch in recorded}
    assert {"decide", "move", *MATRIX} <= names
    assert all(launch.options["enable_fp_fusion"] for launch in recorded)
