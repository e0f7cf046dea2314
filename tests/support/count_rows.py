"""How many rows enter every product, told without touching the modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from albert_act_fast import engine


@contextmanager
def count_rows(model: nn.Module) -> Iterator[dict[str, list[int]]]:
    """Rows entering each product of a base model, one entry a call; filled within the block."""
    layer = model.encoder.albert_layer
    named = {
        "query": layer.attention.query,
        "key": layer.attention.key,
        "value": layer.attention.value,
        "dense": layer.attention.dense,
        "ffn": layer.ffn,
        "ffn_output": layer.ffn_output,
        "mapping": model.encoder.embedding_hidden_mapping_in,
    }
    names = {id(module.weight): name for name, module in named.items()}
    rows: dict[str, list[int]] = defaultdict(list)

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.nn.functional.linear and id(args[1]) in names:
                rows[names[id(args[1])]].append(args[0][..., 0].numel())
            return function(*args, **(kwargs or {}))

    def unseen(call):
        return "a test counts the products"

    # Products that are made below Python cannot be watched: the loop in Python runs instead.
    with (
        mock.patch.object(engine.cpu, "why_not", unseen),
        mock.patch.object(engine.gpu, "why_not", unseen),
        Watch(),
    ):
        yield rows


def rows_through_the_ffn(model: nn.Module, **arguments) -> int:
    """How many rows one call of a model, ours or a published one, computes in all iterations."""
    base = getattr(model, getattr(model, "base_model_prefix", ""), model)
    with count_rows(base) as rows:
        model(**arguments)
    return sum(rows["ffn"])
