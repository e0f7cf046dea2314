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


@dataclass(frozen=True)
class ShapedInputs:
    """A batch of right shapes and dtypes, whose values nobody has looked at: that takes a host that
    waits for its device. position_ids: of all sequences, [B, S]; head_mask: as `ModelInputs` has
    it. tables: of every kind of ids, how many rows its table has (None: unknown) and what it is."""

    input_ids: Tensor | None
    inputs_embeds: Tensor | None
    attention_mask: Tensor | None
    token_type_ids: Tensor | None
    position_ids: Tensor | None
    head_mask: Tensor | None
    tables: dict[str, tuple[int | None, str]]

    @property
    def source(self) -> Tensor:
        return self.inputs_embeds if self.input_ids is None else self.input_ids

    @property
    def shape(self) -> torch.Size:
        """[B, S]"""
        return self.source.shape[:2]

    def checked(self) -> ModelInputs:
        """With the values checked, and what was left out filled in.

        Raises:
            ValueError: naming the argument, what was given and what was expected.
        """
        shape, device = self.shape, self.source.device
        mask, token_type_ids, position_ids = (
            self.attention_mask,
            self.token_type_ids,
            self.position_ids,
        )
        if mask is None:
            mask = torch.ones(shape, dtype=torch.bool, device=device)
        else:
            _check_mask(mask)
            mask = mask.to(device, torch.bool)
        input_ids = None if self.input_ids is None else self._ids("input_ids")
        if token_type_ids is None:
            token_type_ids = torch.zeros(shape, dtype=torch.int64, device=device)
        else:
            token_type_ids = self._ids("token_type_ids")
        if position_ids is None:
            position_ids = torch.arange(shape[1], device=device).expand(shape)
        else:
            position_ids = self._ids("position_ids")
        return ModelInputs(
            input_ids, self.inputs_embeds, mask, token_type_ids, position_ids, self.head_mask
        )

    def _ids(self, name: str) -> Tensor:
        """As int64."""
        ids, (rows, table) = getattr(self, name).to(torch.int64), self.tables[name]
        if rows is not None:
            low, high = (x.item() for x in ids.aminmax())
            _require(
                low >= 0 and high < rows,
                name,
                f"values from {low} to {high}",
                f"0 to {rows - 1} ({table}: {rows})",
            )
        return ids


@dataclass(frozen=True)
class GivenInputs:
    """A model's inputs as its caller gave them; see `AlbertActModel.forward`."""

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    position_ids: Tensor | None = None
    head_mask: Tensor | None = None
    inputs_embeds: Tensor | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"{name}: got a {type(value).__name__}, expected a torch.Tensor "
                    f"(torch.as_tensor makes one of it)."
                )

    def device(self, default: torch.device) -> torch.device:
        """Of the ids or embeddings; `default` where there are none."""
        source = self.input_ids if self.input_ids is not None else self.inputs_embeds
        return default if source is None else source.device


# Arguments that tokenizers and tools pass along, and that have no meaning for this model.
_WITHOUT_MEANING = ("special_tokens_mask", "use_cache", "num_items_in_batch")


def refuse_unknown(arguments: dict) -> None:
    """Raises TypeError for the first argument that would be ignored; those which change nothing in
    any encoder are let through."""
    for name, value in arguments.items():
        if name not in _WITHOUT_MEANING and value is not None:
            raise TypeError(
                f"{name}: AlbertActModel has no such argument, and ignores none that could change "
                "its result."
            )


def table_size(embedding: nn.Module) -> int | None:
    """Rows of an embedding's table, also where a tool has wrapped it; None where it cannot be
    told."""
    while True:
        rows = getattr(embedding, "num_embeddings", None)
        if isinstance(rows, int):
            return rows
        inner = getattr(embedding, "base_layer", getattr(embedding, "original_module", None))
        if not isinstance(inner, nn.Module):
            return None
        embedding = inner


def check_inputs(
    config: AlbertActConfig, embeddings: nn.Module, encoder: nn.Module, given: GivenInputs
) -> ModelInputs:
    """As `check_shapes`, then the values."""
    return check_shapes(config, embeddings, encoder, given).checked()


