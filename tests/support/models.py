"""Random models whose tokens halt at different depths, and random batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from albert_act_fast import AlbertActConfig, AlbertActModel

SIZES = {
    "even": {
        "hidden_size": 48,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "embedding_size": 16,
    },
    "odd": {
        "hidden_size": 35,
        "num_attention_heads": 5,
        "intermediate_size": 77,
        "embedding_size": 13,
    },
    "one head": {
        "hidden_size": 24,
        "num_attention_heads": 1,
        "intermediate_size": 31,
        "embedding_size": 40,
    },
    "one column a head": {
        "hidden_size": 6,
        "num_attention_heads": 6,
        "intermediate_size": 9,
        "embedding_size": 3,
    },
    "base": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "embedding_size": 128,
    },
}
PADDINGS = ("right", "left", "holes")


def random_config(size: str = "even", **overrides) -> AlbertActConfig:
    """A small configuration; `overrides` are fields of AlbertActConfig."""
    fields = {"vocab_size": 61, "max_position_embeddings": 64, "num_hidden_layers": 12}
    return AlbertActConfig(**(fields | SIZES[size] | overrides))


def random_model(
    seed: int,
    size: str = "even",
    *,
    model_class: type = AlbertActModel,
    halting_bias: float = -1.8,
    halting_spread: float = 1.2,
    dtype: torch.dtype = torch.float32,
    **overrides,
) -> AlbertActModel:
    """A model in eval mode whose every weight matters.

    transformers' initialisation (0.02 everywhere) makes attention nearly uniform, every p nearly
    0.5 and every depth 2. Here products keep their scale, LayerNorms and biases are not trivial,
    and the halting logit is N(halting_bias, halting_spread^2) over tokens.
    """
    model = model_class(random_config(size, **overrides)).eval()
    generator = torch.Generator().manual_seed(seed)

    def normal_(tensor: Tensor, std: float, mean: float = 0.0) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std + mean)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                normal_(module.weight, module.in_features**-0.5)
                normal_(module.bias, 0.1)
            elif isinstance(module, nn.Embedding):
                normal_(module.weight, 0.5)
            elif isinstance(module, nn.LayerNorm):
                normal_(module.weight, 0.1, mean=1.0)
                normal_(module.bias, 0.1)
        base = getattr(model, model.base_model_prefix, model)
        halting = base.encoder.albert_layer.act.dense
        halting.weight *= halting_spread
        halting.bias.fill_(halting_bias)
    return model.to(dtype)


def random_lengths(seed: int, sequences: int, longest: int) -> list[int]:
    """Lengths 1 to `longest`; one sequence has the longest."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (sequences,), generator=generator).tolist()
    lengths[sequences // 2] = longest
    return lengths


def mask_of(
    lengths: Sequence[int], width: int | None = None, padding: str = "right", seed: int = 0
) -> Tensor:
    """[B, S] int64 with `lengths[b]` ones in row b, at the start, at the end or anywhere."""
    width = max(lengths) if width is None else width
    count = torch.tensor(lengths).unsqueeze(1)
    if padding == "right":
        place = torch.arange(width).expand(len(lengths), width)
    elif padding == "left":
        place = torch.arange(width).flip(0).expand(len(lengths), width)
    else:
        generator = torch.Generator().manual_seed(seed)
        place = torch.rand(len(lengths), width, generator=generator).argsort(1)
    return (place < count).long()


def random_batch(seed: int, config: AlbertActConfig, mask: Tensor) -> dict[str, Tensor]:
    """Arguments for a model: ids and token types everywhere, at padding too."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(config.vocab_size, mask.shape, generator=generator),
        "token_type_ids": torch.randint(config.type_vocab_size, mask.shape, generator=generator),
        "attention_mask": mask,
    }
