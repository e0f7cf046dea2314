"""Evaluates a model on a GLUE task, and the engine against the reference on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from albert_act_fast import implementations
from albert_act_fast.glue import metrics
from albert_act_fast.glue.data import read_examples
from albert_act_fast.glue.scoring import CosineScoring, HeadScoring, scoring_of
from albert_act_fast.glue.tasks import Task, get_task

OnBatch = Callable[[int, int], None]

MAX_LENGTH = 128
BATCH_SIZE = 32


class PredictionsDiffer(AssertionError):
    """The engine and the reference predict different things; the message names the rows."""


class NotFinite(ValueError):
    """The model gives NaN or infinity, of which a score would still be computed."""


@dataclass
class Evaluation:
    """What one implementation made of a task's split.

    Attributes:
        implementation: that ran, "auto" resolved.
        scored_by: "head", or how a model without one was scored.
        quantization: of the model, where this implementation heeds it.
        metrics: in per cent.
        mean_depth: iterations a token, over all tokens that are not padding.
        rows_computed: token rows the implementation computed, over all iterations. The reference
            computes every row of the padded batch until its last token halts.
        rows_dense: what the reference computes on the same batches.
        seconds: in the model, without reading and tokenising.
        predictions: class ids or scores, in the file's order.
        logits: [examples, labels] float32; without a head [examples, 1], the cosines.
        n_updates: iterations of each example's tokens, without padding.
    """

    task: str
    implementation: str
    scored_by: str
    dtype: str
    quantization: str | None
    metrics: dict[str, float]
    examples: int
    tokens: int
    mean_depth: float
    depth_limit: int
    rows_computed: int
    rows_dense: int
    seconds: float
    predictions: list[int] | list[float]
    logits: Tensor
    n_updates: list[Tensor]


@dataclass
class Comparison:
    """The reference and another implementation on the same batches, in turn.

    Attributes:
        differing_predictions: indices of the examples they predict differently.
        differing_depths: share of tokens whose n_updates differ.
        largest_difference: between the logits.
        speedup: the reference's seconds over the other's.
    """

    reference: Evaluation
    engine: Evaluation
    differing_predictions: list[int]
    differing_depths: float
    largest_difference: float
    speedup: float


def evaluate(
    model: PreTrainedModel,
    tokenizer: Any,
    task: str | Task,
    data: str | Path,
    implementation: str = "auto",
    *,
    split: str = "dev",
    batch_size: int = BATCH_SIZE,
    max_length: int = MAX_LENGTH,
    labels: Sequence[str] | None = None,
    pooling: str = "mean",
    limit: int | None = None,
    skip_malformed: bool = False,
    on_batch: OnBatch | None = None,
) -> Evaluation:
    """Runs the model over a split and scores it.

    Args:
        model: an `AlbertActForSequenceClassification`, or on STS-B an `AlbertActModel`, scored by
            the cosine of the two texts' embeddings; put in eval mode.
        task: a name of `albert_act_fast.glue.TASKS`, or one of these.
        data: GLUE's folder, or "hub".
        implementation: see `albert_act_fast.implementations`.
        batch_size: examples of similar length share a batch.
        max_length: longer inputs are truncated; 128 in GLUE's practice.
        labels: the names of the model's labels, in the order of its logits, where its configuration
            does not name them as the task does.
        pooling: "mean" or "cls", of a model without a head.
        limit: only the first rows.
        on_batch: called with the batches done and their number, for a progress bar.

    Raises:
        GlueDataError: the data are missing or malformed.
        ValueError: the model's labels are not the task's, or the implementation cannot run.
        ImportError: scikit-learn or SciPy is not installed.
        NotFinite: the model gives values that are no numbers.
    All but the last before the model runs.
    """
    return _evaluate(
        model,
        tokenizer,
        task,
        data,
        [implementation],
        split=split,
        batch_size=batch_size,
        max_length=max_length,
        labels=labels,
        pooling=pooling,
        limit=limit,
        skip_malformed=skip_malformed,
        on_batch=on_batch,
    )[0]


def compare(
    model: PreTrainedModel,
    tokenizer: Any,
    task: str | Task,
    data: str | Path,
    implementation: str = "auto",
    *,
    split: str = "dev",
    batch_size: int = BATCH_SIZE,
    max_length: int = MAX_LENGTH,
    labels: Sequence[str] | None = None,
    pooling: str = "mean",
    limit: int | None = None,
    skip_malformed: bool = False,
    on_batch: OnBatch | None = None,
    must_agree: bool | None = None,
    tolerance: float = 1e-3,
) -> Comparison:
    """Runs the reference and another implementation in turn, batch by batch.

    Args:
        must_agree: raise where predictions differ; default: in float32 and above, as in half
            precision and in int8 the two round differently and a token may halt an iteration
            earlier.
        tolerance: for scores (regression), the difference that counts.
        The rest as in `evaluate`.

    Raises:
        PredictionsDiffer: they do, and must not.
        And all that `evaluate` raises.
    """
    reference, engine = _evaluate(
        model,
        tokenizer,
        task,
        data,
        ["reference", implementation],
        split=split,
        batch_size=batch_size,
        max_length=max_length,
        labels=labels,
        pooling=pooling,
        limit=limit,
        skip_malformed=skip_malformed,
        on_batch=on_batch,
    )
    allowed = tolerance if _task(task).is_regression else 0
    pairs = list(zip(reference.predictions, engine.predictions, strict=True))
    differing = [i for i, (a, b) in enumerate(pairs) if not abs(a - b) <= allowed]
    if must_agree is None:
        exact = model.dtype in (torch.float32, torch.float64)
        must_agree = exact and engine.quantization is None
    if differing and must_agree:
        raise PredictionsDiffer(
            f"{reference.task}: {engine.implementation} and the reference predict {len(differing)} "
            f"of {reference.examples} examples differently: "
            + ", ".join(f"{i} ({pairs[i][0]} -> {pairs[i][1]})" for i in differing[:10])
            + (", ..." if len(differing) > 10 else "")
        )
    depths = [torch.cat(run.n_updates) for run in (reference, engine)]
    return Comparison(
        reference,
        engine,
        differing,
        (depths[0] != depths[1]).float().mean().item(),
        (reference.logits - engine.logits).abs().max().item(),
        reference.seconds / engine.seconds,
    )


def _task(task: str | Task) -> Task:
    return task if isinstance(task, Task) else get_task(task)


def _evaluate(
    model,
    tokenizer,
    task: str | Task,
    data,
    names: Sequence[str],
    *,
    split: str,
    batch_size: int,
    max_length: int,
    labels: Sequence[str] | None,
    pooling: str,
    limit: int | None,
    skip_malformed: bool,
    on_batch: OnBatch | None,
) -> list[Evaluation]:
    task = _task(task)
    for name, value in (("batch_size", batch_size), ("max_length", max_length), ("limit", limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: got {value}, expected at least 1.")
    metrics.libraries()
    scoring = scoring_of(model, task, labels, pooling)
    names = [implementations.choose(name, device=model.device).name for name in names]
    examples = read_examples(task, data, split, skip_malformed=skip_malformed)[:limit]
    inputs = scoring.inputs(examples)
    batches = list(encode_batches(inputs, tokenizer, batch_size, max_length))
    runs = [_Run(len(inputs), scoring) for _ in names]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for name in names:  # first calls allocate and initialise
                model(**batches[0][1].to(model.device), implementation=name)
            for turn, (indices, batch) in enumerate(batches):
                batch = batch.to(model.device)
                order = list(zip(names, runs, strict=True))
                for name, run in order if turn % 2 else reversed(order):
                    run.add(model, indices, batch, name)
                if on_batch is not None:
                    on_batch(turn + 1, len(batches))
    finally:
        model.train(was_training)
    truth = [example.label for example in examples]
    return [run.result(task, name, model, truth) for name, run in zip(names, runs, strict=True)]


class _Run:
    """Collects one implementation's results."""

    def __init__(self, inputs: int, scoring: HeadScoring | CosineScoring):
        self.scoring = scoring
        self.values: list = [None] * inputs
        self.n_updates: list = [None] * inputs
        self.rows_dense = 0
        self.seconds = 0.0

    def add(self, model, indices: Sequence[int], batch, name: str) -> None:
        _finish(model.device)
        started = time.perf_counter()
        output = model(**batch, implementation=name)
        _finish(model.device)
        self.seconds += time.perf_counter() - started
        n_updates = output.n_updates
        self.rows_dense += n_updates.numel() * int(n_updates.max())
        token = batch["attention_mask"].bool()
        values = self.scoring.values(output, token).cpu()
        for row, index in enumerate(indices):
            self.values[index] = values[row]
            self.n_updates[index] = n_updates[row][token[row]].cpu()

    def result(self, task: Task, name: str, model, truth) -> Evaluation:
        scoring = self.scoring
        logits, n_updates, predictions = scoring.of_examples(
            torch.stack(self.values), self.n_updates
        )
        _refuse_not_finite(logits, scoring.values_name, name)
        depths = torch.cat(n_updates)
        running_rows = int(depths.sum())
        return Evaluation(
            task=task.name,
            implementation=name,
            scored_by=scoring.scored_by,
            dtype=str(model.dtype).removeprefix("torch."),
            quantization=None if name == "reference" else model.config.quantization,
            metrics=metrics.score(task.metrics, predictions, truth),
            examples=len(truth),
            tokens=depths.numel(),
            mean_depth=running_rows / depths.numel(),
            depth_limit=model.config.num_hidden_layers,
            rows_computed=self.rows_dense if name == "reference" else running_rows,
            rows_dense=self.rows_dense,
            seconds=self.seconds,
            predictions=predictions,
            logits=logits,
            n_updates=n_updates,
        )


def _refuse_not_finite(logits: Tensor, what: str, implementation: str) -> None:
    bad = (~logits.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if bad:
        raise NotFinite(
            f"{what}: implementation {implementation!r} gives values that are not finite for "
            f"{len(bad)} of {len(logits)} examples, the first is example {bad[0]}, expected "
            "numbers (is the checkpoint damaged? does float32 help?)."
        )


def encode_batches(
    examples: Sequence, tokenizer, batch_size: int, max_length: int
) -> Iterable[tuple[list[int], Any]]:
    """Indices of the examples and the padded batch; examples of similar length together."""
    texts = list(zip(*(example.texts for example in examples), strict=True))
    encoded = tokenizer(*(list(column) for column in texts), truncation=True, max_length=max_length)
    order = sorted(range(len(examples)), key=lambda i: len(encoded["input_ids"][i]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        rows = {name: [values[i] for i in indices] for name, values in encoded.items()}
        yield indices, tokenizer.pad(rows, return_tensors="pt")


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
