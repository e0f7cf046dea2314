"""Checks a model's inputs once, before any work, and fills in what was left out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from albert_act_fast.configuration import AlbertActConfig


@dataclass(frozen=True)
class ModelInputs:
    """A checked batch. attention_mask: bool [B, S]; token_type_ids, position_ids: int64 [B, S];
    either input_ids [B, S] or inputs_embeds [B, S, E]; head_mask: [N, 1, A, 1, 1] or None."""

    input_ids: Tensor | None
    inputs_embeds: Tensor | None
    attention_mask: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    head_mask: Tensor | None


def check_inputs(
    config: AlbertActConfig,
    embeddings: nn.Module,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
    head_mask: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
) -> ModelInputs:
    """
    Args:
        embeddings: the model's embeddings, whose tables (they may have been resized) set the
            ranges of the ids.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what was expected.
    """
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"input_ids, inputs_embeds: got {given}, expected exactly one of the two.")
    if input_ids is not None:
        name, source, shape = "input_ids", input_ids, input_ids.shape
        _require(len(shape) == 2, name, f"shape {tuple(shape)}", "[sequences, tokens]")
    else:
        name, source, shape = "inputs_embeds", inputs_embeds, inputs_embeds.shape[:-1]
        width = embeddings.word_embeddings.embedding_dim
        _require(
            inputs_embeds.dim() == 3 and inputs_embeds.size(2) == width,
            name,
            f"shape {tuple(inputs_embeds.shape)}",
            f"[sequences, tokens, embedding_size={width}]",
        )
        _require(
            inputs_embeds.dtype == embeddings.word_embeddings.weight.dtype,
            name,
            f"dtype {inputs_embeds.dtype}",
            f"the embeddings' own, {embeddings.word_embeddings.weight.dtype}",
        )
    _require(
        shape[0] > 0 and shape[1] > 0,
        name,
        f"shape {tuple(source.shape)}",
        "at least one sequence and one token",
    )
    limit = config.max_position_embeddings
    _require(
        shape[1] <= limit,
        name,
        f"{shape[1]} tokens a sequence",
        f"at most max_position_embeddings={limit}; truncate or split the text",
    )

    if attention_mask is None:
        attention_mask = torch.ones(shape, dtype=torch.bool, device=source.device)
    else:
        _require_shape("attention_mask", attention_mask, shape)
        _check_mask(attention_mask)
        attention_mask = attention_mask.to(source.device, torch.bool)

    if input_ids is not None:
        _check_ids("input_ids", input_ids, embeddings.word_embeddings.num_embeddings, "vocabulary")
    if token_type_ids is None:
        token_type_ids = torch.zeros(shape, dtype=torch.int64, device=source.device)
    else:
        _require_shape("token_type_ids", token_type_ids, shape)
        rows = embeddings.token_type_embeddings.num_embeddings
        _check_ids("token_type_ids", token_type_ids, rows, "token types")
    if position_ids is None:
        position_ids = torch.arange(shape[1], device=source.device).expand(shape)
    else:
        if position_ids.shape == shape[1:] or position_ids.shape == (1, shape[1]):
            position_ids = position_ids.expand(shape)
        _require_shape("position_ids", position_ids, shape)
        _check_ids("position_ids", position_ids, limit, "max_position_embeddings")

    return ModelInputs(
        None if input_ids is None else input_ids.to(torch.int64),
        inputs_embeds,
        attention_mask,
        token_type_ids.to(torch.int64),
        position_ids.to(torch.int64),
        None if head_mask is None else _expand_head_mask(head_mask, config),
    )


def _expand_head_mask(head_mask: Tensor, config: AlbertActConfig) -> Tensor:
    iterations, heads = config.num_hidden_layers, config.num_attention_heads
    _require(
        head_mask.shape in ((heads,), (iterations, heads)),
        "head_mask",
        f"shape {tuple(head_mask.shape)}",
        f"[num_attention_heads={heads}] or [num_hidden_layers={iterations}, {heads}]",
    )
    return head_mask.expand(iterations, heads)[:, None, :, None, None]


def _check_mask(mask: Tensor) -> None:
    low, high = (x.item() for x in mask.aminmax())
    only = low >= 0 and high <= 1
    if only and mask.is_floating_point():
        only = bool(((mask == 0) | (mask == 1)).all())
    _require(
        only, "attention_mask", f"values from {low} to {high}", "0 (padding) and 1 (token) only"
    )


def _check_ids(name: str, ids: Tensor, rows: int, table: str) -> None:
    integer = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if not integer:
        raise TypeError(f"{name}: got dtype {ids.dtype}, expected an integer dtype.")
    low, high = (x.item() for x in ids.aminmax())
    _require(
        low >= 0 and high < rows,
        name,
        f"values from {low} to {high}",
        f"0 to {rows - 1} ({table}: {rows})",
    )


def _require_shape(name: str, tensor: Tensor, shape: torch.Size) -> None:
    _require(
        tensor.shape == shape,
        name,
        f"shape {tuple(tensor.shape)}",
        f"{tuple(shape)}, one value for each token",
    )


def _require(holds: bool, name: str, given, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}: got {given}, expected {expected}.")
