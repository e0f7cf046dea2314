"""What the training scripts share: a plain loop that can be stopped and resumed, and its log.

Every source of chance is drawn from (seed, step), so a run that was stopped and resumed gives
the weights of a run that was not.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

CHECKPOINT = "checkpoint.pt"
LOG = "training_log.jsonl"


def random_for(*key: int | str) -> random.Random:
    """A random source that depends on the key alone, the same in every Python process."""
    return random.Random("/".join(map(str, key)))


def autocast(precision: str, device: torch.device):
    """bf16 autocast or nothing; the halting rule is in float32 either way."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


HALTING = "act.dense"
EMBEDDINGS = "_embeddings"


def make_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW; no decay for biases, LayerNorm and the halting unit, which is a group of its own, as
    are the embeddings of words, positions and token types."""
    groups = {"matrices": [], "vectors": [], "halting": [], "embeddings": []}
    for name, parameter in model.named_parameters():
        kind = "matrices" if parameter.dim() > 1 else "vectors"
        kind = "embeddings" if EMBEDDINGS in name else kind
        groups["halting" if HALTING in name else kind].append(parameter)
    return torch.optim.AdamW(
        [
            {
                "name": name,
                "params": parameters,
                "weight_decay": weight_decay if name in ("matrices", "embeddings") else 0.0,
            }
            for name, parameters in groups.items()
        ],
        betas=(0.9, 0.98),
        eps=1e-6,
    )


@dataclass(frozen=True)
class Schedule:
    """Learning rate: linear warm-up to the peak, then linearly to 0 at the last step.

    The halting unit may learn more slowly than the rest, and only from a given step on: early in
    pre-training the first iterations are all that helps, and a unit that is free to learn that
    collapses to two iterations before the later ones are of any use.

    The embeddings may learn faster: a distilled student's words have a deviation near 1, fifty
    times that of a usual start, and hardly move at the others' rate; its positions begin at 0.
    """

    steps: int
    peak: float
    warmup: int
    halting_factor: float = 1.0
    halting_from: int = 0
    embedding_factor: float = 1.0

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        return self.peak * max(0.0, (self.steps - step) / max(1, self.steps - self.warmup))

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.rate(step)
            if group["name"] == "halting":
                group["lr"] *= self.halting_factor if step >= self.halting_from else 0.0
            elif group["name"] == "embeddings":
                group["lr"] *= self.embedding_factor


class DepthMeter:
    """Mean iterations of groups of tokens, over many batches."""

    def __init__(self):
        self._sums = defaultdict(lambda: torch.zeros(2, dtype=torch.float64))

    def add(self, n_updates: Tensor, **groups: Tensor) -> None:
        """Each group is a boolean mask of n_updates' shape."""
        n_updates = n_updates.detach()
        for name, group in groups.items():
            chosen = n_updates[group].double().cpu()
            self._sums[name] += torch.tensor([chosen.sum(), chosen.numel()], dtype=torch.float64)

    def means(self) -> dict[str, float]:
        return {
            f"depth_{name}": round((total / count).item(), 3)
            for name, (total, count) in self._sums.items()
            if count
        }


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    output: Path,
    *,
    schedule: Schedule,
    seed: int,
    loss_at: Callable[[int], tuple[Tensor, dict[str, float]]],
    evaluate: Callable[[], dict[str, float]],
    log_every: int = 50,
    evaluate_every: int = 0,
    checkpoint_every: int = 200,
    stop_after: int | None = None,
    description: str = "training",
) -> None:
    """Trains up to `schedule.steps`, resuming from the checkpoint in `output` if there is one.

    Args:
        loss_at: the loss of a step's batch and figures for the log (means are logged).
        evaluate: figures on held-out data; called every `evaluate_every` steps and at the end.
        stop_after: leave at this step, with a checkpoint.
    """
    output.mkdir(parents=True, exist_ok=True)
    steps = schedule.steps
    step = _resume(model, optimizer, output)
    figures = defaultdict(list)
    started = time.perf_counter()
    end = steps if stop_after is None else min(steps, stop_after)
    with tqdm(total=steps, initial=step, desc=description, unit="step", mininterval=1) as bar:
        while step < end:
            schedule.apply(optimizer, step)
            torch.manual_seed(random_for(seed, "dropout", step).getrandbits(63))
            model.train()
            loss, step_figures = loss_at(step)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"step {step}: the loss is {loss.item()}.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            bar.update()
            for name, value in {"loss": loss.item(), **step_figures, "grad": norm.item()}.items():
                figures[name].append(value)
            if step % log_every == 0 or step == end:
                entry = {name: round(sum(v) / len(v), 4) for name, v in figures.items()}
                seconds = round((time.perf_counter() - started) / len(figures["loss"]), 4)
                write_log(output, {"step": step, **entry, "seconds_per_step": seconds})
                bar.set_postfix(entry, refresh=False)
                figures.clear()
                started = time.perf_counter()
            if step == steps or (evaluate_every and step % evaluate_every == 0):
                write_log(output, {"step": step, "held_out": evaluate()})
                started = time.perf_counter()
            if step == end or step % checkpoint_every == 0:
                _save(model, optimizer, output, step)


