"""Implementation `triton` of all operators, and the products over rows counted on the device.

Registered for CUDA devices wherever Triton is installed, and for CPU tensors where Triton's
interpreter was asked for (TRITON_INTERPRET=1), which is how the kernels are tested. Triton and the
kernels are imported by the first call. No host code here reads a tensor's values.

Not yet run on a GPU.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace

import torch
from torch import Tensor

from albert_act_fast.flags import is_set
from albert_act_fast.ops import contracts
from albert_act_fast.ops.precision import takes_tf32

DEPENDENT_LAUNCH = "ALBERT_ACT_FAST_DEPENDENT_LAUNCH"
MAX_HEAD_SIZE = 256
MAX_WEIGHT_SPAN = 2**31
ROW_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ACTIVATIONS = ("none", "gelu", "gelu_tanh", "relu", "silu")


def why_not(device_type: str) -> str | None:
    """None where the kernels run on tensors of that device, else the reason."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    if device_type == "cuda" or (device_type == "cpu" and interpreted()):
        return None
    return (
        f"no triton kernels for {device_type}: they run on GPUs, and on CPU tensors only in "
        "Triton's interpreter, for tests (TRITON_INTERPRET=1)"
    )


def interpreted() -> bool:
    return is_set("TRITON_INTERPRET")


@functools.cache
def loaded_kernels() -> SimpleNamespace:
    """The kernels by name, and their launch tables; imports Triton. An operator's kernel has its
    name, and so has the kernel's module; but the halting step has two, and products of many rows
    have others."""
    names = {name: name for name in (*contracts.OPERATORS, *contracts.TRITON_OPERATORS)}
    del names["halting_step"]
    names |= {"decide": "halting_step", "move": "halting_step"}
    names |= {"wide_linear": "wide_products", "wide_project_qkv": "wide_products"}

    def module(name: str):
        return importlib.import_module(f"albert_act_fast.kernels.{name}")

    kernels = {kernel: getattr(module(name), kernel) for kernel, name in names.items()}
    return SimpleNamespace(**kernels, tables=module("launch_tables"))


def _stride(op: str, name: str, rows: Tensor | None) -> int:
    """The distance between rows, whose columns must be next to each other; 0 without rows."""
    if rows is None:
        return 0
    if rows.size(1) > 1 and rows.size(0) > 0 and rows.stride(1) != 1:
        raise ValueError(f"{op}: {name} has column stride {rows.stride(1)}, expected 1.")
    return rows.stride(0)


def _expect_row_dtype(op: str, name: str, rows: Tensor) -> None:
    if rows.dtype not in ROW_DTYPES:
        raise ValueError(
            f"{op}: {name} is {rows.dtype}, expected one of "
            f"{', '.join(str(dtype) for dtype in ROW_DTYPES)}."
        )


def _expect_small(op: str, name: str, weight: Tensor) -> None:
    """Offsets into rows have 64 bits in the kernels; into a product's weight 32."""
    span = weight.size(0) * weight.stride(0)
    if span >= MAX_WEIGHT_SPAN:
        raise ValueError(
            f"{op}: {name} spans {span} elements, expected fewer than {MAX_WEIGHT_SPAN}."
        )


def _precision(rows: Tensor) -> str:
    """How `tl.dot` takes float32, by PyTorch's own switch; the halves have only one way."""
    return "tf32" if takes_tf32(rows.dtype) else "ieee"


_STRIDE = "_stride"


@functools.cache
def _parameters(kernel: str, operator: type[tuple]) -> tuple[list[str], list[str]]:
    """Which arguments of the operator a kernel takes as they are, and of which the row stride."""
    names = getattr(loaded_kernels(), kernel).arg_names
    strides = [name.removesuffix(_STRIDE) for name in names if name.endswith(_STRIDE)]
    given = operator._fields
    return [name for name in names if name in given], [name for name in strides if name in given]


def _launch(kernel: str, programs: int | tuple[int, ...], a, **more) -> None:
    """Launches a kernel, whose parameters are named as the operator's arguments `a`; `x_stride` is
    the distance between rows of argument `x`. `more`: all others, and those that differ."""
    as_given, strides = _parameters(kernel, type(a))
    arguments = {name: getattr(a, name) for name in as_given}
    op = type(a).__name__
    for name in strides:
        arguments[name + _STRIDE] = _stride(op, name, getattr(a, name))
    grid = (programs,) if isinstance(programs, int) else programs
    tables = loaded_kernels().tables
    device = next(x.device for x in a if isinstance(x, Tensor))
    dependent = tables.dependent_launch(tables.architecture(device)) and is_set(
        DEPENDENT_LAUNCH, default="1"
    )
    # The interpreter knows no such launch.
    options = {"launch_pdl": True} if dependent and not interpreted() else {}
    # Products may be fused with sums, as nvcc does; Triton's own default is about to change.
    getattr(loaded_kernels(), kernel)[grid](
        **(arguments | more), PDL=dependent, enable_fp_fusion=True, **options
    )


