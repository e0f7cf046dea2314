"""A plain ALBERT's weights in an ALBERT-ACT model: all but the halting unit, which it has not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AlbertConfig, AlbertModel

if TYPE_CHECKING:
    from albert_act_fast.modeling import AlbertActModel

_GROUP = "encoder.albert_layer_groups.0.albert_layers.0."
_LAYER = "encoder.albert_layer."


def from_albert(
    model_class: type[AlbertActModel],
    source: nn.Module | str | os.PathLike,
    *,
    halting_bias: float = 0.0,
    **fields,
) -> AlbertActModel:
    """See `AlbertActModel.from_albert`."""
    albert = _albert(source)
    given = albert.config.to_dict()
    for name in ("model_type", "architectures", "transformers_version", "_name_or_path"):
        given.pop(name, None)
    unknown = sorted(set(fields) - set(model_class.config_class().to_dict()))
    if unknown:
        raise TypeError(f"{unknown[0]}: AlbertActConfig has no such field.")
    config = model_class.config_class(**(given | fields))
    model = model_class(config, add_pooling_layer=albert.pooler is not None)
    state = {_renamed(name): tensor for name, tensor in albert.state_dict().items()}
    result = model.load_state_dict(state, strict=False)
    new = {f"{_LAYER}act.dense.weight", f"{_LAYER}act.dense.bias"}
    if set(result.missing_keys) != new or result.unexpected_keys:
        raise ValueError(
            "source: its weights are not those of transformers' AlbertModel; missing: "
            f"{', '.join(sorted(set(result.missing_keys) - new)) or 'nothing'}; unexpected: "
            f"{', '.join(result.unexpected_keys) or 'nothing'}."
        )
    with torch.no_grad():
        model.encoder.albert_layer.act.dense.bias.fill_(halting_bias)
    return model.to(albert.dtype).eval()


def _albert(source: nn.Module | str | os.PathLike) -> AlbertModel:
    if not isinstance(source, nn.Module):
        source = _loaded(source)
    albert = getattr(source, "albert", source)
    if type(albert) is not AlbertModel:
        raise TypeError(
            f"source: got {type(albert).__name__}, expected transformers' AlbertModel, a task "
            "model with one, or a folder of either."
        )
    config: AlbertConfig = albert.config
    for name in ("num_hidden_groups", "inner_group_num"):
        if getattr(config, name) != 1:
            raise ValueError(
                f"{name}: got an ALBERT with {getattr(config, name)}, expected 1: ALBERT-ACT "
                "iterates one layer, whose weights every iteration shares."
            )
    return albert


def _loaded(folder: str | os.PathLike) -> AlbertModel:
    """Without a pooler where the folder has none: transformers would make one of random weights."""
    model, info = AlbertModel.from_pretrained(folder, output_loading_info=True)
    missing = set(info["missing_keys"])
    if missing and missing <= {"pooler.weight", "pooler.bias"}:
        model.pooler = None
    elif missing:
        raise ValueError(
            f"source: {folder} is no ALBERT's; weights are missing: {', '.join(sorted(missing))}."
        )
    return model


def _renamed(name: str) -> str:
    """ALBERT keeps the LayerNorm behind attention in the attention, the published ALBERT-ACT beside
    it; they compute the same."""
    name = name.replace(_GROUP, _LAYER)
    return name.replace(f"{_LAYER}attention.LayerNorm.", f"{_LAYER}LayerNorm.")