def compile_layer(model: nn.Module) -> None:
    """Compiles the tied layer: on CPUs several times as fast, as element-wise work is fused."""
    model.base_model.encoder.albert_layer.compile(dynamic=True)


def save_model(model: PreTrainedModel, tokenizer, output: Path, dtype: str) -> None:
    """With weights of that dtype; loaded, the model has the dtype it was trained in."""
    converted = {}  # tied weights stay one tensor, which is stored once
    weights = {
        name: converted.setdefault(value.data_ptr(), value.to(getattr(torch, dtype)))
        for name, value in model.state_dict().items()
    }
    model.save_pretrained(output, state_dict=weights)
    tokenizer.save_pretrained(output)


def start_log(output: Path, args: Namespace, **facts) -> None:
    """Writes the arguments (without paths and what changes no result) as the first line; on
    resuming, those that have changed since."""
    unwritten = {"text", "data", "glue", "teacher", "states", "model", "output", "threads"}
    unwritten.add("stop_after")
    given = {name: value for name, value in vars(args).items() if name not in unwritten}
    output.mkdir(parents=True, exist_ok=True)
    log, checkpoint = output / LOG, output / CHECKPOINT
    if not checkpoint.exists():
        log.unlink(missing_ok=True)
        write_log(output, {"arguments": given, **facts})
        return
    step = torch.load(checkpoint, map_location="cpu", weights_only=True)["step"]
    _cut_log(log, step)
    before = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        before |= json.loads(line).get("arguments", {})
    changed = {name: value for name, value in given.items() if before.get(name) != value}
    if changed:
        write_log(output, {"step": step, "arguments": changed})


def write_log(output: Path, entry: dict) -> None:
    with (output / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")


def _save(model: nn.Module, optimizer: torch.optim.Optimizer, output: Path, step: int) -> None:
    # Written beside and renamed: an interruption leaves the last whole checkpoint.
    unfinished = output / (CHECKPOINT + ".unfinished")
    torch.save(
        {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, unfinished
    )
    unfinished.replace(output / CHECKPOINT)


def _resume(model: nn.Module, optimizer: torch.optim.Optimizer, output: Path) -> int:
    """Loads the checkpoint, cuts the log back to it; the step to go on from."""
    path = output / CHECKPOINT
    step = 0
    if path.exists():
        saved = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    _cut_log(output / LOG, step)
    return step


def _cut_log(log: Path, step: int) -> None:
    if not log.exists():
        return
    lines = log.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line).get("step", 0) <= step]
    log.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def pad(rows: Iterable[list[int]], value: int, multiple: int = 8) -> Tensor:
    """int64 [rows, longest, rounded up], padded on the right."""
    rows = list(rows)
    longest = -(-max(map(len, rows)) // multiple) * multiple
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