def check_shapes(
    config: AlbertActConfig, embeddings: nn.Module, encoder: nn.Module, given: GivenInputs
) -> ShapedInputs:
    """All that can be checked without waiting for the inputs' device.

    Args:
        embeddings, encoder: the model's, whose tables (they may have been resized) set the ranges
            of the ids.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what was expected.
    """
    input_ids, attention_mask = given.input_ids, given.attention_mask
    token_type_ids, position_ids = given.token_type_ids, given.position_ids
    head_mask, inputs_embeds = given.head_mask, given.inputs_embeds
    if (input_ids is None) == (inputs_embeds is None):
        kind = "neither" if input_ids is None else "both"
        raise ValueError(f"input_ids, inputs_embeds: got {kind}, expected exactly one of the two.")
    if input_ids is not None:
        name, source, shape = "input_ids", input_ids, input_ids.shape
        _require(len(shape) == 2, name, f"shape {tuple(shape)}", "[sequences, tokens]")
    else:
        name, source, shape = "inputs_embeds", inputs_embeds, inputs_embeds.shape[:-1]
        # Of the checkpoint: tools may have wrapped the table, or put it elsewhere.
        width = config.embedding_size
        _require(
            inputs_embeds.dim() == 3 and inputs_embeds.size(2) == width,
            name,
            f"shape {tuple(inputs_embeds.shape)}",
            f"[sequences, tokens, embedding_size={width}]",
        )
        dtype = _dtype_of(embeddings)
        _require(
            dtype is None or inputs_embeds.dtype == dtype,
            name,
            f"dtype {inputs_embeds.dtype}",
            f"the embeddings' own, {dtype}",
        )
    _require(
        shape[0] > 0 and shape[1] > 0,
        name,
        f"shape {tuple(source.shape)}",
        "at least one sequence and one token",
    )
    limit = _position_limit(config, embeddings, encoder)
    _require(
        shape[1] <= limit,
        name,
        f"{shape[1]} tokens a sequence",
        f"at most max_position_embeddings={limit}; truncate or split the text",
    )

    tables: dict[str, tuple[int | None, str]] = {"position_ids": (limit, "max_position_embeddings")}
    if attention_mask is not None:
        _require_shape("attention_mask", attention_mask, shape)
        if attention_mask.is_complex():
            raise TypeError(
                f"attention_mask: got dtype {attention_mask.dtype}, expected no complex."
            )
    if input_ids is not None:
        _require_integers("input_ids", input_ids)
        tables["input_ids"] = (table_size(embeddings.word_embeddings), "vocabulary")
    if token_type_ids is not None:
        _require_shape("token_type_ids", token_type_ids, shape)
        _require_integers("token_type_ids", token_type_ids)
        tables["token_type_ids"] = (table_size(embeddings.token_type_embeddings), "token types")
    if position_ids is not None:
        if position_ids.shape == shape[1:] or position_ids.shape == (1, shape[1]):
            position_ids = position_ids.expand(shape)
        _require_shape("position_ids", position_ids, shape)
        _require_integers("position_ids", position_ids)
    return ShapedInputs(
        input_ids,
        inputs_embeds,
        attention_mask,
        token_type_ids,
        position_ids,
        None if head_mask is None else _expand_head_mask(head_mask, config),
        tables,
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
    if not mask.is_floating_point():
        mask = mask.to(torch.int64)  # PyTorch finds no extremes of unsigned integers
    low, high = (x.item() for x in mask.aminmax())
    only = low >= 0 and high <= 1
    if only and mask.is_floating_point():
        only = bool(((mask == 0) | (mask == 1)).all())
    _require(
        only, "attention_mask", f"values from {low} to {high}", "0 (padding) and 1 (token) only"
    )


def _require_integers(name: str, ids: Tensor) -> None:
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{name}: got dtype {ids.dtype}, expected an integer dtype.")


def _dtype_of(embeddings: nn.Module) -> torch.dtype | None:
    weight = getattr(embeddings.word_embeddings, "weight", None)
    return getattr(weight, "dtype", None)


def _position_limit(config: AlbertActConfig, embeddings: nn.Module, encoder: nn.Module) -> int:
    """The most tokens of a sequence: what the configuration says, if the tables have as many.

    Raises:
        ValueError: they have not; the configuration was changed after the model was made.
    """
    limit = config.max_position_embeddings
    attention = encoder.albert_layer.attention
    if embeddings.has_positions:
        rows, what = table_size(embeddings.position_embeddings), "position embeddings"
    else:
        rows, what = table_size(attention.distance_embedding), "distance embeddings"
        rows = None if rows is None else (rows + 1) // 2
    if rows is not None and limit > rows:
        raise ValueError(
            f"max_position_embeddings: got {limit}, but the model's {what} were made for {rows}."
        )
    return limit


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
