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

from collections import namedtuple
from collections.abc import Callable

import torch
from torch import Tensor

from albert_act_fast.ops.triton_contracts import TRITON_OPERATORS

NAMESPACE = "albert_act_fast"
IMPLEMENTATIONS = ("torch", "cpp", "triton", "cuda")

_library = torch.library.Library(NAMESPACE, "DEF")


# int64 words of `halting_step`'s workspace that are no row's.
HALTING_WORKSPACE_HEADER = 8


def halting_workspace(rows: int) -> int:
    """Length of `halting_step`'s workspace for `rows` rows."""
    return HALTING_WORKSPACE_HEADER + rows


# The shapes that follow from those of other arguments, by name.
def _shapes_of_embed_tokens(a):
    tokens, width = a.token_ids.size(0), a.word.size(1)
    shapes = {
        "token_type_ids": (tokens,),
        "position_ids": (tokens,),
        "token_type": (a.token_type.size(0), width),
        "ln_weight": (width,),
        "ln_bias": (width,),
        "out": (tokens, width),
    }
    if a.position is not None:
        shapes["position"] = (a.position.size(0), width)
    return shapes


def _shapes_of_write_kv(a):
    store = (a.key_store.size(0), a.keys.size(1))
    return {
        "values": tuple(a.keys.shape),
        "token_index": (a.keys.size(0),),
        "key_store": store,
        "value_store": store,
    }


