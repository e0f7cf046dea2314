"""From a padded batch to a padded result, through packed rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from albert_act_fast import ops
from albert_act_fast.engine import gpu
from albert_act_fast.engine.loop import PackedResult, iterate
from albert_act_fast.engine.packed_weights import iterate_packed, pack_layer
from albert_act_fast.engine.packing import PackedTokens, pack
from albert_act_fast.inputs import ModelInputs
from albert_act_fast.outputs import EncoderResult


@torch.no_grad()
def encode(
    embeddings: nn.Module,
    encoder: nn.Module,
    inputs: ModelInputs,
    *,
    threshold: float,
    max_iterations: int,
    implementation: str,
    int8: bool = False,
) -> EncoderResult:
    """Embeds, iterates and unpacks a batch; same result as the reference encoder.

    Args:
        embeddings, encoder: anything with the submodules of the published model's.
        inputs: a checked batch.
        int8: implementation "cpp" alone: products with weights and activations in int8.

    Raises:
        ValueError: int8 was asked for, and the layer cannot run on packed weights.
    """
    tokens = pack(inputs.attention_mask)
    rows = embed(embeddings, inputs, tokens, implementation)
    hidden = encoder.embedding_hidden_mapping_in(rows)
    if hidden.size(0):
        arguments = (encoder.albert_layer, hidden, tokens.offsets, tokens.positions)
        rule = {"threshold": threshold, "max_iterations": max_iterations}
        packed = pack_layer(encoder.albert_layer, hidden, int8) if implementation == "cpp" else None
        if packed is not None:
            result = iterate_packed(packed, *arguments[1:], **rule)
        elif int8:
            raise ValueError(
                "quantization: int8 needs float32 or bfloat16 weights in plain linear modules "
                "without hooks, no autocast, and the activation gelu, gelu_new, relu or silu."
            )
        elif implementation == "triton" and gpu.why_not(encoder.albert_layer) is None:
            result = gpu.iterate_on_device(*arguments, **rule)
        else:
            result = iterate(*arguments, **rule, implementation=implementation)
    else:
        nothing = hidden.new_empty(0, dtype=torch.promote_types(hidden.dtype, torch.float32))
        result = PackedResult(hidden, nothing, nothing)
    return unpack(result, tokens, inputs.attention_mask.shape, implementation)


def embed(
    embeddings: nn.Module, inputs: ModelInputs, tokens: PackedTokens, implementation: str
) -> Tensor:
    """Embeddings of the tokens alone, packed [T, E]."""
    index = tokens.flat_index
    if inputs.inputs_embeds is None:
        word, token_ids = embeddings.word_embeddings.weight, inputs.input_ids.take(index)
    else:
        word, token_ids = inputs.inputs_embeds.flatten(0, 1), index
    absolute = embeddings.position_embedding_type == "absolute"
    out = word.new_empty(index.numel(), word.size(1))
    ops.implementation_of("embed_tokens", implementation)(
        token_ids,
        inputs.token_type_ids.take(index),
        inputs.position_ids.take(index),
        word,
        embeddings.token_type_embeddings.weight,
        embeddings.position_embeddings.weight if absolute else None,
        embeddings.LayerNorm.weight,
        embeddings.LayerNorm.bias,
        embeddings.LayerNorm.eps,
        None,
        out,
    )
    return out


def unpack(
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