def row_by_row(name: str, a) -> None:
    """Operators whose kernel takes each row by itself: as many as the first argument has, as wide
    as the last, which is written."""
    out, count = a[-1], a[0].size(0)
    _expect_row_dtype(name, a._fields[-1], out)
    width = out.size(1)
    if not count * width:
        return
    tables = loaded_kernels().tables
    tile = tables.rows(width, tables.architecture(out.device))
    _launch(name, tables.blocks(count, tile.ROWS), a, count=count, width=width, **asdict(tile))


def ragged_attention(a):
    op, (rows, hidden) = "ragged_attention", a.queries.shape
    _expect_row_dtype(op, "queries", a.queries)
    head_size, sequences = hidden // a.heads, a.query_offsets.numel() - 1
    if head_size > MAX_HEAD_SIZE:
        raise ValueError(f"{op}: a head has {head_size} columns, expected at most {MAX_HEAD_SIZE}.")
    if not a.queries.numel() or not sequences:
        return
    relative = a.distance_embedding is not None
    tables = loaded_kernels().tables
    padded, arch = tables.padded_head(head_size), tables.architecture(a.queries.device)
    tile = tables.attention(padded, a.queries.element_size(), relative, arch)
    _launch(
        "ragged_attention", (rows // tile.BLOCK_Q + sequences, a.heads), a,
        sequences=sequences, head_size=head_size, scale=head_size**-0.5,
        distances=a.distance_embedding.size(0) if relative else 0,
        KEY_DISTANCES=relative and a.key_distances, PRECISION=_precision(a.queries), HEAD=padded,
        **asdict(tile),
    )  # fmt: skip


def halting_step(a):
    rows, width = a.hidden.shape
    _expect_row_dtype("halting_step", "hidden", a.hidden)
    tables = loaded_kernels().tables
    tile = tables.rows(width, tables.architecture(a.hidden.device))
    more = {
        "workspace": a.workspace.view(torch.int32),
        "rows": rows,
        "sequences": a.query_offsets.numel() - 1,
        "width": width,
        **asdict(tile),
    }
    # At least one program: with no row at all, the offsets must still be written.
    programs = max(1, tables.blocks(rows, tile.ROWS))
    _launch("decide", programs, a, **more)
    _launch("move", programs, a, **more, LAST=a.last)


def _wide_products(arch: str, columns: int, x: Tensor, *weights: Tensor):
    """The tiles of a launch whose tiles the GPU copies by itself; None where it does not, or cannot
    because rows do not begin at multiples of 16 bytes."""
    tables = loaded_kernels().tables
    multiprocessors = tables.multiprocessors(x.device)
    wide = tables.wide_products(arch, x.size(0), columns, x.element_size(), multiprocessors)
    if wide is None:
        return None
    for matrix in (x, *weights):
        starts = (matrix.data_ptr(), matrix.stride(0) * matrix.element_size())
        if any(start % 16 for start in starts):
            return None
    return wide


def _tiles(matrix: Tensor, rows: int, columns: int):
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), [rows, columns])


def _wide_launch(kernel: str, programs: int, a, wide, weights: dict[str, Tensor], **more) -> None:
    """A launch whose tiles the GPU copies by itself. weights: by what the names of their tiles
    begin with. Of a number of columns that is no power of two there are two, left and right."""
    tables = loaded_kernels().tables
    device = next(iter(weights.values())).device
    left = tables.left_columns(wide.BLOCK_N)
    right = wide.BLOCK_N - left
    tiles = {}
    for name, weight in weights.items():
        in_one = left == right
        tiles[f"{name}tiles"] = _tiles(weight, wide.BLOCK_N if in_one else left, wide.BLOCK_K)
        tiles[f"{name}right_tiles"] = None if in_one else _tiles(weight, right, wide.BLOCK_K)
    _launch(
        kernel, min(tables.multiprocessors(device), programs), a, **tiles, **more, LEFT=left,
        SPECIALIZED=tables.specialized(tables.architecture(device)), **asdict(wide),
    )  # fmt: skip


def _steps_ahead_and_tile(a, arch: str, x: Tensor, splits: int = 1):
    """Steps of the weight that are loaded ahead, and the tiles, of a product with rows `x`."""
    tables, (rows, depth) = loaded_kernels().tables, x.shape
    ahead = 0
    if a.weights_settled:
        ahead = tables.steps_ahead(arch, rows, depth, x.element_size(), splits)
    return ahead, tables.products(arch, rows, x.element_size(), ahead)


def linear(a):
    op, (rows, depth), columns = "linear", a.x.shape, a.weight.size(0)
    _expect_row_dtype(op, "x", a.x)
    if a.activation not in ACTIVATIONS:
        raise ValueError(
            f"{op}: activation is {a.activation!r}, expected one of {', '.join(ACTIVATIONS)}."
        )
    _expect_small(op, "weight", a.weight)
    if not a.out.numel():
        return
    tables = loaded_kernels().tables
    arch = tables.architecture(a.x.device)
    wide = _wide_products(arch, columns, a.x, a.weight)
    if wide is not None:
        _wide_launch(
            "wide_linear", wide.programs(rows, columns), a, wide, {"weight_": a.weight},
            x_tiles=_tiles(a.x, wide.BLOCK_M, wide.BLOCK_K),
            rows=rows, columns=columns, depth=depth,
            ACTIVATION=a.activation, PRECISION=_precision(a.x),
        )  # fmt: skip
        return
    ahead, tile = _steps_ahead_and_tile(a, arch, a.x)
    _launch(
        "linear", tile.programs(rows, columns), a, rows=rows, columns=columns, depth=depth,
        ACTIVATION=a.activation, PRECISION=_precision(a.x), AHEAD=ahead, **asdict(tile),
    )  # fmt: skip