def _shapes_of_ragged_attention(a):
    rows, hidden = a.queries.shape
    tokens = a.key_store.size(0)
    torch._check_value(
        hidden % a.heads == 0,
        lambda: f"ragged_attention: {hidden} columns cannot be divided among {a.heads} heads.",
    )
    shapes = {
        "key_store": (tokens, hidden),
        "value_store": (tokens, hidden),
        "query_offsets": tuple(a.key_offsets.shape),
        "token_index": (rows,),
        "positions": (tokens,),
        "out": (rows, hidden),
    }
    if a.distance_embedding is not None:
        shapes["distance_embedding"] = (a.distance_embedding.size(0), hidden // a.heads)
    return shapes


def _shapes_of_add_layer_norm(a):
    return {
        "residual": tuple(a.x.shape),
        "weight": (a.x.size(1),),
        "bias": (a.x.size(1),),
        "out": tuple(a.x.shape),
    }


def _shapes_of_halting_step(a):
    (rows, width), tokens = a.hidden.shape, a.out.size(0)
    return {
        "ffn_output": (rows, width),
        "ffn_input": (rows, width),
        "ln_weight": (width,),
        "ln_bias": (width,),
        "halting_weight": (1, width),
        "halting_bias": (1,),
        "accumulated_probability": (rows,),
        "token_index": (rows,),
        "next_hidden": (rows, width),
        "next_accumulated_probability": (rows,),
        "next_token_index": (rows,),
        "next_query_offsets": tuple(a.query_offsets.shape),
        "out": (tokens, width),
        "n_updates": (tokens,),
        "remainders": (tokens,),
        "workspace": (halting_workspace(rows),),
    }


def _shapes_of_scatter_rows(a):
    return {"row_index": (a.rows.size(0),), "out": (a.out.size(0), a.rows.size(1))}


# name: (schema, expected shapes). What each computes is said once, here.
OPERATORS: dict[str, tuple[str, Callable]] = {
    # out[r] = LayerNorm(word[token_ids[r]] + token_type[token_type_ids[r]]
    #                    + position[position_ids[r]]); no position term where `position` is None.
    # `word` may be any table of rows: given embeddings are one, indexed by their own order.
    "embed_tokens": (
        "(Tensor token_ids, Tensor token_type_ids, Tensor position_ids, Tensor word, "
        "Tensor token_type, Tensor? position, Tensor ln_weight, Tensor ln_bias, float eps, "
        "Tensor? row_count, Tensor(a!) out) -> ()",
        _shapes_of_embed_tokens,
    ),
    # key_store[token_index[r]] = keys[r]; value_store[token_index[r]] = values[r].
    "write_kv": (
        "(Tensor keys, Tensor values, Tensor token_index, Tensor? row_count, "
        "Tensor(a!) key_store, Tensor(b!) value_store) -> ()",
        _shapes_of_write_kv,
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
        _shapes_of_ragged_attention,
    ),
    # out = LayerNorm(x + residual)
    "add_layer_norm": (
        "(Tensor x, Tensor residual, Tensor weight, Tensor bias, float eps, Tensor? row_count, "
        "Tensor(a!) out) -> ()",
        _shapes_of_add_layer_norm,
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
        _shapes_of_halting_step,
    ),
    # out[row_index[r]] = rows[r]; other rows of `out` stay.
    "scatter_rows": (
        "(Tensor rows, Tensor row_index, Tensor? row_count, Tensor(a!) out) -> ()",
        _shapes_of_scatter_rows,
    ),
}


# int64 [tensors]: for each contiguous tensor a checksum of all its bytes, by which whoever keeps
# weights in another form notices that they have changed.
CHECKSUM_SCHEMA = "(Tensor[] tensors) -> Tensor"

# The native engine, owned by `NativeEngine` in engine/native_engine.py: packed weights behind
# a handle, and all iterations of a batch in one call. weights: weight and bias of each of its
# PAIRS; mapping: those of the embeddings' mapping, or nothing; all are copied. engine_run returns
# how many rows each iteration computed, or [-1] where a signal handler raised, which is looked
# after only if `interruptible`. An encoder is an engine with embeddings before it and pooling
# behind (`NativeEncoder` in engine/native_encoder.py); its tables are kept, the rest is copied;
# encoder_run says too whether all of `out` is finite. These are no functions of their arguments:
# they have no fakes, and no overloads.
ENGINE_SCHEMAS = {
    "engine_create": "(Tensor[] weights, Tensor[] mapping, Tensor? distance_embedding, "
    "bool key_distances, int heads, str activation, float attention_eps, float output_eps, "
    "bool int8, bool onednn) -> int",
    "engine_run": "(int engine, Tensor hidden, Tensor offsets, Tensor positions, float threshold, "
    "int max_iterations, bool interruptible, Tensor(a!) out, Tensor(b!) n_updates, "
    "Tensor(c!) remainders) -> int[]",
    "engine_release": "(int engine) -> ()",
    "engine_count": "() -> int",
    "engine_is_batch_invariant": "(int engine) -> bool",
    "engine_packed_bytes": "(int engine) -> int",
    "engine_workspace_bytes": "(int engine) -> int",
    "engine_seconds": "(int engine) -> (float products, float attention, float other)",
    "encoder_create": "(int engine, Tensor word, Tensor token_type, Tensor? position, "
    "Tensor[] norm, float eps, Tensor[] pooler, int max_tokens) -> int",
    "encoder_run": "(int encoder, Tensor ids, Tensor offsets, float threshold, "
    "int max_iterations, str pooling, bool interruptible, Tensor(a!) out, Tensor(b!) n_updates, "
    "Tensor(c!) remainders) -> (int[] running_rows, bool finite)",
    "encoder_release": "(int encoder) -> ()",
    "encoder_count": "() -> int",
    "encoder_workspace_bytes": "(int encoder) -> int",
    "encoder_seconds": "(int encoder) -> (float products, float attention, float other)",
}


def _fake_checksum(tensors):
    return tensors[0].new_empty(len(tensors), dtype=torch.int64)


def _named_arguments(name: str, schema: str) -> type[tuple]:
    parsed = torch._C.parse_schema(f"{NAMESPACE}::{name}{schema}")
    arguments = parsed.arguments
    defaults = [a.default_value for a in arguments if a.has_default_value()]
    return namedtuple(name, [a.name for a in arguments], defaults=defaults)


_ALL = OPERATORS | TRITON_OPERATORS
# Of every operator its arguments as a tuple that has the schema's names, in the schema's order.
ARGUMENTS: dict[str, type[tuple]] = {
    name: _named_arguments(name, schema) for name, (schema, _) in _ALL.items()
}


def _expect(op: str, name: str, tensor: Tensor, shape: tuple) -> None:
    torch._check_value(
        tuple(tensor.shape) == shape,
        lambda: f"{op}: {name} has shape {tuple(tensor.shape)}, expected {shape}.",
    )


def check(name: str, arguments: tuple) -> None:
    """Raises ValueError, which names it, for an argument whose shape does not fit the others'."""
    shapes = _ALL[name][1](arguments)
    if "row_count" in arguments._fields:
        shapes["row_count"] = (1,)
    for argument, shape in shapes.items():
        given = getattr(arguments, argument)
        if isinstance(given, list):
            for i, tensor in enumerate(given):
                _expect(name, f"{argument}[{i}]", tensor, shape)
        elif given is not None:
            _expect(name, argument, given, shape)


def _define(name: str, implementation: str) -> None:
    _library.define(f"{name}.{implementation}{_ALL[name][0]}")

    # The outputs are the caller's tensors, so all that a fake has to do is to check.
    def fake(*values):
        check(name, ARGUMENTS[name](*values))

    torch.library.register_fake(f"{NAMESPACE}::{name}.{implementation}", fake, lib=_library)


def _define_all() -> None:
    for name, schema in ENGINE_SCHEMAS.items():
        _library.define(f"{name}{schema}")
    for name in OPERATORS:
        for implementation in IMPLEMENTATIONS:
            _define(name, implementation)
    for name in TRITON_OPERATORS:
        _define(name, "triton")
    _library.define(f"checksum.cpp{CHECKSUM_SCHEMA}")
    torch.library.register_fake(f"{NAMESPACE}::checksum.cpp", _fake_checksum, lib=_library)


def implementation_of(name: str, implementation: str) -> torch._ops.OpOverload:
    """The overload of operator `name` that `implementation` computes."""
    return getattr(getattr(getattr(torch.ops, NAMESPACE), name), implementation)


def register(name: str, implementation: str, kernel: Callable, dispatch_key: str) -> None:
    """Registers a Python kernel, which is called with the operator's `ARGUMENTS`, checked."""
    bind = ARGUMENTS[name]

    def checked(*values):
        arguments = bind(*values)
        check(name, arguments)
        kernel(arguments)

    _library.impl(f"{name}.{implementation}", checked, dispatch_key)


def registered(name: str, implementation: str, device_type: str) -> bool:
    """Whether `implementation` has a kernel of operator `name` for tensors on that device."""
    key = {"meta": "Meta"}.get(device_type, device_type.upper())
    overload = f"{NAMESPACE}::{name}.{implementation}"
    return any(
        torch._C._dispatch_has_kernel_for_dispatch_key(overload, k)
        for k in (key, "CompositeExplicitAutograd")
    )


_define_all()
