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
from suite.inputs import Batch

CLS, SEP, MASK = 2, 3, 4
# Mean iterations in pre-training text, from the published model card.
PUBLISHED_DEPTHS = {
    "tiny": {"[CLS]": 6.0, "[SEP]": 2.5, "[MASK]": 5.8, "unmasked": 3.5},
    "small": {"[CLS]": 12.0, "[SEP]": 7.6, "[MASK]": 10.9, "unmasked": 6.5},
    "base": {"[CLS]": 22.5, "[SEP]": 8.4, "[MASK]": 16.0, "unmasked": 9.2},
}
PUBLISHED_OF_ALL = {"tiny": 3.8, "small": 7.1, "base": 10.0}
# Spread of a token's halting logit around its class mean: gives words of one class depths from
# about half to twice the mean.
LOGIT_SPREAD = 0.35
# A mean depth this near its target is near enough to stop at, and the most it may miss it by:
# depths are whole numbers, and the iteration limit cuts off the deepest.
NEAR, TOLERANCE = 0.03, 0.1


class NotCalibrated(RuntimeError):
    """The depths of a random model are not those asked for."""


def targets(size: str, depth: float | None) -> dict[str, float]:
    """Mean depth of each class of tokens: the published ones, or [CLS] to the limit and all others
    to `depth`."""
    if depth is None:
        return PUBLISHED_DEPTHS[size]
    return {"[CLS]": getattr(AlbertActConfig, size)().num_hidden_layers, "others": depth}


def token_classes(batch: Batch) -> dict[str, Tensor]:
    """A bool mask [B, S] for each class that occurs; together they cover all tokens but padding."""
    token = batch.attention_mask.bool()
    special = {"[CLS]": CLS, "[SEP]": SEP, "[MASK]": MASK}
    classes = {name: (batch.input_ids == index) & token for name, index in special.items()}
    classes["unmasked"] = token & ~torch.stack(list(classes.values())).any(0)
    return {name: where for name, where in classes.items() if where.any()}


def _classes_of(batch: Batch, wanted: dict[str, float]) -> dict[str, Tensor]:
    """The classes that `wanted` names."""
    classes = token_classes(batch)
    classes["others"] = batch.attention_mask.bool() & ~classes["[CLS]"]
    return {name: where for name, where in classes.items() if name in wanted}


def depths_by_class(n_updates: Tensor, batch: Batch) -> dict[str, float]:
    """Mean iterations of all tokens and of each class."""
    classes = {"all": batch.attention_mask.bool(), **token_classes(batch)}
    return {
        name: round(n_updates[where].float().mean().item(), 2) for name, where in classes.items()
    }


def depth_table(depths: dict[str, float], wanted: dict[str, float]) -> str:
    """Depths beside what they should be, on one line."""
    return ", ".join(
        f"{name} {depth:.1f}" + (f" (target {wanted[name]:g})" if name in wanted else "")
        for name, depth in depths.items()
    )


@torch.no_grad()
def calibrated_model(
    size: str, batch: Batch, depth: float | None = None, seed: int = 0, rounds: int = 12
) -> AlbertActModel:
    """A random model of a published size whose token classes take the depths asked for.

    Args:
        size: "tiny", "small" or "base".
        batch: text to calibrate on; every class must occur in it.
        depth: as in `Case`.

    Raises:
        NotCalibrated: a class misses its depth by more than a tenth.
    """
    torch.manual_seed(seed)
    config = getattr(AlbertActConfig, size)()
    model = AlbertActModel(config).eval()
    halting = model.encoder.albert_layer.act.dense
    if depth == config.num_hidden_layers:
        halting.weight.zero_()
        halting.bias.fill_(-20)  # nothing halts
        return model
    wanted = targets(size, depth)
    classes = _classes_of(batch, wanted)
    directions = _class_directions(model, classes, batch)
    spread = torch.randn(config.hidden_size) * (LOGIT_SPREAD / config.hidden_size**0.5)
    logits = {name: _logit(min(1 / wanted[name], 0.99)) for name in classes}

    best_miss = float("inf")
    for _ in tqdm(range(rounds), desc=f"calibrating {size}", leave=False):
        weight = spread.clone()
        bias = 0.0
        for name, logit in logits.items():
            weight += logit * directions[name][:-1]
            bias += logit * directions[name][-1].item()
        halting.weight.copy_(weight.unsqueeze(0))
        halting.bias.fill_(bias)
        n_updates = model(batch.input_ids, batch.attention_mask).n_updates
        means = {name: n_updates[where].mean().item() for name, where in classes.items()}
        miss = max(abs(means[name] / wanted[name] - 1) for name in classes)
        if miss < best_miss:
            best, best_means, best_miss = (weight, bias), means, miss
        if miss < NEAR:
            break
        for name, mean in means.items():
            # A token at the limit hides how far beyond it its logit is: move it a little anyway.
            gap = mean / wanted[name] if mean < config.num_hidden_layers else 1.1
            if wanted[name] < config.num_hidden_layers or mean < config.num_hidden_layers:
                logits[name] += 0.7 * torch.tensor(gap).log().item()
    halting.weight.copy_(best[0].unsqueeze(0))
    halting.bias.fill_(best[1])
    if best_miss > TOLERANCE:
        raise NotCalibrated(f"{size}, mean depths: {depth_table(best_means, wanted)}.")
    return model


def _logit(p: float) -> float:
    return torch.logit(torch.tensor(p)).item()


def _class_directions(model, classes: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """For each class a [H + 1] affine function of the candidate state that is 1 on its tokens and
    0 on the others, by ridge regression over the states of all iterations."""
    token = batch.attention_mask.bool()
    states = []
    layer = model.encoder.albert_layer
    hook = layer.full_layer_layer_norm.register_forward_hook(
        lambda module, args, output: states.append(output[token])
    )
    layer.act.dense.bias.fill_(-20)  # nothing halts: states of all iterations
    model(batch.input_ids, batch.attention_mask, implementation="reference")
    hook.remove()
    iterations = len(states)
    x = torch.nn.functional.pad(torch.cat(states), (0, 1), value=1.0)
    y = torch.stack([where[token].float() for where in classes.values()], 1)
    y = y.repeat(iterations, 1)
    gram = x.T @ x + 1e-3 * len(x) * torch.eye(x.size(1))
    solution = torch.linalg.solve(gram.double(), (x.T @ y).double()).float()
    return dict(zip(classes, solution.unbind(1), strict=True))
