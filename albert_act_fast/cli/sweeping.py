"""`eval --sweep`: one row for each halting rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from albert_act_fast.cli.output import print_table

if TYPE_CHECKING:
    from rich.console import Console

    from albert_act_fast.glue import Evaluation, Task

NAMES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
}


def run(model, tokenizer, task: Task, data: str, implementation: str, **settings) -> list:
    from albert_act_fast.glue import sweep

    return list(sweep(model, tokenizer, task, data, implementation, **settings))


def document(task: Task, results: list) -> dict:
    first = results[0][1]
    return {
        "task": task.name,
        "scored_by": first.scored_by,
        "examples": first.examples,
        "tokens": first.tokens,
        "dtype": first.dtype,
        "quantization": first.quantization,
        "implementation": first.implementation,
        "rules": [
            {
                "max_iterations": rule.max_iterations,
                "act_epsilon": rule.act_epsilon,
                "metrics": one.metrics,
                "mean_depth": one.mean_depth,
                "rows_computed": one.rows_computed,
                "seconds": one.seconds,
            }
            for rule, one in results
        ],
    }


def show(console: Console, rows: list) -> None:
    for task, results in rows:
        columns = {
            task.name: "left",
            "act_epsilon": "right",
            "mean depth": "right",
            "rows computed": "right",
            "seconds": "right",
            **{NAMES[name]: "right" for name in task.metrics},
        }
        limit = max(rule.max_iterations for rule, _ in results)
        cells = [
            [
                f"at most {rule.max_iterations} iterations",
                f"{rule.act_epsilon:g}",
                f"{one.mean_depth:.2f}",
                f"{one.rows_computed / (one.tokens * limit):.0%}",
                f"{one.seconds:.2f}",
                *(f"{one.metrics[name]:.1f}" for name in task.metrics),
            ]
            for rule, one in results
        ]
        print_table(console, columns, cells)
    limits = "the model's most iterations for every token"
    console.print(f"rows computed: as a share of {limits}, padding not counted", highlight=False)
    say_how_scored(console, {task.name: results[0][1] for task, results in rows})


def say_how_scored(console: Console, results: dict[str, Evaluation]) -> None:
    for name, result in results.items():
        if result.scored_by != "head":
            console.print(f"{name}: scored by the {result.scored_by}", highlight=False)
