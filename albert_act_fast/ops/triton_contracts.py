"""What the operators compute that implementation `triton` alone has; conventions as in `contracts`.

Products over packed rows whose number only the device knows, and the way from a padded batch to
packed rows and back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def _shapes_of_linear(a):
    rows, (columns, depth) = a.x.size(0), a.weight.shape
    return {
        "x": (rows, depth),
        "bias": (columns,),
        "residual": (rows, columns),
        "out": (rows, columns),
    }


def _shapes_of_split_linear(a):
    rows, (columns, depth) = a.x.size(0), a.weight.shape
    return {
        "x": (rows, depth),
        "bias": (columns,),
        "residual": (rows, columns),
        "parts": (a.parts.size(0), rows, columns),
        "out": (rows, columns),
    }


def _shapes_of_project_qkv(a):
    rows, width = a.hidden.shape
    store = (a.key_store.size(0), width)
    return {
        "weights": (width, width),
        "biases": (width,),
        "token_index": (rows,),
        "running_count": (1,),
        "moved_count": (1,),
        "queries": (rows, width),
        "key_store": store,
        "value_store": store,
    }


def _shapes_of_padded(a, sequences: int):
    padded = (sequences, a.tokens)
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    return dict.fromkeys(names, padded)


def _shapes_of_count_tokens(a):
    sequences = a.found.size(1)
    return _shapes_of_padded(a, sequences) | {"found": (2, sequences)}


def _shapes_of_pack_tokens(a):
    torch._check_value(
        a.tokens > 0 and a.row_of_place.size(0) % a.tokens == 0,
        lambda: (
            f"pack_tokens: row_of_place has {a.row_of_place.size(0)} places, expected those of "
            f"sequences of {a.tokens} tokens."
        ),
    )
    rows, offsets = a.packed_ids.size(0), tuple(a.key_offsets.shape)
    sequences = a.row_of_place.size(0) // a.tokens
    torch._check_value(
        offsets[0] > sequences,
        lambda: (
            f"pack_tokens: key_offsets has {offsets[0]} entries, expected at least {sequences + 1}."
        ),
    )
    of_rows = ("packed_token_types", "packed_position_ids", "positions")
    return (
        _shapes_of_padded(a, sequences)
        | dict.fromkeys(of_rows, (rows,))
        | dict.fromkeys(("accumulated_probability", "token_index"), (rows,))
        | dict.fromkeys(("query_offsets", "moved_offsets"), offsets)
    )


def _shapes_of_unpack_rows(a):
    places, rows = a.row_of_place.size(0), a.rows.size(0)
    return {
        "n_updates": (rows,),
        "remainders": (rows,),
        "out": (places, a.rows.size(1)),
        "out_n_updates": (places,),
        "out_remainders": (places,),
    }


# name: (schema, expected shapes).
TRITON_OPERATORS: dict[str, tuple[str, Callable]] = {
    # out[r] = activation(x[r] weight^T + bias) + residual[r], the sum rounded once; nothing is
    # added where `residual` is None. activation: "none", "gelu", "gelu_tanh", "relu" or "silu".
    # weights_settled, here and below: what was launched right before writes none of the weights, so
    # that they may be loaded while it still runs.
    "linear": (
        "(Tensor x, Tensor weight, Tensor bias, Tensor? residual, Tensor? row_count, "
        "str activation, Tensor(a!) out, bool weights_settled=False) -> ()",
        _shapes_of_linear,
    ),
    # `linear` without an activation, its depth split into as many parts as `parts` has, whose sums
    # are added up in their order. parts: float32 [parts, R, columns]. arrived: int32, one entry for
    # each 16 rows and 32 columns at least; zeros before the call and after it.
    "split_linear": (
        "(Tensor x, Tensor weight, Tensor bias, Tensor? residual, Tensor? row_count, "
        "Tensor(a!) parts, Tensor(b!) arrived, Tensor(c!) out, bool weights_settled=False) -> ()",
        _shapes_of_split_linear,
    ),
    # The three projections that an iteration starts with. The first running_count[0] rows of
    # `hidden` are running, the first moved_count[0] moved in the iteration before (all of them, in
    # the first):
    #   queries[r] = hidden[r] weights[0]^T + biases[0] where r is running;
    #   key_store[token_index[r]] and value_store[token_index[r]] likewise with weights[1] and [2]
    #   where r moved; not where no row is running, for then nobody asks for them.
    "project_qkv": (
        "(Tensor hidden, Tensor[] weights, Tensor[] biases, Tensor token_index, "
        "Tensor running_count, Tensor moved_count, "
        "Tensor(a!) queries, Tensor(b!) key_store, Tensor(c!) value_store, "
        "bool weights_settled=False) -> ()",
        _shapes_of_project_qkv,
    ),
    # Of a padded batch [B, S], S = tokens; the ids of any integer dtype, the mask of any, all
    # places a token where it is None: found[0, b] = tokens of sequence b; found[1, b] = its places,
    # padding too, with an id that is negative or not below its table's size, or a mask that is
    # neither 0 nor 1. found: int32 [2, B].
    "count_tokens": (
        "(Tensor? input_ids, Tensor? attention_mask, Tensor? token_type_ids, "
        "Tensor? position_ids, int tokens, int vocabulary, int token_types, int positions, "
        "Tensor(a!) found) -> ()",
        _shapes_of_count_tokens,
    ),
    # Of the same batch with key_offsets[b] tokens before sequence b (entries from B on: all of
    # them), one row for each token: its id (its place b S + s, where there are no ids), token type
    # (0), position id (s) and place s in its sequence; and row_of_place[b S + s], -1 at padding.
    # Then the state before the first iteration: accumulated probability 0, token r in row r, all
    # rows running and moved. Rows without a token are not written.
    "pack_tokens": (
        "(Tensor? input_ids, Tensor? attention_mask, Tensor? token_type_ids, "
        "Tensor? position_ids, Tensor key_offsets, int tokens, Tensor(a!) row_of_place, "
        "Tensor(b!) packed_ids, Tensor(c!) packed_token_types, Tensor(d!) packed_position_ids, "
        "Tensor(e!) positions, Tensor(f!) accumulated_probability, Tensor(g!) token_index, "
        "Tensor(h!) query_offsets, Tensor(i!) moved_offsets) -> ()",
        _shapes_of_pack_tokens,
    ),
    # out[place] = rows[row_of_place[place]], and likewise the others; 0 where that is -1.
    "unpack_rows": (
        "(Tensor rows, Tensor n_updates, Tensor remainders, Tensor row_of_place, "
        "Tensor(a!) out, Tensor(b!) out_n_updates, Tensor(c!) out_remainders) -> ()",
        _shapes_of_unpack_rows,
    ),
}
