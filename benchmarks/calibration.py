"""Random weights with the depths of the published model.

Trained weights decide how deep each token goes. Where they cannot be had, random ones of the same
size do, once their halting unit gives every class of tokens the published mean depth. The layer's
own arithmetic does not depend on what the weights are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from albert_act_fast import AlbertActConfig, AlbertActModel

CLS, SEP, MASK = 2, 3, 4
# Mean iterations in pre-training text, from the published model card.
PUBLISHED_DEPTHS = {
    "tiny": {"[CLS]": 6.0, "[SEP]": 2.5, "[MASK]": 5.8, "unmasked": 3.5},
    "small": {"[CLS]": 12.0, "[SEP]": 7.6, "[MASK]": 10.9, "unmasked": 6.5},
    "base": {"[CLS]": 22.5, "[SEP]": 8.4, "[MASK]": 16.0, "unmasked": 9.2},
}
# Spread of a token's halting logit around its class mean: gives words of one class depths from
# about half to twice the mean.
LOGIT_SPREAD = 0.35


def token_classes(input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
    """A bool mask [B, S] for each class; together they cover all tokens but padding."""
    token = attention_mask.bool()
    special = {"[CLS]": CLS, "[SEP]": SEP, "[MASK]": MASK}
    classes = {name: (input_ids == index) & token for name, index in special.items()}
    classes["unmasked"] = token & ~torch.stack(list(classes.values())).any(0)
    return classes


@torch.no_grad()
def calibrated_model(
    size: str, input_ids: Tensor, attention_mask: Tensor, seed: int = 0, rounds: int = 12
) -> AlbertActModel:
    """A random model of a published size whose token classes take the published depths.

    Args:
        size: "tiny", "small" or "base".
        input_ids, attention_mask: [B, S], text to calibrate on. Classes that do not occur in it
            stay uncalibrated.
    """
    torch.manual_seed(seed)
    config = getattr(AlbertActConfig, size)()
    model = AlbertActModel(config).eval()
    halting = model.encoder.albert_layer.act.dense
    classes = {
        name: where
        for name, where in token_classes(input_ids, attention_mask).items()
        if where.any()
    }
    directions = _class_directions(model, classes, input_ids, attention_mask)
    spread = torch.randn(config.hidden_size) * (LOGIT_SPREAD / config.hidden_size**0.5)
    targets = PUBLISHED_DEPTHS[size]
    logits = {name: _logit(1 / targets[name]) for name in classes}

    for _ in tqdm(range(rounds), desc=f"calibrating {size}", leave=False):
        weight = spread.clone()
        bias = 0.0
        for name, logit in logits.items():
            weight += logit * directions[name][:-1]
            bias += logit * directions[name][-1].item()
        halting.weight.copy_(weight.unsqueeze(0))
        halting.bias.fill_(bias)
        n_updates = model(input_ids, attention_mask).n_updates
        for name, where in classes.items():
            mean = n_updates[where].mean().item()
            # A token at the limit hides how far beyond it its logit is: move it a little anyway.
            gap = mean / targets[name] if mean < config.num_hidden_layers else 1.1
            logits[name] += 0.7 * torch.tensor(gap).log().item()
    return model


def _logit(p: float) -> float:
    return torch.logit(torch.tensor(p)).item()


def _class_directions(model, classes, input_ids, attention_mask) -> dict[str, Tensor]:
    """For each class a [H + 1] affine function of the candidate state that is 1 on its tokens and
    0 on the others, by ridge regression over the states of all iterations."""
    states = []
    layer = model.encoder.albert_layer
    hook = layer.full_layer_layer_norm.register_forward_hook(
        lambda module, args, output: states.append(output[attention_mask.bool()])
    )
    layer.act.dense.bias.fill_(-20)  # nothing halts: states of all iterations
    model(input_ids, attention_mask, implementation="reference")
    hook.remove()
    iterations = len(states)
    x = torch.nn.functional.pad(torch.cat(states), (0, 1), value=1.0)
    y = torch.stack([where[attention_mask.bool()].float() for where in classes.values()], 1)
    y = y.repeat(iterations, 1)
    gram = x.T @ x + 1e-3 * len(x) * torch.eye(x.size(1))
    solution = torch.linalg.solve(gram.double(), (x.T @ y).double()).float()
    return dict(zip(classes, solution.unbind(1), strict=True))
