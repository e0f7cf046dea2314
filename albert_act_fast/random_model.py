"""A model with random weights, for the command line while no trained model ships."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from albert_act_fast.configuration import AlbertActConfig
from albert_act_fast.modeling import AlbertActModel

# Whoever shows a result of this model shows this with it.
RANDOM_MODEL_NOTICE = "random weights from a fixed seed, no trained model: its depths mean nothing"

# Of the halting unit over tokens and iterations; gives depths around half the iteration limit.
_MEAN_LOGIT = -1.2


@torch.no_grad()
def random_model(seed: int = 0) -> AlbertActModel:
    """A small ALBERT-ACT model in eval mode, float32 on the CPU: hidden size 192, at most 12
    iterations, the stock vocabulary. The same seed gives the same weights; torch's own random
    state is left as it is.

    transformers' initialisation would give every token the depth 2: all weights near 0, every
    halting probability near 0.5. Here each product keeps its input's scale, so that states, and
    with them depths, differ from token to token.
    """
    config = AlbertActConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=768,
        embedding_size=64,
        hidden_act="gelu",
    )
    with torch.random.fork_rng(devices=[]):
        model = AlbertActModel(config).eval()
    generator = torch.Generator().manual_seed(seed)

    def normal_(tensor: Tensor, std: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)

    for module in model.modules():
        if isinstance(module, nn.Linear):
            normal_(module.weight, module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            normal_(module.weight, 0.5)
    ids = torch.randint(5, config.vocab_size, (4, 24), generator=generator)
    _set_mean_logit(model, ids)
    return model


def _set_mean_logit(model: AlbertActModel, input_ids: Tensor) -> None:
    """Random states share a direction, so without this the mean of the halting logit, and whether
    any token halts early, would be the seed's luck."""
    layer = model.encoder.albert_layer
    halting = layer.act.dense
    states = []
    hook = layer.full_layer_layer_norm.register_forward_hook(
        lambda module, args, state: states.append(state)
    )
    halting.bias.fill_(-20.0)  # nothing halts: states of all iterations
    model(input_ids, implementation="reference")
    hook.remove()
    halting.bias.fill_(_MEAN_LOGIT - torch.cat(states).mean((0, 1)) @ halting.weight[0])