def split_linear(a):
    op, (rows, depth), columns = "split_linear", a.x.shape, a.weight.size(0)
    _expect_row_dtype(op, "x", a.x)
    _expect_small(op, "weight", a.weight)
    if not a.out.numel():
        return
    tables = loaded_kernels().tables
    expected = tables.split_marks(rows, columns)
    if a.arrived.numel() < expected or not (a.arrived.is_contiguous() and a.parts.is_contiguous()):
        raise ValueError(
            f"{op}: arrived has {a.arrived.numel()} entries, expected at least {expected}; both it "
            "and parts contiguous."
        )
    splits = a.parts.size(0)
    ahead, tile = _steps_ahead_and_tile(a, tables.architecture(a.x.device), a.x, splits)
    _launch(
        op, splits * tile.programs(rows, columns), a, rows=rows, columns=columns, depth=depth,
        SPLITS=splits, PRECISION=_precision(a.x), AHEAD=ahead, **asdict(tile),
    )  # fmt: skip


def project_qkv(a):
    op, (rows, width) = "project_qkv", a.hidden.shape
    _expect_row_dtype(op, "hidden", a.hidden)
    for i, weight in enumerate(a.weights):
        _expect_small(op, f"weights[{i}]", weight)
    strides = {_stride(op, f"weights[{i}]", weight) for i, weight in enumerate(a.weights)}
    if len(strides) != 1:
        raise ValueError(f"{op}: the weights have row strides {sorted(strides)}, expected one.")
    if not rows:
        return
    tables = loaded_kernels().tables
    arch = tables.architecture(a.hidden.device)
    kinds = ("query", "key", "value")
    given = {
        **dict(zip((f"{kind}_weight" for kind in kinds), a.weights, strict=True)),
        **dict(zip((f"{kind}_bias" for kind in kinds), a.biases, strict=True)),
        "width": width,
        "weight_stride": strides.pop(),
        "PRECISION": _precision(a.hidden),
    }
    wide = _wide_products(arch, 3 * width, a.hidden, *a.weights)
    if wide is not None:
        _wide_launch(
            "wide_project_qkv", 3 * wide.programs(rows, width), a, wide,
            dict(zip((f"{kind}_" for kind in kinds), a.weights, strict=True)), **given,
            hidden_tiles=_tiles(a.hidden, wide.BLOCK_M, wide.BLOCK_K),
        )  # fmt: skip
        return
    ahead, tile = _steps_ahead_and_tile(a, arch, a.hidden)
    _launch("project_qkv", 3 * tile.programs(rows, width), a, **given, AHEAD=ahead, **asdict(tile))


def _padded(a, tokens: int):
    """The arguments with masks as numbers, and how many columns a program looks at at a time."""
    if a.attention_mask is not None and a.attention_mask.dtype == torch.bool:
        a = a._replace(attention_mask=a.attention_mask.view(torch.uint8))
    return a, loaded_kernels().tables.columns(tokens)


def count_tokens(a):
    a, columns = _padded(a, a.tokens)
    sequences = a.found.size(1)
    if sequences:
        _launch("count_tokens", sequences, a, sequences=sequences, COLUMNS=columns)


def pack_tokens(a):
    a, columns = _padded(a, a.tokens)
    sequences = a.row_of_place.size(0) // a.tokens
    _launch("pack_tokens", a.key_offsets.numel(), a, sequences=sequences, COLUMNS=columns)


def unpack_rows(a):
    _expect_row_dtype("unpack_rows", "rows", a.rows)
    places, width = a.out.shape
    if not places * width:
        return
    tables = loaded_kernels().tables
    tile = tables.rows(width, tables.architecture(a.out.device))
    _launch(
        "unpack_rows", tables.blocks(places, tile.ROWS), a, places=places, width=width,
        **asdict(tile),
    )  # fmt: skip


def launcher_of(name: str) -> Callable[[tuple], None]:
    """What launches an operator's kernels, given its arguments."""
    return globals().get(name) or functools.partial(row_by_row, name)


def _register() -> None:
    kinds = [kind for kind in ("CUDA", "CPU") if why_not(kind.lower()) is None]
    for name in (*contracts.OPERATORS, *contracts.TRITON_OPERATORS):
        function = launcher_of(name)

        def on_its_device(a, function=function):
            # Triton launches on the current device.
            with torch.cuda.device_of(next(x for x in a if isinstance(x, Tensor))):
                function(a)

        for kind in kinds:
            contracts.register(name, "triton", on_its_device, kind)


_register()
