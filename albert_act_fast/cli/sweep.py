"""`eval --sweep`: a task's metric against the rows computed, under several halting rules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from albert_act_fast.cli.depth_pictures import check_picture
from albert_act_fast.cli.errors import FAILURE, CommandError, file_error, one_line
from albert_act_fast.cli.output import Printer, print_json

if TYPE_CHECKING:
    from albert_act_fast.glue import Task
    from albert_act_fast.glue.sweep import SweepPoint

SweepOption = Annotated[
    bool,
    typer.Option(
        "--sweep",
        help="Speed against quality instead: the task under fewer iterations and earlier halting.",
    ),
]
SweepPlotOption = Annotated[
    Path | None,
    typer.Option("--plot", metavar="OUT", help="Of --sweep, a picture: .png, .svg or .pdf."),
]


def check(sweeps: bool, plot: Path | None, all_tasks: bool) -> None:
    """Raises CommandError for options that do not go together, before any work."""
    if plot is not None and not sweeps:
        raise CommandError(f"--plot: got {str(plot)!r} without --sweep")
    if sweeps and all_tasks:
        raise CommandError("--sweep: got it with --task all, expected one task")
    if plot is not None:
        check_picture("--plot", plot)


def run(network, tokenizer, task: Task, data, implementation, settings, plot, as_json) -> None:
    """Sweeps, prints and draws."""
    from albert_act_fast.glue import NotFinite
    from albert_act_fast.glue.sweep import rules, sweep, sweep_figure

    count = len(rules(network.config.num_hidden_layers, network.config.act_epsilon))
    points: list[SweepPoint] = []
    out = None if as_json else Printer(sys.stdout)
    try:
        for point in sweep(network, tokenizer, task, data, implementation or "auto", **settings):
            if out is not None:
                if not points:
                    out.line((_head(task), "bold"))
                out.line(_row(task, point))
            points.append(point)
            if sys.stderr is not None and sys.stderr.isatty():
                print(f"\r{len(points)} of {count} rules", end="", file=sys.stderr, flush=True)
    except NotFinite as error:
        raise CommandError(one_line(error), FAILURE) from None
    except (ValueError, ImportError) as error:
        raise CommandError(one_line(error)) from None
    if as_json:
        print_json({"task": task.name, "points": [vars(point) for point in points]})
    if plot is not None:
        from albert_act_fast.depth import save_picture

        figure = sweep_figure(points, task.metrics[0], f"{task.name}: speed against quality")
        try:
            save_picture(figure, plot)
        except OSError as error:
            raise file_error("--plot", plot, error, "written", FAILURE) from None


def _head(task: Task) -> str:
    metrics = "".join(f"{metric:>12}" for metric in task.metrics)
    return f"{'iterations':>10}{'act_epsilon':>13}{metrics}{'mean depth':>12}{'rows':>10}"


def _row(task: Task, point: SweepPoint) -> str:
    metrics = "".join(f"{point.metrics[metric]:>12.1f}" for metric in task.metrics)
    own = "  the model's own" if point.full else ""
    return (
        f"{point.max_iterations:>10}{point.act_epsilon:>13}{metrics}{point.mean_depth:>12.2f}"
        f"{point.rows_of_full:>10.1%}{own}"
    )
