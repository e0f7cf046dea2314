"""What the Triton kernels take of a GPU, found out by compiling them for it; needs no GPU.

    make resources      # compiles everything and writes docs/triton_resources.csv

Each launch is made by the package's own code on meta tensors of a real model's sizes and recorded
instead of run, so that what is compiled is what a GPU would be given: types, alignments, tile
sizes of the launch tables.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch

from albert_act_fast import AlbertActConfig
from albert_act_fast.engine.halting import (
    Finished,
    HaltingWeights,
    RunningRows,
    halting_step_arguments,
)
from albert_act_fast.kernels import launch_tables
from albert_act_fast.ops import contracts, triton_ops
from support.gpu_resources import Resources, disassemble, read_cubin, write_table

TABLE = Path(__file__).parents[2] / "docs" / "triton_resources.csv"
TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942")
# Rows of the launches: a capacity, of which any number may be live.
SIZES = {"base": (768, 12, 3072, 128), "4096 wide": (4096, 16, 16384, 4096)}


# Those whose operands `_launch_all` makes of a model's own sizes; any other's are as in the tests.
LAUNCHED = {"ragged_attention", "embed_tokens", "write_kv", "add_layer_norm", "halting_step"}
LAUNCHED |= {"scatter_rows"}


@dataclass(frozen=True)
class Launch:
    kernel: object
    case: str
    arguments: dict
    options: dict


_OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion", "launch_pdl")


class _Recorder:
    def __init__(self, kernel, launches: list[Launch], case: str):
        self.kernel, self.launches, self.case = kernel, launches, case
        self.arg_names = kernel.arg_names

    def __getitem__(self, grid):
        def record(*positional, **named):
            options = {k: named.pop(k) for k in _OPTIONS if k in named}
            arguments = dict(zip(self.kernel.arg_names, positional, strict=False)) | named
            self.launches.append(Launch(self.kernel, self.case, arguments, options))

        return record


def launches(target: str) -> list[Launch]:
    """Every kernel at several sizes, dtypes and options."""
    recorded: list[Launch] = []
    for size, dtype, rows, extra in _cases():
        hidden, heads, inner, embedding = SIZES[size]
        case = ", ".join([size, str(dtype).removeprefix("torch."), f"{rows} rows", *extra])
        loaded = triton_ops.loaded_kernels()
        fake = {
            name: value if name == "tables" else _Recorder(value, recorded, case)
            for name, value in vars(loaded).items()
        }
        tables = loaded.tables
        with (
            mock.patch.object(triton_ops, "loaded_kernels", return_value=SimpleNamespace(**fake)),
            mock.patch.object(tables, "architecture", return_value=target),
        ):
            _launch_all(target, dtype, rows, hidden, heads, inner, embedding, extra)
    unique = {}
    for launch in recorded:
        unique.setdefault((launch.kernel.__name__, _key(launch)), launch)
    return list(unique.values())


def _cases() -> Iterator[tuple[str, torch.dtype, int, tuple[str, ...]]]:
    for rows in (64, 512, 2048, 4096, 8192):
        yield "base", torch.bfloat16, rows, ()
    yield "base", torch.float32, 8192, ()
    yield "base", torch.bfloat16, 8192, ("relative",)
    yield "4096 wide", torch.float32, 8192, ()


def _launch_all(target, dtype, rows, hidden, heads, inner, embedding, extra) -> None:
    def x(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    def call(name, *values):
        triton_ops.launcher_of(name)(contracts.ARGUMENTS[name](*values))

    index, state, count = x(rows, dtype=torch.int64), x(rows, dtype=torch.float32), x(1).long()
    offsets, norm = x(65, dtype=torch.int64), (x(hidden), x(hidden), 1e-12)
    distances = x(1023, hidden // heads) if extra else None
    row, store = x(rows, hidden), (x(rows, hidden), x(rows, hidden))
    call(
        "ragged_attention",
        row, *store, offsets, offsets, index, index, heads, distances, bool(extra), x(rows, hidden),
    )  # fmt: skip
    if extra:
        return
    call(
        "embed_tokens",
        index, index, index, x(30000, embedding), x(2, embedding), x(512, embedding), x(embedding),
        x(embedding), 1e-12, count, x(rows, embedding),
    )  # fmt: skip
    call("write_kv", row, row, index, count, *store)
    call("add_layer_norm", row, row, *norm, count, x(rows, hidden))
    workspace = x(contracts.halting_workspace(rows), dtype=torch.int64)
    running, finished = RunningRows(row, state, index, offsets), Finished(row, state, state)
    weights, limits = HaltingWeights(*norm, x(1, hidden), x(1)), AlbertActConfig().halting_limits
    for ffn_input in (None, row):
        arguments = halting_step_arguments(
            running, running, finished, weights, limits, 2, workspace, row, ffn_input
        )
        call("halting_step", *arguments)
    call("scatter_rows", row, index, count, row)
    for name in contracts.OPERATORS.keys() - LAUNCHED:
        from suite.operator_calls import MAKERS, Maker

        made = MAKERS[name](Maker(0, dtype, False), hidden, [rows]).to("meta")
        call(name, *made.arguments.values())
    weight = x(hidden, hidden)
    call("project_qkv", row, [weight] * 3, [x(hidden)] * 3, index, count, count, row, *store, True)
    call("linear", row, weight, x(hidden), None, count, "none", x(rows, hidden), True)
    call("linear", row, x(inner, hidden), x(inner), None, count, "gelu", x(rows, inner), True)
    call("linear", x(rows, inner), x(hidden, inner), x(hidden), row, count, "none", row, True)
    for depth, residual in ((hidden, None), (inner, row)):
        splits = launch_tables.splits(
            target, rows, depth, hidden, dtype.itemsize, launch_tables.multiprocessors(row.device)
        )
        if splits > 1:
            parts = x(splits, rows, hidden, dtype=torch.float32)
            marks = x(launch_tables.split_marks(rows, hidden), dtype=torch.int32)
            deep, out = (x(rows, depth), x(hidden, depth), x(hidden)), x(rows, hidden)
            call("split_linear", *deep, residual, count, parts, marks, out, True)
    ids, mask = x(64, 128, dtype=torch.int64), x(64, 128, dtype=torch.bool)
    for given in ((ids, mask, ids, ids), (None, x(64, 128, dtype=torch.float32), None, None)):
        found, offsets = x(2, 64, dtype=torch.int32), x(66, dtype=torch.int64)
        call("count_tokens", *given, 128, 30000, 2, 512, found)
        places = (x(64 * 128, dtype=torch.int64), index, index, index, index, state, index)
        call("pack_tokens", *given, offsets, 128, *places, offsets, offsets)
    call(
        "unpack_rows", row, state, state, places[0], x(64 * 128, hidden), *[x(64 * 128).float()] * 2
    )


def _signature(launch: Launch) -> tuple[dict, dict, dict]:
    """Types, constants and alignments, as Triton finds them when a kernel is called."""
    from triton.runtime.jit import mangle_type
    from triton.tools.tensor_descriptor import TensorDescriptor

    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name], constants[(place,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + _TYPES[value.dtype]
            attributes[(place,)] = [["tt.divisibility", 16]]
        elif isinstance(value, TensorDescriptor):
            signature[parameter.name] = mangle_type(value)
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        elif value == 1 and not parameter.do_not_specialize:
            signature[parameter.name], constants[(place,)] = "constexpr", value
        else:
            signature[parameter.name] = "i32"
            if value % 16 == 0 and not parameter.do_not_specialize:
                attributes[(place,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


_TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
}


def _key(launch: Launch) -> str:
    return repr((_signature(launch), launch.options))


@dataclass(frozen=True, order=True)
class Compiled:
    resources: Resources
    code: str  # in the target's assembly
    # Of a weight, 128 bits each, that a thread makes before it waits for the kernel before.
    loads_ahead: int


def compile_launch(launch: Launch, target: str) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(launch.kernel, *_signature(launch))
    if target.startswith("sm_"):
        gpu = GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
    else:
        gpu = GPUTarget("hip", target, 64)
    compiled = triton.compile(source, target=gpu, options=launch.options)
    read = _from_cubin if gpu.backend == "cuda" else _from_assembly
    code, used = read(compiled.asm)
    resources = Resources(
        kernel=launch.kernel.__name__,
        case=launch.case,
        target=target,
        warps=compiled.metadata.num_warps,
        shared=compiled.metadata.shared,
        **used,
    )
    return Compiled(resources, code, _loads_ahead(launch))


def _loads_ahead(launch: Launch) -> int:
    given = launch.arguments
    if not given.get("AHEAD"):
        return 0
    weight = next(value for name, value in given.items() if name.endswith("weight"))
    elements = given["AHEAD"] * given["BLOCK_N"] * given["BLOCK_K"]
    return elements * weight.element_size() // (16 * 32 * launch.options["num_warps"])


def _from_cubin(asm: dict) -> tuple[str, dict[str, int]]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(asm["cubin"])
        cubin.flush()
        code = disassemble(cubin.name)
        (kernel,) = read_cubin(cubin.name, code).values()
    # Triton's is all dynamic; it stands in the metadata.
    del kernel["shared"]
    return "".join(code.values()), kernel


def _from_assembly(asm: dict) -> tuple[str, dict[str, int]]:
    code = asm["amdgcn"]
    used = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count|sgpr_spill_count):\s*(\d+)", code))
    return code, {
        "registers": int(used["vgpr_count"]),
        "spilled": int(used["vgpr_spill_count"]) + int(used["sgpr_spill_count"]),
        "wide": len(re.findall(r"\s(?:buffer|global)_(?:load|store)_dwordx4", code)),
        "narrow": len(re.findall(r"\s(?:buffer|global)_(?:load|store)_(?!dwordx4)", code)),
        "matrix": len(re.findall(r"\sv_mfma", code)),
    }


def compile_all(
    target: str, wanted: Callable[[Launch], bool] = lambda launch: True
) -> list[Compiled]:
    return sorted(compile_launch(launch, target) for launch in launches(target) if wanted(launch))


def main() -> None:
    sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # as pytest does
    rows: list[Resources] = []
    for target in TARGETS:
        print(f"compiling for {target}", file=sys.stderr)
        rows += [kernel.resources for kernel in compile_all(target)]
    write_table(TABLE, rows)


if __name__ == "__main__":
    main()
