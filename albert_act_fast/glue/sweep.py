"""Speed against quality: a task under other halting rules than the model's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from albert_act_fast.glue.evaluate import evaluate
from albert_act_fast.glue.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACT_EPSILONS = (0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class SweepPoint:
    """One rule. metrics: in per cent; rows_computed: token iterations; rows_of_full: their share of
    what the model's own rule computes; full: whether it is that rule."""

    max_iterations: int
    act_epsilon: float
    metrics: dict[str, float]
    mean_depth: float
    rows_computed: int
    rows_of_full: float
    full: bool


def rules(limit: int, epsilon: float) -> list[tuple[int, float]]:
    """(max_iterations, act_epsilon), the model's own first."""
    fewer = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 20) if n < limit]
    wider = [e for e in ACT_EPSILONS if e > epsilon]
    return [(limit, epsilon), *((n, epsilon) for n in fewer), *((limit, e) for e in wider)]


def sweep(
    model: PreTrainedModel,
    tokenizer: Any,
    task: str | Task,
    data: str | Path,
    implementation: str = "auto",
    **settings,
) -> Iterator[SweepPoint]:
    """Evaluates the task under each of `rules`, each computed exactly; the model's own comes first.

    Args:
        settings: as `evaluate`, which raises as well.
    """
    config = model.config
    own = config.num_hidden_layers, config.act_epsilon
    full_rows = None
    for rule in rules(*own):
        config.num_hidden_layers, config.act_epsilon = rule
        try:
            found = evaluate(model, tokenizer, task, data, implementation, **settings)
        finally:
            config.num_hidden_layers, config.act_epsilon = own
        full_rows = full_rows or found.rows_computed
        yield SweepPoint(
            *rule,
            found.metrics,
            found.mean_depth,
            found.rows_computed,
            found.rows_computed / full_rows,
            rule == own,
        )


def sweep_figure(points: Sequence[SweepPoint], metric: str, title: str) -> Figure:
    """Metric against rows computed, the model's own rule marked.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from albert_act_fast.depth.plots import matplotlib

    figure = matplotlib().figure.Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    (full,) = [p for p in points if p.full]
    fewer = sorted(
        (p for p in points if p.act_epsilon == full.act_epsilon), key=lambda p: p.rows_computed
    )
    wider = sorted(
        (p for p in points if p.max_iterations == full.max_iterations),
        key=lambda p: p.rows_computed,
    )
    for chosen, label, look in (
        (fewer, "fewer iterations", {"marker": "o", "color": "#355f8d"}),
        (wider, "halting earlier (act_epsilon)", {"marker": "s", "color": "#b04a00"}),
    ):
        axes.plot(
            [100 * p.rows_of_full for p in chosen],
            [p.metrics[metric] for p in chosen],
            label=label,
            linewidth=1.2,
            **look,
        )
        for point in chosen:
            if not point.full:
                name = point.max_iterations if chosen is fewer else point.act_epsilon
                axes.annotate(
                    str(name),
                    (100 * point.rows_of_full, point.metrics[metric]),
                    textcoords="offset points",
                    xytext=(4, -10),
                    fontsize=7,
                )
    axes.plot(
        [100],
        [full.metrics[metric]],
        marker="*",
        markersize=15,
        color="black",
        linestyle="none",
        label=f"the model's own rule ({full.max_iterations}, {full.act_epsilon})",
    )
    axes.set(xlabel="rows computed, % of the model's own rule", ylabel=f"{metric}, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    return figure
