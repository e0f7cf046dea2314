"""The GLUE tasks: their files, their metrics, and evaluation of a model on them."""

from albert_act_fast.glue.data import Example, GlueDataError, read_examples, task_file
from albert_act_fast.glue.evaluate import (
    Comparison,
    Evaluation,
    NotFinite,
    PredictionsDiffer,
    compare,
    evaluate,
)
from albert_act_fast.glue.tasks import TASKS, Task, get_task

__all__ = [
    "TASKS",
    "Comparison",
    "Evaluation",
    "Example",
    "GlueDataError",
    "NotFinite",
    "PredictionsDiffer",
    "Task",
    "compare",
    "evaluate",
    "get_task",
    "read_examples",
    "task_file",
]
