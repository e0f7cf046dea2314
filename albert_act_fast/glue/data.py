"""Reads GLUE's own .tsv files, or the same data from the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from albert_act_fast.glue.tasks import Task

HUB = "hub"
HUB_DATASET = "nyu-mll/glue"


class Example(NamedTuple):
    """One row: one or two texts, and a class (int) or a score (float)."""

    texts: tuple[str, ...]
    label: int | float


class GlueDataError(ValueError):
    """A file is missing or not in the task's format; the message says where and what is wrong."""


def task_file(task: Task, data: str | Path, split: str = "dev") -> Path:
    """The file of a split below `data`, GLUE's folder or the task's own.

    Raises:
        GlueDataError: it is not there.
    """
    name, data = task.file(split), Path(data)
    candidates = [data / task.folder / name, data / name]
    if data.name != task.folder:  # dev.tsv says nothing about whose it is
        candidates.pop()
    for path in candidates:
        if path.is_file():
            return path
    raise GlueDataError(
        f"{task.name}, split {split}: no file {' or '.join(map(str, candidates))}; expected GLUE's "
        f"folder (with {task.folder}/{name} in it), or {HUB!r}."
    )


def read_examples(
    task: Task, data: str | Path, split: str = "dev", *, skip_malformed: bool = False
) -> list[Example]:
    """All rows of a split, in the file's order.

    Args:
        data: GLUE's folder, the task's folder in it, or "hub" for the Hugging Face Hub.
        skip_malformed: leave malformed lines out instead of raising (GLUE's QQP has some).

    Raises:
        GlueDataError: the file is missing, empty, or a line is not in the task's format.
        ImportError: "hub" without the `datasets` package.
    """
    if str(data) == HUB:
        return _read_hub(task, split)
    path = task_file(task, data, split)
    examples = list(_read_tsv(task, path, skip_malformed))
    if not examples:
        raise GlueDataError(f"{path}: no rows.")
    return examples


def _read_tsv(task: Task, path: Path, skip_malformed: bool) -> Iterator[Example]:
    # utf-8-sig: MRPC's files begin with a byte order mark. Rows end at \n alone, and quotes mean
    # nothing: GLUE's texts hold unpaired ones, and other characters that look like line ends.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        rows = enumerate((line.rstrip("\r\n").split("\t") for line in file), start=1)
        columns = task.columns or tuple(next(rows, (0, ()))[1])
        places = _places(task, path, columns)
        for number, row in rows:
            try:
                yield _example(task, row, columns, places)
            except ValueError as error:
                if not skip_malformed:
                    raise GlueDataError(f"{path}, line {number}: {error}") from None


def _places(task: Task, path: Path, columns: tuple[str, ...]) -> list[int]:
    wanted = (*task.texts, task.label)
    missing = [column for column in wanted if column not in columns]
    if missing:
        raise GlueDataError(
            f"{path}, line 1: no column {', '.join(map(repr, missing))} in the header "
            f"{list(columns)}; expected {', '.join(map(repr, wanted))} for {task.name}."
        )
    return [columns.index(column) for column in wanted]


def _example(task: Task, row: list[str], columns: tuple[str, ...], places: list[int]) -> Example:
    if len(row) != len(columns):
        raise ValueError(
            f"{len(row)} columns, expected {len(columns)} ({', '.join(columns)}): {row!r}"
        )
    *texts, label = (row[place].strip() for place in places)
    for column, text in zip(task.texts, texts, strict=True):
        if not text:
            raise ValueError(f"column {column!r} is empty.")
    if task.is_regression:
        try:
            return Example(tuple(texts), float(label))
        except ValueError:
            raise ValueError(f"column {task.label!r}: got {label!r}, expected a number.") from None
    if label not in task.values:
        raise ValueError(
            f"column {task.label!r}: got {label!r}, expected one of {', '.join(task.values)}."
        )
    return Example(tuple(texts), task.values.index(label))


def hub_library() -> ModuleType:
    """`datasets`.

    Raises:
        ImportError: it is not installed; the message says how to.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"data: got {HUB!r}, which needs the `datasets` package (pip install datasets); "
            "or give the folder of GLUE's files."
        ) from error
    return datasets


def _read_hub(task: Task, split: str) -> list[Example]:
    datasets = hub_library()
    task.file(split)  # names the splits there are
    rows = datasets.load_dataset(
        HUB_DATASET, task.hub_name, split=task.hub_dev_split if split == "dev" else split
    )
    number = float if task.is_regression else int
    texts = task.hub_texts or task.texts
    return [Example(tuple(row[text] for text in texts), number(row["label"])) for row in rows]
