"""Models whose tokens halt at different depths, batches and labels, for all tests.

`random_model` and `random_batch` are for comparisons of numbers: sizes of all kinds, every weight
matters. `model` and `batch` are for tests of the model classes: tiny, initialised as transformers
does, with labels for every task.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import set_seed

import albert_act_fast as aaf
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


TASKS = (
    aaf.AlbertActForPreTraining,
    aaf.AlbertActForMaskedLM,
    aaf.AlbertActForSequenceClassification,
    aaf.AlbertActForTokenClassification,
    aaf.AlbertActForQuestionAnswering,
    aaf.AlbertActForMultipleChoice,
)
MODELS = (aaf.AlbertActModel, *TASKS)
LENGTHS = (7, 4, 1, 9)


def config(**overrides) -> aaf.AlbertActConfig:
    return aaf.AlbertActConfig(
        **{
            "vocab_size": 40,
            "embedding_size": 8,
            "hidden_size": 16,
            "num_attention_heads": 4,
            "intermediate_size": 24,
            "num_hidden_layers": 8,
            "max_position_embeddings": 20,
            "hidden_act": "gelu",
            "classifier_dropout_prob": 0.0,
            # Wide, so that random weights make tokens differ from each other.
            "initializer_range": 0.3,
        }
        | overrides
    )


def model(cls=aaf.AlbertActModel, *, seed: int = 1, **overrides) -> nn.Module:
    """A model in eval mode whose tokens halt at different iterations."""
    set_seed(seed)
    return spread_depths(cls(config(**overrides)).eval())


def spread_depths(model: nn.Module) -> nn.Module:
    """Sets the halting unit so that depths go from a few iterations to the limit."""
    for name, parameter in model.named_parameters():
        if name.endswith("act.dense.weight"):
            nn.init.normal_(parameter, std=0.5)
        elif name.endswith("act.dense.bias"):
            nn.init.constant_(parameter, -1.7)
    return model


def ids(*shape: int, low: int = 5, high: int = 40, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, generator=generator)


def mask(lengths=LENGTHS) -> Tensor:
    """Right padding, except for sequence 1: left padding."""
    width = max(lengths)
    rows = [[1] * n + [0] * (width - n) for n in lengths]
    rows[1].reverse()
    return torch.tensor(rows)


def batch(cls=aaf.AlbertActModel, *, labels: bool = False) -> dict[str, Tensor]:
    """Inputs for that class, ragged; with labels if asked for."""
    attention_mask = mask()
    count, width = attention_mask.shape
    inputs = {
        "input_ids": ids(count, width) * attention_mask,
        "attention_mask": attention_mask,
        "token_type_ids": ids(count, width, low=0, high=2, seed=2) * attention_mask,
    }
    if cls is aaf.AlbertActForMultipleChoice:
        inputs = {name: x.unflatten(0, (2, 2)) for name, x in inputs.items()}
    return inputs | (labels_of(cls) if labels else {})


def labels_of(cls) -> dict[str, Tensor]:
    token_ids = ids(*mask().shape, seed=3).masked_fill(mask() == 0, -100)
    sequence_classes = torch.tensor([0, 1, 1, 0])
    return {
        aaf.AlbertActModel: {},
        aaf.AlbertActForPreTraining: {
            "labels": token_ids,
            "sentence_order_label": sequence_classes,
        },
        aaf.AlbertActForMaskedLM: {"labels": token_ids},
        aaf.AlbertActForSequenceClassification: {"labels": sequence_classes},
        aaf.AlbertActForTokenClassification: {
            "labels": (token_ids % 2).masked_fill(mask() == 0, -100)
        },
        aaf.AlbertActForQuestionAnswering: {
            "start_positions": torch.tensor([1, 5, 0, 2]),
            "end_positions": torch.tensor([3, 7, 0, 8]),
        },
        aaf.AlbertActForMultipleChoice: {"labels": torch.tensor([1, 0])},
    }[cls]


def base_of(model: nn.Module) -> aaf.AlbertActModel:
    return getattr(model, "albert", model)


def head_output(output) -> Tensor:
    """The first tensor of an output without loss: the logits, or the last hidden state."""
    return output[0]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
