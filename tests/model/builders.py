"""Small models, batches and labels that the tests of the models share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import set_seed

import albert_act_fast as aaf

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
