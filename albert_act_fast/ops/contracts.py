"""What every operator computes: schemas, shape checks, fakes. Needs only torch.

An operator's name is its mathematics, its *overload* names who computes it:
`torch.ops.albert_act_fast.halting_step.torch`, `.cpp`, `.triton`, `.cuda`. All overloads of a name
share one schema and one fake; an implementation only registers kernels for schemas defined here.

Conventions. Rows are *packed*: the tokens of all sequences one after the other, padding left out.
R rows of this iteration, T tokens in the batch, B sequences, H hidden size, E embedding size,
A heads, D = H / A. Sequence b owns rows `offsets[b]` to `offsets[b + 1]`. Indices are int64.
Outputs are written into tensors the caller provides (never read before they are written, so they
may hold anything), because a captured GPU graph can allocate nothing. `R` is an upper bound: rows
from `query_offsets[B]` (or `row_count[0]`, where given) on are not live, and an implementation
neither reads nor writes them. Both are read where the rows are, never by the host of a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NAMESPACE = "albert_act_fast"
IMPLEMENTATIONS = ("torch", "cpp", "triton", "cuda")

_library = torch.library.Library(NAMESPACE, "DEF")


def _expect_shapes(op: str, shapes: dict[str, tuple[Tensor, tuple]]) -> None:
    for name, (tensor, expected) in shapes.items():
        torch._check_value(
            tuple(tensor.shape) == expected,
            lambda name=name, tensor=tensor, expected=expected: (
                f"{op}: {name} has shape {tuple(tensor.shape)}, expected {expected}."
            ),
        )


def _row_count(row_count: Tensor | None) -> dict[str, tuple[Tensor, tuple]]:
    return {} if row_count is None else {"row_count": (row_count, (1,))}


def halting_workspace(rows: int) -> int:
    """Length of `halting_step`'s workspace for `rows` rows."""
    return rows + 8


def _check_embed_tokens(
    token_ids,
    token_type_ids,
    position_ids,
    word,
    token_type,
    position,
    ln_weight,
    ln_bias,
    eps,
    row_count,
    out,
):
    tokens, width = token_ids.size(0), word.size(1)
    shapes = {
        "token_type_ids": (token_type_ids, (tokens,)),
        "position_ids": (position_ids, (tokens,)),
        "token_type": (token_type, (token_type.size(0), width)),
        "ln_weight": (ln_weight, (width,)),
        "ln_bias": (ln_bias, (width,)),
        "out": (out, (tokens, width)),
        **_row_count(row_count),
    }
    if position is not None:
        shapes["position"] = (position, (position.size(0), width))
    _expect_shapes("embed_tokens", shapes)


def _check_write_kv(keys, values, token_index, row_count, key_store, value_store):
    _expect_shapes(
        "write_kv",
        {
            "values": (values, tuple(keys.shape)),
            "token_index": (token_index, (keys.size(0),)),
            "key_store": (key_store, (key_store.size(0), keys.size(1))),
            "value_store": (value_store, (key_store.size(0), keys.size(1))),
            **_row_count(row_count),
        },
    )


