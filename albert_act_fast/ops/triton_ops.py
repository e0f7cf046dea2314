"""Implementation `triton` of all operators, and the products over rows counted on the device.

Registered for CUDA devices wherever Triton is installed, and for CPU tensors where Triton's
interpreter was asked for (TRITON_INTERPRET=1), which is how the kernels are tested. Triton and the
kernels are imported by the first call. No host code here reads a tensor's values.

Not yet run on a GPU.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import asdict
from types import SimpleNamespace

import torch
from torch import Tensor

from albert_act_fast.ops import contracts

MAX_HEAD_SIZE = 256
_ROW_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
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
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


_kernels: SimpleNamespace | None = None


def _load() -> SimpleNamespace:
    """The kernels by name, and their launch tables; imports Triton."""
    global _kernels
    if _kernels is None:
        from albert_act_fast.kernels import halting_step, launch_tables
        from albert_act_fast.kernels.add_layer_norm import add_layer_norm
        from albert_act_fast.kernels.embed_tokens import embed_tokens
        from albert_act_fast.kernels.linear import linear
        from albert_act_fast.kernels.project_qkv import project_qkv
        from albert_act_fast.kernels.ragged_attention import ragged_attention
        from albert_act_fast.kernels.scatter_rows import scatter_rows
        from albert_act_fast.kernels.write_kv import write_kv

        _kernels = SimpleNamespace(
            add_layer_norm=add_layer_norm,
            decide=halting_step.decide,
            embed_tokens=embed_tokens,
            linear=linear,
            move=halting_step.move,
            project_qkv=project_qkv,
            ragged_attention=ragged_attention,
            scatter_rows=scatter_rows,
            tables=launch_tables,
            write_kv=write_kv,
        )
    return _kernels


def _stride(op: str, name: str, rows: Tensor) -> int:
    """The distance between rows, whose columns must be next to each other."""
    if rows.size(1) > 1 and rows.size(0) > 0 and rows.stride(1) != 1:
        raise ValueError(f"{op}: {name} has column stride {rows.stride(1)}, expected 1.")
    return rows.stride(0)


def _strides(op: str, **rows: Tensor) -> list[int]:
    return [_stride(op, name, tensor) for name, tensor in rows.items()]


def _expect_row_dtype(op: str, name: str, rows: Tensor) -> None:
    if rows.dtype not in _ROW_DTYPES:
        raise ValueError(
            f"{op}: {name} is {rows.dtype}, expected one of "
            f"{', '.join(str(dtype) for dtype in _ROW_DTYPES)}."
        )


def _precision(rows: Tensor) -> str:
    """How `tl.dot` takes float32, by PyTorch's own switch; the halves have only one way."""
    exact = torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact or rows.dtype != torch.float32 else "tf32"


def _launch(name: str, programs: tuple[int, ...], *arguments, **named) -> None:
    """Products may be fused with sums, as nvcc does; Triton's own default is about to change."""
    getattr(_load(), name)[programs](*arguments, **named, enable_fp_fusion=True)


def _blocks(count: int, size: int) -> int:
    return (count + size - 1) // size


def embed_tokens(
    token_ids, token_type_ids, position_ids, word, token_type, position, ln_weight, ln_bias, eps,
    row_count, out,
):  # fmt: skip
    op, (rows, width) = "embed_tokens", out.shape
    _expect_row_dtype(op, "word", word)
    if not out.numel():
        return
    tile = _load().tables.rows(width)
    strides = _strides(op, word=word, token_type=token_type)
    strides.append(0 if position is None else _stride(op, "position", position))
    _launch(
        "embed_tokens", (_blocks(rows, tile.ROWS),),
        token_ids, token_type_ids, position_ids, word, token_type, position, ln_weight, ln_bias,
        eps, row_count, out, rows, width, *strides, _stride(op, "out", out), **asdict(tile),
    )  # fmt: skip


def write_kv(keys, values, token_index, row_count, key_store, value_store):
    op, (rows, width) = "write_kv", keys.shape
    if not keys.numel():
        return
    tile = _load().tables.rows(width)
    strides = _strides(op, keys=keys, values=values, key_store=key_store, value_store=value_store)
    _launch(
        "write_kv", (_blocks(rows, tile.ROWS),),
        keys, values, token_index, row_count, key_store, value_store, rows, width, *strides,
        **asdict(tile),
    )  # fmt: skip


