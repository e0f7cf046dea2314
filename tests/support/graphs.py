"""Batches for the GPU engine's graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from albert_act_fast.configuration import HaltingLimits
from albert_act_fast.engine.gpu.graphs import CapturedLoop, LayerGraphs
from albert_act_fast.engine.layer import layer_weights
from support.device_loop import packed
from support.models import random_config

LIMITS = random_config(num_hidden_layers=12).halting_limits


def batch(layer: nn.Module, lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Random rows of sequences of these lengths, their offsets and positions."""
    width = layer.act.dense.weight.size(1)
    return torch.randn(sum(lengths), width), *packed(lengths)


def find(
    layer_graphs: LayerGraphs,
    layer: nn.Module,
    lengths: list[int],
    limits: HaltingLimits = LIMITS,
) -> CapturedLoop | str:
    return layer_graphs.find(layer_weights(layer), sum(lengths), len(lengths), limits)