def _check_ragged_attention(
    queries,
    key_store,
    value_store,
    query_offsets,
    key_offsets,
    token_index,
    positions,
    heads,
    distance_embedding,
    key_distances,
    out,
):
    rows, hidden = queries.shape
    tokens = key_store.size(0)
    torch._check_value(
        hidden % heads == 0,
        lambda: f"ragged_attention: {hidden} columns cannot be divided among {heads} heads.",
    )
    shapes = {
        "key_store": (key_store, (tokens, hidden)),
        "value_store": (value_store, (tokens, hidden)),
        "query_offsets": (query_offsets, tuple(key_offsets.shape)),
        "token_index": (token_index, (rows,)),
        "positions": (positions, (tokens,)),
        "out": (out, (rows, hidden)),
    }
    if distance_embedding is not None:
        distances = distance_embedding.size(0)
        shapes["distance_embedding"] = (distance_embedding, (distances, hidden // heads))
    _expect_shapes("ragged_attention", shapes)


def _check_add_layer_norm(x, residual, weight, bias, eps, row_count, out):
    _expect_shapes(
        "add_layer_norm",
        {
            "residual": (residual, tuple(x.shape)),
            "weight": (weight, (x.size(1),)),
            "bias": (bias, (x.size(1),)),
            "out": (out, tuple(x.shape)),
            **_row_count(row_count),
        },
    )


def _check_halting_step(
    ffn_output,
    ffn_input,
    hidden,
    ln_weight,
    ln_bias,
    eps,
    halting_weight,
    halting_bias,
    threshold,
    iteration,
    last,
    accumulated_probability,
    token_index,
    query_offsets,
    next_hidden,
    next_accumulated_probability,
    next_token_index,
    next_query_offsets,
    workspace,
    out,
    n_updates,
    remainders,
):
    rows, width = hidden.shape
    tokens = out.size(0)
    _expect_shapes(
        "halting_step",
        {
            "ffn_output": (ffn_output, (rows, width)),
            **({} if ffn_input is None else {"ffn_input": (ffn_input, (rows, width))}),
            "ln_weight": (ln_weight, (width,)),
            "ln_bias": (ln_bias, (width,)),
            "halting_weight": (halting_weight, (1, width)),
            "halting_bias": (halting_bias, (1,)),
            "accumulated_probability": (accumulated_probability, (rows,)),
            "token_index": (token_index, (rows,)),
            "next_hidden": (next_hidden, (rows, width)),
            "next_accumulated_probability": (next_accumulated_probability, (rows,)),
            "next_token_index": (next_token_index, (rows,)),
            "next_query_offsets": (next_query_offsets, tuple(query_offsets.shape)),
            "out": (out, (tokens, width)),
            "n_updates": (n_updates, (tokens,)),
            "remainders": (remainders, (tokens,)),
            "workspace": (workspace, (halting_workspace(rows),)),
        },
    )


def _check_scatter_rows(rows, row_index, row_count, out):
    _expect_shapes(
        "scatter_rows",
        {
            "row_index": (row_index, (rows.size(0),)),
            "out": (out, (out.size(0), rows.size(1))),
            **_row_count(row_count),
        },
    )


# name: (schema, shape check). What each computes is said once, here.
OPERATORS: dict[str, tuple[str, Callable]] = {
    # out[r] = LayerNorm(word[token_ids[r]] + token_type[token_type_ids[r]]
    #                    + position[position_ids[r]]); no position term where `position` is None.
    # `word` may be any table of rows: given embeddings are one, indexed by their own order.
    "embed_tokens": (
        "(Tensor token_ids, Tensor token_type_ids, Tensor position_ids, Tensor word, "
        "Tensor token_type, Tensor? position, Tensor ln_weight, Tensor ln_bias, float eps, "
        "Tensor? row_count, Tensor(a!) out) -> ()",
        _check_embed_tokens,
    ),
    # key_store[token_index[r]] = keys[r]; value_store[token_index[r]] = values[r].
    "write_kv": (
        "(Tensor keys, Tensor values, Tensor token_index, Tensor? row_count, "
        "Tensor(a!) key_store, Tensor(b!) value_store) -> ()",
        _check_write_kv,
    ),
    # out[r] = softmax(q k^T / sqrt(D) + relative) v, heads side by side in a row, over all tokens
    # of r's own sequence (rows key_offsets[b] to key_offsets[b + 1] of the stores).
    # relative = q . e, or (q + k) . e where `key_distances`, with
    # e = distance_embedding[position of the query - position of the key + (rows - 1) / 2];
    # absent where `distance_embedding` is None. `positions` is each token's place in its sequence.
    "ragged_attention": (
        "(Tensor queries, Tensor key_store, Tensor value_store, Tensor query_offsets, "
        "Tensor key_offsets, Tensor token_index, Tensor positions, int heads, "
        "Tensor? distance_embedding, bool key_distances, Tensor(a!) out) -> ()",
        _check_ragged_attention,
    ),
    # out = LayerNorm(x + residual)
    "add_layer_norm": (
        "(Tensor x, Tensor residual, Tensor weight, Tensor bias, float eps, Tensor? row_count, "
        "Tensor(a!) out) -> ()",
        _check_add_layer_norm,
    ),
    # The end of an iteration, for every running row r:
    #   g = LayerNorm(ffn_output + ffn_input); p = sigmoid(g . halting_weight + halting_bias)
    #   (`ffn_input` is None where `ffn_output` is the sum already)
    #   halting rule on accumulated_probability with p, giving the weight w; h = w g + (1 - w) h
    # p, the rule and the mix in float32. Then the rows part, each going to ONE packed slot:
    #   the rows that run on, in their order, to next slots 0, 1, ... (their accumulated
    #   probability and token index with them; next_query_offsets are their sequence offsets);
    #   the rows that halted, from the last live slot backwards (h and token index only): together
    #   all live slots of next_hidden are the rows that moved, whose K/V must be projected anew.
    # A row that halted is also finished: out[token] = h, n_updates[token] = iteration,
    # remainders[token] = its remainder. Two more kinds of rows leave so, with remainder 0:
    # those whose accumulated probability is exactly 1 (possible where the threshold is 1), and
    # those whose p is NaN, with n_updates[token] = iteration - 1.
    # Where `last`, or where every row that would run on equals the threshold exactly (so that no
    # further iteration is due), those rows are finished too: n_updates[token] = iteration,
    # remainders[token] = 0, all next_query_offsets 0, and the order of the slots means nothing.
    # So the iterations are over once next_query_offsets[B] is 0, and only then.
    # workspace: int64 [halting_workspace(R)], zeros before the call and after it.
    "halting_step": (
        "(Tensor ffn_output, Tensor? ffn_input, Tensor hidden, Tensor ln_weight, Tensor ln_bias, "
        "float eps, Tensor halting_weight, Tensor halting_bias, float threshold, int iteration, "
        "bool last, Tensor accumulated_probability, Tensor token_index, Tensor query_offsets, "
        "Tensor(a!) next_hidden, Tensor(b!) next_accumulated_probability, "
        "Tensor(c!) next_token_index, Tensor(d!) next_query_offsets, Tensor(e!) workspace, "
        "Tensor(f!) out, Tensor(g!) n_updates, Tensor(h!) remainders) -> ()",
        _check_halting_step,
    ),
    # out[row_index[r]] = rows[r]; other rows of `out` stay.
    "scatter_rows": (
        "(Tensor rows, Tensor row_index, Tensor? row_count, Tensor(a!) out) -> ()",
        _check_scatter_rows,
    ),
}


# Products over packed rows whose number only the device knows, for an implementation that brings
# its own: out[r] = activation(x[r] weight^T + bias) + residual[r], the sum rounded once; nothing is
# added where `residual` is None. activation: "none", "gelu", "gelu_tanh", "relu" or "silu".
LINEAR_SCHEMA = (
    "(Tensor x, Tensor weight, Tensor bias, Tensor? residual, Tensor? row_count, str activation, "
    "Tensor(a!) out) -> ()"
)
# The three projections that an iteration starts with. The first running_count[0] rows of `hidden`
# are running, the first moved_count[0] moved in the iteration before (all of them, in the first):
#   queries[r] = hidden[r] weights[0]^T + biases[0] where r is running;
#   key_store[token_index[r]] and value_store[token_index[r]] likewise with weights[1] and [2] where
#   r moved; not where no row is running, for then nobody asks for them.
PROJECT_QKV_SCHEMA = (
    "(Tensor hidden, Tensor[] weights, Tensor[] biases, Tensor token_index, "
    "Tensor running_count, Tensor moved_count, "
    "Tensor(a!) queries, Tensor(b!) key_store, Tensor(c!) value_store) -> ()"
)


def _check_linear(x, weight, bias, residual, row_count, activation, out):
    columns, depth = weight.shape
    added = {} if residual is None else {"residual": (residual, (x.size(0), columns))}
    _expect_shapes(
        "linear",
        {
            "x": (x, (x.size(0), depth)),
            "bias": (bias, (columns,)),
            "out": (out, (x.size(0), columns)),
            **added,
            **_row_count(row_count),
        },
    )


def _check_project_qkv(
    hidden, weights, biases, token_index, running_count, moved_count, queries, key_store,
    value_store,
):  # fmt: skip
    rows, width = hidden.shape
    store = (key_store.size(0), width)
    _expect_shapes(
        "project_qkv",
        {
            **{f"weights[{i}]": (weight, (width, width)) for i, weight in enumerate(weights)},
            **{f"biases[{i}]": (bias, (width,)) for i, bias in enumerate(biases)},
            "token_index": (token_index, (rows,)),
            "running_count": (running_count, (1,)),
            "moved_count": (moved_count, (1,)),
            "queries": (queries, (rows, width)),
            "key_store": (key_store, store),
            "value_store": (value_store, store),
        },
    )


_CHECKS = {
    **{name: check for name, (_, check) in OPERATORS.items()},
    "linear": _check_linear,
    "project_qkv": _check_project_qkv,
}

# int64 [tensors]: for each contiguous tensor a checksum of all its bytes, by which whoever keeps
# weights in another form notices that they have changed.
CHECKSUM_SCHEMA = "(Tensor[] tensors) -> Tensor"

# The native engine, owned by `NativeEngine` in engine/native_engine.py: packed weights behind
# a handle, and all iterations of a batch in one call. weights: weight and bias of each of its
# PAIRS; they are copied. engine_run returns how many rows each iteration computed, or [-1] where a
# signal handler raised, which is looked after only if `interruptible`. These are no functions of
# their arguments: they have no fakes, and no overloads.
ENGINE_SCHEMAS = {
    "engine_create": "(Tensor[] weights, Tensor? distance_embedding, bool key_distances, "
    "int heads, str activation, float attention_eps, float output_eps, bool int8, bool library) "
    "-> int",
    "engine_run": "(int engine, Tensor hidden, Tensor offsets, Tensor positions, float threshold, "
    "int max_iterations, bool interruptible, Tensor(a!) out, Tensor(b!) n_updates, "
    "Tensor(c!) remainders) -> int[]",
    "engine_release": "(int engine) -> ()",
    "engine_count": "() -> int",
    "engine_packed_bytes": "(int engine) -> int",
    "engine_workspace_bytes": "(int engine) -> int",
    "engine_seconds": "(int engine) -> (float products, float attention, float other)",
}


def _fake_checksum(tensors):
    return tensors[0].new_empty(len(tensors), dtype=torch.int64)


def _define_all() -> None:
    for name, schema in ENGINE_SCHEMAS.items():
        _library.define(f"{name}{schema}")
    for overload, schema, fake in (
        ("checksum.cpp", CHECKSUM_SCHEMA, _fake_checksum),
        ("linear.triton", LINEAR_SCHEMA, _check_linear),
        ("project_qkv.triton", PROJECT_QKV_SCHEMA, _check_project_qkv),
    ):
        _library.define(f"{overload}{schema}")
        torch.library.register_fake(f"{NAMESPACE}::{overload}", fake, lib=_library)
    for name, (schema, check) in OPERATORS.items():
        for implementation in IMPLEMENTATIONS:
            _library.define(f"{name}.{implementation}{schema}")
            # The outputs are the caller's tensors, so all that a fake has to do is to check.
            torch.library.register_fake(
                f"{NAMESPACE}::{name}.{implementation}", check, lib=_library
            )


def implementation_of(name: str, implementation: str) -> torch._ops.OpOverload:
    """The overload of operator `name` that `implementation` computes."""
    return getattr(getattr(getattr(torch.ops, NAMESPACE), name), implementation)


def register(name: str, implementation: str, kernel: Callable, dispatch_key: str) -> None:
    """Registers a Python kernel; its arguments' shapes are checked before every call."""
    check = _CHECKS[name]

    def checked(*args):
        check(*args)
        kernel(*args)

    _library.impl(f"{name}.{implementation}", checked, dispatch_key)


def registered(name: str, implementation: str, device_type: str) -> bool:
    """Whether `implementation` has a kernel of operator `name` for tensors on that device."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type, device_type.upper())
    overload = f"{NAMESPACE}::{name}.{implementation}"
    return any(
        torch._C._dispatch_has_kernel_for_dispatch_key(overload, k)
        for k in (key, "CompositeExplicitAutograd")
    )


_define_all()