def ragged_attention(
    queries, key_store, value_store, query_offsets, key_offsets, token_index, positions, heads,
    distance_embedding, key_distances, out,
):  # fmt: skip
    op, (rows, hidden) = "ragged_attention", queries.shape
    _expect_row_dtype(op, "queries", queries)
    head_size, sequences = hidden // heads, query_offsets.numel() - 1
    if head_size > MAX_HEAD_SIZE:
        raise ValueError(f"{op}: a head has {head_size} columns, expected at most {MAX_HEAD_SIZE}.")
    if not queries.numel() or not sequences:
        return
    relative = distance_embedding is not None
    padded = _load().tables.padded_head(head_size)
    tile = _load().tables.attention(padded, queries.element_size(), relative)
    strides = _strides(op, queries=queries, key_store=key_store, value_store=value_store)
    strides.append(_stride(op, "distance_embedding", distance_embedding) if relative else 0)
    _launch(
        "ragged_attention", (rows // tile.BLOCK_Q + sequences, heads),
        queries, key_store, value_store, query_offsets, key_offsets, token_index, positions,
        distance_embedding, out, sequences, head_size, head_size**-0.5,
        distance_embedding.size(0) if relative else 0, *strides, _stride(op, "out", out),
        KEY_DISTANCES=relative and key_distances, PRECISION=_precision(queries), HEAD=padded,
        **asdict(tile),
    )  # fmt: skip


def add_layer_norm(x, residual, weight, bias, eps, row_count, out):
    op, (rows, width) = "add_layer_norm", x.shape
    _expect_row_dtype(op, "x", x)
    if not x.numel():
        return
    tile = _load().tables.rows(width)
    _launch(
        "add_layer_norm", (_blocks(rows, tile.ROWS),),
        x, residual, weight, bias, eps, row_count, out, rows, width,
        *_strides(op, x=x, residual=residual, out=out), **asdict(tile),
    )  # fmt: skip


def halting_step(
    ffn_output, ffn_input, hidden, ln_weight, ln_bias, eps, halting_weight, halting_bias,
    threshold, iteration, last, accumulated_probability, token_index, query_offsets,
    next_hidden, next_accumulated_probability, next_token_index, next_query_offsets, workspace,
    out, n_updates, remainders,
):  # fmt: skip
    op, (rows, width) = "halting_step", hidden.shape
    _expect_row_dtype(op, "hidden", hidden)
    sequences = query_offsets.numel() - 1
    tile = _load().tables.rows(width)
    # At least one program: with no row at all, the offsets must still be written.
    grid = (max(1, _blocks(rows, tile.ROWS)),)
    strides = _strides(op, ffn_output=ffn_output)
    strides.append(0 if ffn_input is None else _stride(op, "ffn_input", ffn_input))
    workspace = workspace.view(torch.int32)
    _launch(
        "decide", grid,
        ffn_output, ffn_input, ln_weight, ln_bias, eps, halting_weight, halting_bias, threshold,
        accumulated_probability, query_offsets, workspace, rows, sequences, width, *strides,
        **asdict(tile),
    )  # fmt: skip
    _launch(
        "move", grid,
        ffn_output, ffn_input, hidden, ln_weight, ln_bias, eps, threshold, iteration,
        accumulated_probability, token_index, query_offsets,
        next_hidden, next_accumulated_probability, next_token_index, next_query_offsets,
        workspace, out, n_updates, remainders, rows, sequences, width, *strides,
        *_strides(op, hidden=hidden, next_hidden=next_hidden, out=out), LAST=last, **asdict(tile),
    )  # fmt: skip


def scatter_rows(rows, row_index, row_count, out):
    op, (count, width) = "scatter_rows", rows.shape
    if not rows.numel():
        return
    tile = _load().tables.rows(width)
    _launch(
        "scatter_rows", (_blocks(count, tile.ROWS),),
        rows, row_index, row_count, out, count, width, *_strides(op, rows=rows, out=out),
        **asdict(tile),
    )  # fmt: skip


def linear(x, weight, bias, residual, row_count, activation, out):
    op, (rows, depth), columns = "linear", x.shape, weight.size(0)
    _expect_row_dtype(op, "x", x)
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{op}: activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}."
        )
    if not out.numel():
        return
    tables = _load().tables
    tile = tables.products(tables.architecture(x.device), rows, x.element_size())
    _launch(
        "linear", (tile.programs(rows, columns),),
        x, weight, bias, residual, row_count, out, rows, columns, depth,
        *_strides(op, x=x, weight=weight),
        0 if residual is None else _stride(op, "residual", residual),
        _stride(op, "out", out),
        ACTIVATION=activation, PRECISION=_precision(x), **asdict(tile),
    )  # fmt: skip


def project_qkv(
    hidden, weights, biases, token_index, running_count, moved_count, queries, key_store,
    value_store,
):  # fmt: skip
    op, (rows, width) = "project_qkv", hidden.shape
    _expect_row_dtype(op, "hidden", hidden)
    strides = {_stride(op, f"weights[{i}]", weight) for i, weight in enumerate(weights)}
    if len(strides) != 1:
        raise ValueError(f"{op}: the weights have row strides {sorted(strides)}, expected one.")
    if not rows:
        return
    tables = _load().tables
    tile = tables.products(tables.architecture(hidden.device), rows, hidden.element_size())
    _launch(
        "project_qkv", (3 * tile.programs(rows, width),),
        hidden, *weights, *biases, token_index, running_count, moved_count,
        queries, key_store, value_store, width, _stride(op, "hidden", hidden), *strides,
        *_strides(op, queries=queries, key_store=key_store, value_store=value_store),
        PRECISION=_precision(hidden), **asdict(tile),
    )  # fmt: skip


def _register() -> None:
    kinds = [kind for kind in ("CUDA", "CPU") if why_not(kind.lower()) is None]
    for name in (*contracts.OPERATORS, "linear", "project_qkv"):
        function = globals()[name]

        def on_its_device(*arguments, function=function):
            # Triton launches on the current device.
            with torch.cuda.device_of(next(x for x in arguments if isinstance(x, Tensor))):
                function(*arguments)

        for kind in kinds:
            contracts.register(name, "triton", on_its_device, kind)


_register()
