"""What of a model's output is scored: its head's logits, or the cosine of two embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from albert_act_fast.glue.data import Example
from albert_act_fast.glue.tasks import Task
from albert_act_fast.modeling import AlbertActModel

POOLINGS = ("mean", "cls")


@dataclass(frozen=True)
class HeadScoring:
    """The head's logits: of a regression the score, else the largest one's class.

    Attributes:
        classes: the logit of each of the task's classes.
    """

    task: Task
    classes: list[int]
    scored_by = "head"
    values_name = "logits"

    def inputs(self, examples: Sequence[Example]) -> Sequence[Example]:
        """What the model reads, one row each."""
        return examples

    def values(self, output, token: Tensor) -> Tensor:
        """[B, n] float32, of the rows of a batch; token: [B, S] bool, False at padding."""
        return output.logits.float()

    def of_examples(
        self, values: Tensor, n_updates: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], list]:
        """All rows' values and iterations to logits, iterations and prediction of each example."""
        if self.task.is_regression:
            return values, n_updates, values.squeeze(-1).tolist()
        return values, n_updates, values[:, self.classes].argmax(-1).tolist()


@dataclass(frozen=True)
class CosineScoring:
    """The cosine of the embeddings of a pair's texts, each read by itself, without any head."""

    pooling: str
    values_name = "cosines"

    @property
    def scored_by(self) -> str:
        return f"cosine of {self.pooling}-pooled embeddings"

    def inputs(self, examples: Sequence[Example]) -> Sequence[Example]:
        return [Example((text,), one.label) for one in examples for text in one.texts]

    def values(self, output, token: Tensor) -> Tensor:
        states = output.last_hidden_state.float()
        if self.pooling == "mean":  # states are 0 at padding
            return states.sum(1) / token.sum(1, keepdim=True)
        return states[torch.arange(len(states)), token.int().argmax(1)]

    def of_examples(
        self, values: Tensor, n_updates: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], list]:
        vectors = F.normalize(values, dim=1)
        cosines = (vectors[0::2] * vectors[1::2]).sum(1, keepdim=True)
        pairs = zip(n_updates[0::2], n_updates[1::2], strict=True)
        return cosines, list(map(torch.cat, pairs)), cosines.squeeze(-1).tolist()


def scoring_of(
    model: PreTrainedModel, task: Task, labels: Sequence[str] | None, pooling: str
) -> HeadScoring | CosineScoring:
    """
    Raises:
        ValueError: the model's labels are not the task's, or it has no head and the task needs one.
    """
    if not isinstance(model, AlbertActModel):
        return HeadScoring(task, class_order(model.config, task, labels))
    if not (task.is_regression and len(task.texts) == 2):
        raise ValueError(
            f"task: got {task.name!r}, expected sts-b: a model without a head is scored by the "
            "cosine of two texts' embeddings. Is it fine-tuned on this task?"
        )
    if labels is not None:
        raise ValueError(f"labels: got {', '.join(labels)}, expected none: a cosine has no label.")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling: got {pooling!r}, expected one of {', '.join(POOLINGS)}.")
    return CosineScoring(pooling)


def class_order(config, task: Task, labels: Sequence[str] | None = None) -> list[int]:
    """The model's logit of each of the task's classes, by the labels' names.

    Args:
        labels: the model's labels in the order of its logits; default: its configuration's.

    Raises:
        ValueError: they are not the task's; a model trained for another task has a score on this
            one all the same, which means nothing.
    """
    expected = "one, a score" if task.is_regression else ", ".join(task.labels)
    if config.num_labels != task.num_labels:
        raise ValueError(
            f"num_labels: the model has {config.num_labels}, expected {task.num_labels} for "
            f"{task.name}: {expected}. Is it fine-tuned on this task?"
        )
    kind = "regression" if task.is_regression else "single_label_classification"
    if config.problem_type not in (None, kind):
        raise ValueError(
            f"problem_type: the model's is {config.problem_type!r}, expected {kind!r} for "
            f"{task.name}. Is it fine-tuned on this task?"
        )
    given = [config.id2label[i] for i in range(config.num_labels)] if labels is None else labels
    names, wanted = ([_plain(name) for name in of] for of in (given, task.labels or ("score",)))
    if task.is_regression and names == ["label_0"]:  # transformers' default, and there is one only
        names = wanted
    if sorted(names) != sorted(wanted):
        whose = "the model's are" if labels is None else "got"
        raise ValueError(
            f"labels: {whose} {', '.join(map(str, given))}; {task.name} expects {expected}. If the "
            "model is fine-tuned on this task, give the labels in the order of its logits."
        )
    return [names.index(name) for name in wanted]


def _plain(label: str) -> str:
    """Label names differ in case and in how words are joined."""
    return str(label).casefold().replace("-", "_").replace(" ", "_")
