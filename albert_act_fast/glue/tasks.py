"""The ten GLUE rows of the model card: where their data lie, what they mean, what was published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One row of the GLUE table.

    Attributes:
        name: as the command line knows it.
        folder: in GLUE's download.
        texts: the column of the first and, in sentence-pair tasks, of the second text.
        label: the column of the label.
        values: what stands in that column, class by class; empty: a number (regression).
        labels: the classes' names, in the same order.
        metrics: names in `albert_act_fast.glue.metrics`, the main one first.
        published: figures of the model card of albert-act-base, by metric.
        files: of each split.
        columns: where the file has no header, its columns in order.
        hub: configuration, columns of the texts and splits of the Hub's `nyu-mll/glue`, where they
            differ from GLUE's files.
    """

    name: str
    folder: str
    texts: tuple[str, ...]
    label: str
    values: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    published: dict[str, float]
    train_file: str = "train.tsv"
    dev_file: str = "dev.tsv"
    columns: tuple[str, ...] = ()
    hub_name: str = ""
    hub_texts: tuple[str, ...] = ()
    hub_dev_split: str = "validation"

    @property
    def is_regression(self) -> bool:
        return not self.values

    @property
    def num_labels(self) -> int:
        return len(self.values) or 1

    def file(self, split: str) -> str:
        """Name of the file of a split, "train" or "dev".

        Raises:
            ValueError: no such split, or one without labels.
        """
        files = {"train": self.train_file, "dev": self.dev_file}
        if split not in files:
            raise ValueError(f"split: got {split!r}, expected one of {', '.join(files)}.")
        return files[split]


_ZERO_ONE = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_SENTENCES = ("sentence1", "sentence2")
_MNLI = {
    "folder": "MNLI",
    "texts": _SENTENCES,
    "label": "gold_label",
    "values": ("entailment", "neutral", "contradiction"),
    "labels": ("entailment", "neutral", "contradiction"),
    "metrics": ("accuracy",),
    "hub_name": "mnli",
    "hub_texts": ("premise", "hypothesis"),
}

TASKS = {
    task.name: task
    for task in (
        Task(
            name="cola",
            folder="CoLA",
            texts=("sentence",),
            label="label",
            values=_ZERO_ONE,
            labels=("unacceptable", "acceptable"),
            metrics=("matthews",),
            published={"matthews": 36.7},
            columns=("source", "label", "mark", "sentence"),
            hub_name="cola",
        ),
        Task(
            name="sst-2",
            folder="SST-2",
            texts=("sentence",),
            label="label",
            values=_ZERO_ONE,
            labels=("negative", "positive"),
            metrics=("accuracy",),
            published={"accuracy": 87.8},
            hub_name="sst2",
        ),
        Task(
            name="mrpc",
            folder="MRPC",
            texts=("#1 String", "#2 String"),
            label="Quality",
            values=_ZERO_ONE,
            labels=("not_equivalent", "equivalent"),
            metrics=("accuracy", "f1"),
            published={"accuracy": 81.4, "f1": 86.5},
            hub_name="mrpc",
            hub_texts=_SENTENCES,
        ),
        Task(
            name="sts-b",
            folder="STS-B",
            texts=_SENTENCES,
            label="score",
            values=(),
            labels=(),
            metrics=("spearman", "pearson"),
            published={"spearman": 83.0, "pearson": 84.2},
            hub_name="stsb",
        ),
        Task(
            name="qqp",
            folder="QQP",
            texts=("question1", "question2"),
            label="is_duplicate",
            values=_ZERO_ONE,
            labels=("not_duplicate", "duplicate"),
            metrics=("f1", "accuracy"),
            published={"f1": 68.5, "accuracy": 87.7},
            hub_name="qqp",
        ),
        Task(
            name="mnli-m",
            dev_file="dev_matched.tsv",
            published={"accuracy": 79.9},
            hub_dev_split="validation_matched",
            **_MNLI,
        ),
        Task(
            name="mnli-mm",
            dev_file="dev_mismatched.tsv",
            published={"accuracy": 79.2},
            hub_dev_split="validation_mismatched",
            **_MNLI,
        ),
        Task(
            name="qnli",
            folder="QNLI",
            texts=("question", "sentence"),
            label="label",
            values=_ENTAILMENT,
            labels=_ENTAILMENT,
            metrics=("accuracy",),
            published={"accuracy": 89.0},
            hub_name="qnli",
        ),
        Task(
            name="rte",
            folder="RTE",
            texts=_SENTENCES,
            label="label",
            values=_ENTAILMENT,
            labels=_ENTAILMENT,
            metrics=("accuracy",),
            published={"accuracy": 63.0},
            hub_name="rte",
        ),
        Task(
            name="wnli",
            folder="WNLI",
            texts=_SENTENCES,
            label="label",
            values=_ZERO_ONE,
            labels=("not_entailment", "entailment"),
            metrics=("accuracy",),
            published={"accuracy": 65.1},
            hub_name="wnli",
        ),
    )
}


def get_task(name: str) -> Task:
    """The task of that name, in any case, with or without hyphens.

    Raises:
        ValueError: there is none; the message lists all.
    """
    plain = {key.replace("-", ""): task for key, task in TASKS.items()}
    try:
        return plain[name.lower().replace("-", "").replace("_", "")]
    except KeyError:
        raise ValueError(f"task: got {name!r}, expected one of {', '.join(TASKS)}.") from None
