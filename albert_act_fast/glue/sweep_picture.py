"""Speed against quality as a figure: a metric against the rows computed, by halting rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from albert_act_fast.glue import Evaluation
    from albert_act_fast.text import HaltingRule


def sweep_figure(
    results: Sequence[tuple[HaltingRule, Evaluation]], own: HaltingRule, metric: str, title: str
) -> Figure:
    """Two curves through the model's own rule, which is marked: fewer iterations at most, and
    earlier halting.

    Args:
        results: a task's evaluation under each rule.
        own: the model's own rule, one of them.
        metric: one of the task's.

    Raises:
        ValueError: the model's own rule is not among the results.
        ImportError: matplotlib is not installed.
    """
    from albert_act_fast.depth.plots import matplotlib

    rows = {rule: one.rows_computed for rule, one in results}
    if own not in rows:
        raise ValueError(f"own: got {own}, expected one of the results' rules.")
    points = {
        rule: (100 * one.rows_computed / rows[own], one.metrics[metric]) for rule, one in results
    }
    figure = matplotlib().figure.Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, label, look in (
        ("max_iterations", "fewer iterations", {"marker": "o", "color": "#355f8d"}),
        ("act_epsilon", "halting earlier (act_epsilon)", {"marker": "s", "color": "#b04a00"}),
    ):
        other = "act_epsilon" if name == "max_iterations" else "max_iterations"
        chosen = [rule for rule in points if getattr(rule, other) == getattr(own, other)]
        chosen.sort(key=lambda rule: points[rule][0])
        axes.plot(*zip(*(points[rule] for rule in chosen), strict=True), label=label, **look)
        for rule in chosen:
            if rule != own:
                axes.annotate(
                    str(getattr(rule, name)),
                    points[rule],
                    textcoords="offset points",
                    xytext=(4, -10),
                    fontsize=7,
                )
    axes.plot(
        *points[own],
        marker="*",
        markersize=15,
        color="black",
        linestyle="none",
        label=f"the model's own rule ({own.max_iterations}, {own.act_epsilon})",
    )
    axes.set(xlabel="rows computed, % of the model's own rule", ylabel=f"{metric}, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    return figure
