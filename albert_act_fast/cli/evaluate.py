"""`eval`: a model on GLUE, the reference and the engine side by side, or speed against quality."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from albert_act_fast.cli import sweep
from albert_act_fast.cli.errors import FAILURE, CommandError, one_line
from albert_act_fast.cli.options import (
    DeviceOption,
    Dtype,
    DtypeOption,
    ImplementationOption,
    QuantizationOption,
    ThreadsOption,
    TokenizationOption,
)
from albert_act_fast.cli.output import needs_standard_output, print_json, print_table

if TYPE_CHECKING:
    from rich.console import Console

    from albert_act_fast.glue import Comparison, Task

ALL = "all"
_NAMES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
}


def evaluate(
    task: Annotated[
        str, typer.Option("--task", metavar="TASK", help="cola, sst-2, ..., or all of the ten.")
    ],
    data: Annotated[
        str,
        typer.Option("--data", metavar="DIR|hub", help="GLUE's folder, or `hub` to download it."),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="DIR|NAME",
            help="A model fine-tuned on the task: a folder or a hub name, {task} in it stands for "
            "the task's name; or sst2, which ships. On sts-b also a sentence encoder, as sentence, "
            "which ships: scored by the cosine of its embeddings.",
        ),
    ],
    implementation: ImplementationOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.FLOAT32,
    quantization: QuantizationOption = None,
    tokenization: TokenizationOption = None,
    threads: ThreadsOption = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 32,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            min=3,
            help="Longer inputs are cut, as GLUE's practice.",
            show_default="128, or the model's own limit",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first rows.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="NAMES",
            help="The model's labels in the order of its logits, as the task calls them: "
            "negative,positive.",
            show_default="the model's own names",
        ),
    ] = None,
    skip_malformed: Annotated[
        bool, typer.Option("--skip-malformed", help="Leave malformed rows out; else an error.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    sweeps: sweep.SweepOption = False,
    plot: sweep.SweepPlotOption = None,
) -> None:
    """Metric, mean depth, rows computed and time, for the reference and for the engine.

    Fails if their predictions differ (in float32; in half precision and in int8 the share of tokens
    that halt elsewhere is reported), and if the model's labels are not the task's. With
    `--task all` what is not run is listed with its reason, and something has to be run.
    """
    needs_standard_output()
    sweep.check(sweeps, plot, task == ALL)
    from albert_act_fast.cli.loading import load_scorable
    from albert_act_fast.glue import TASKS, get_task

    try:
        tasks = list(TASKS.values()) if task == ALL else [get_task(task)]
    except ValueError as error:
        raise CommandError(f"--{one_line(error)}") from None
    _require_libraries(data)
    settings = {
        "batch_size": batch_size,
        "labels": None if labels is None else [name.strip() for name in labels.split(",")],
        "limit": limit,
        "skip_malformed": skip_malformed,
    }
    rows, missing, differing = [], {}, []
    for one in tasks:
        name = model.replace("{task}", one.name)
        try:
            network, tokenizer, settings["pooling"] = load_scorable(
                name, implementation, device, dtype, quantization, threads, tokenization
            )
            settings["max_length"] = _max_length(max_length, network)
            if sweeps:
                sweep.run(network, tokenizer, one, data, implementation, settings, plot, as_json)
                return
            rows.append((one, _compare(network, tokenizer, one, data, implementation, settings)))
        except CommandError as error:
            if task != ALL:
                raise
            # What the other tasks have taken long to compute is not lost.
            missing[one.name] = str(error)
            if error.status == FAILURE:
                differing.append(one.name)
    if as_json:
        print_json({"rows": [_document(one, result) for one, result in rows], "not_run": missing})
    else:
        _print(rows, missing)
    if differing:
        raise CommandError(f"failed: {', '.join(differing)}; the reasons are listed.", FAILURE)
    if not rows:
        raise CommandError("--task: got 'all', of which none could be run; the reasons are listed.")


def _require_libraries(data: str) -> None:
    """What the end of the work needs, before it begins."""
    from albert_act_fast.glue import data as files
    from albert_act_fast.glue import metrics

    try:
        metrics.libraries()
        if data == files.HUB:
            files.hub_library()
    except ImportError as error:
        raise CommandError(one_line(error)) from None


def _compare(network, tokenizer, task: Task, data: str, implementation, settings) -> Comparison:
    from albert_act_fast.glue import NotFinite, PredictionsDiffer, compare

    try:
        with _progress(task.name) as on_batch:
            return compare(
                network,
                tokenizer,
                task,
                data,
                implementation or "auto",
                on_batch=on_batch,
                **settings,
            )
    except (PredictionsDiffer, NotFinite) as error:
        raise CommandError(one_line(error), FAILURE) from None
    except (ValueError, ImportError) as error:
        raise CommandError(one_line(error)) from None


def _max_length(asked: int | None, model) -> int:
    from albert_act_fast.glue.evaluate import MAX_LENGTH

    limit = model.config.max_position_embeddings
    if asked is None:
        return min(MAX_LENGTH, limit)
    if asked > limit:
        raise CommandError(
            f"--max-length: got {asked}, expected at most {limit}, the model's "
            "max_position_embeddings"
        )
    return asked


@contextmanager
def _progress(title: str):
    from rich.console import Console
    from rich.progress import Progress

    with Progress(
        console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        bar = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _document(task: Task, result: Comparison) -> dict:
    def run(one):
        return {
            "implementation": one.implementation,
            "metrics": one.metrics,
            "mean_depth": one.mean_depth,
            "rows_computed": one.rows_computed,
            "seconds": one.seconds,
        }

    return {
        "task": task.name,
        "scored_by": result.engine.scored_by,
        "examples": result.reference.examples,
        "tokens": result.reference.tokens,
        "depth_limit": result.reference.depth_limit,
        "dtype": result.reference.dtype,
        "quantization": result.engine.quantization,
        "reference": run(result.reference),
        "engine": run(result.engine),
        "speed_up": result.speedup,
        "differing_predictions": result.differing_predictions,
        "differing_depths": result.differing_depths,
        "largest_logit_difference": result.largest_difference,
        "published_albert_act_base": task.published,
    }


_COLUMNS = {
    "task": "left",
    "metric": "left",
    "base, published": "right",
    "reference": "right",
    "engine": "right",
    "mean depth": "right",
    "rows": "right",
    "seconds": "right",
    "differing": "left",
}


def _print(rows, missing: dict[str, str]) -> None:
    from rich.console import Console

    # A file or a pipe gets whole rows, however wide.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    if rows:
        _show(console, rows)
    for name, reason in missing.items():
        console.print(f"not run: {name}: {reason}", highlight=False, markup=False, soft_wrap=True)


def _show(console: Console, rows: list[tuple[Task, Comparison]]) -> None:
    print_table(console, _COLUMNS, [cells for row in rows for cells in _cells(*row)])
    engine = rows[0][1].engine
    console.print(
        f"engine: {engine.implementation}, {engine.quantization or engine.dtype}; "
        "rows and seconds: reference / engine; seconds are the model's alone",
        highlight=False,
    )
    for task, result in rows:
        if result.engine.scored_by != "head":
            console.print(f"{task.name}: scored by the {result.engine.scored_by}", highlight=False)


def _cells(task: Task, result: Comparison) -> list[list[str]]:
    reference, engine = result.reference, result.engine
    found = []
    for i, metric in enumerate(task.metrics):
        shared = [""] * 4
        if i == 0:
            shared = [
                f"{engine.mean_depth:.2f} of {engine.depth_limit}",
                f"{reference.rows_computed} / {engine.rows_computed} "
                f"= {reference.rows_computed / engine.rows_computed:.2f}x",
                f"{reference.seconds:.2f} / {engine.seconds:.2f} = {result.speedup:.2f}x",
                f"{len(result.differing_predictions)} of {reference.examples} predictions, "
                f"{result.differing_depths:.2%} of depths",
            ]
        found.append(
            [
                task.name if i == 0 else "",
                _NAMES[metric],
                f"{task.published[metric]:.1f}",
                f"{reference.metrics[metric]:.1f}",
                f"{engine.metrics[metric]:.1f}",
                *shared,
            ]
        )
    return found
