"""From a padded batch to a padded result, through packed rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from albert_act_fast import ops
from albert_act_fast.configuration import HaltingLimits
from albert_act_fast.engine.call import Call
from albert_act_fast.engine.layer import embedding_weights
from albert_act_fast.engine.packing import PackedResult, PackedTokens, pack
from albert_act_fast.inputs import ModelInputs, ShapedInputs
from albert_act_fast.outputs import EncoderResult


def encode(call: Call, engine, shaped: ShapedInputs, limits: HaltingLimits) -> EncoderResult:
    """Checks the values of a batch, embeds, iterates and unpacks it; same result as the reference
    encoder.

    Args:
        engine: one that can compute the call (`engine.ENGINES`); it may do all of that by itself.
        shaped: a batch whose values have not been checked.

    Raises:
        ValueError: naming the argument whose values are out of its range.
    """
    by_itself = getattr(engine, "encode", None)
    if by_itself is not None and not call.gradients and engine.why_not_encode(call) is None:
        return by_itself(call, shaped, limits)
    inputs = shaped.checked()
    tokens = pack(inputs.attention_mask)
    if call.gradients or call.inspection.why_not_read("embeddings.") is not None:
        rows = _call_embeddings(call.embeddings, inputs, tokens)
    else:
        rows = _embed(call, inputs, tokens)
    maps = getattr(engine, "maps", None)
    if maps is not None and rows.size(0) and maps(call):
        hidden = rows
    else:
        hidden = call.encoder.embedding_hidden_mapping_in(rows)
    if hidden.size(0):
        result = engine.iterate(call, hidden.contiguous(), tokens, limits)
    else:
        nothing = hidden.new_empty(0, dtype=torch.promote_types(hidden.dtype, torch.float32))
        result = PackedResult(hidden, nothing, nothing)
    shape = inputs.attention_mask.shape
    if call.gradients:
        parts = (result.hidden, result.n_updates, result.remainders)
        return EncoderResult(*(_unpack_with_gradients(x, tokens, shape) for x in parts))
    return _unpack(result, tokens, shape, call.implementation)


def _embed(call: Call, inputs: ModelInputs, tokens: PackedTokens) -> Tensor:
    """Embeddings of the tokens alone, packed [T, E], from the modules' weights."""
    index, given = tokens.flat_index, inputs.inputs_embeds
    ids = (
        index if inputs.input_ids is None else inputs.input_ids.take(index),
        inputs.token_type_ids.take(index),
        inputs.position_ids.take(index),
    )
    return embedding_weights(call.embeddings).embed(
        call.implementation, ids, None if given is None else given.flatten(0, 1)
    )


def _call_embeddings(embeddings: nn.Module, inputs: ModelInputs, tokens: PackedTokens) -> Tensor:
    """As `_embed`, by the modules themselves."""
    index = tokens.flat_index
    if inputs.inputs_embeds is None:
        rows = embeddings.word_embeddings(inputs.input_ids.flatten()[index])
    else:
        rows = inputs.inputs_embeds.flatten(0, 1)[index]
    rows = rows + embeddings.token_type_embeddings(inputs.token_type_ids.flatten()[index])
    if embeddings.has_positions:
        rows = rows + embeddings.position_embeddings(inputs.position_ids.flatten()[index])
    return embeddings.dropout(embeddings.LayerNorm(rows))


def _unpack(
    result: PackedResult, tokens: PackedTokens, shape: torch.Size, implementation: str
) -> EncoderResult:
    """Packed rows back at their places in the padded batch, 0 at padding."""
    places = shape.numel()
    if result.hidden.size(0) == places:  # no padding
        packed = (result.hidden, result.n_updates, result.remainders)
        return EncoderResult(*(part.unflatten(0, shape) for part in packed))
    scatter_rows = ops.implementation_of("scatter_rows", implementation)
    hidden = result.hidden.new_zeros(places, result.hidden.size(1))
    scatter_rows(result.hidden, tokens.flat_index, None, hidden)
    n_updates = result.n_updates.new_zeros(places)
    n_updates[tokens.flat_index] = result.n_updates
    remainders = torch.zeros_like(n_updates)
    remainders[tokens.flat_index] = result.remainders
    return EncoderResult(
        hidden.unflatten(0, shape), n_updates.unflatten(0, shape), remainders.unflatten(0, shape)
    )


def _unpack_with_gradients(rows: Tensor, tokens: PackedTokens, shape: torch.Size) -> Tensor:
    padded = rows.new_zeros(shape.numel(), *rows.shape[1:])
    return padded.index_copy(0, tokens.flat_index, rows).unflatten(0, shape)
