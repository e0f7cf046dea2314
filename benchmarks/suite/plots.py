"""Pictures of measured rows; each function draws one, or returns None where rows are missing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import matplotlib
import numpy as np

from suite.cases import BASELINE

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

COLOURS = {
    BASELINE: "#555555",
    "torch float32": "#c8843c",
    "torch bfloat16": "#e0b27c",
    "cpp float32": "#3b6fb6",
    "cpp bfloat16": "#2a9d8f",
    "cpp int8": "#b5386b",
}
OURS = [name for name in COLOURS if name.startswith("cpp")]
# Whose time at fixed depth the break-even picture shows.
SHOWN_PEERS = ("HF compiled float32", "ONNX Runtime float32", "OpenVINO bfloat16", "OpenVINO int8")


def timed(rows: list[dict]) -> list[dict]:
    return [row for row in rows if "seconds" in row and row["kind"] == "model"]


def at(rows: list[dict], **wanted) -> list[dict]:
    return [row for row in rows if all(row.get(k) == v for k, v in wanted.items())]


def published(rows: list[dict]) -> list[dict]:
    """Base size at the published depths, all sequences of one length."""
    return [r for r in timed(rows) if r["size"] == "base" and _is_grid(r)]


def _is_grid(row: dict) -> bool:
    return row["case"] == f"base, {row['batch']} x {row['length']}"


def with_depth(rows: list[dict], variant: str) -> list[dict]:
    """Of the sweep over depths, from shallow to deep."""
    chosen = [r for r in at(timed(rows), variant=variant) if ", depth " in r["case"]]
    return sorted(chosen, key=lambda row: sum(row["running_rows"]))


def speed_up_grid(rows: list[dict]) -> Figure | None:
    chosen = published(rows)
    batches = sorted({r["batch"] for r in chosen})
    lengths = sorted({r["length"] for r in chosen})
    if len(batches) < 2 or len(lengths) < 2:
        return None
    figure, axes = plt.subplots(1, len(OURS), figsize=(11, 3.4), sharey=True, layout="constrained")
    for axis, variant in zip(axes, OURS, strict=True):
        grid = np.full((len(batches), len(lengths)), np.nan)
        for row in at(chosen, variant=variant):
            place = batches.index(row["batch"]), lengths.index(row["length"])
            grid[place] = row["speed_up"]
            axis.text(place[1], place[0], f"{row['speed_up']:.1f}x", ha="center", va="center")
        axis.imshow(grid, cmap="YlGn", vmin=0, vmax=1.5 * np.nanmax(grid), aspect="auto")
        axis.set_xticks(range(len(lengths)), lengths)
        axis.set_yticks(range(len(batches)), batches)
        axis.set(title=variant, xlabel="tokens a sequence")
    axes[0].set_ylabel("sequences")
    figure.suptitle("Speed-up over the reference loop in float32")
    return figure


def running_rows(rows: list[dict]) -> Figure | None:
    cases = {}
    for row in at(timed(rows), variant=BASELINE):
        if ", depth " not in row["case"] and (not _is_grid(row) or row["batch"] == 8):
            cases.setdefault(row["case"], row)
    if not cases:
        return None
    figure, axis = plt.subplots(figsize=(8, 4.4), layout="constrained")
    axis.set_prop_cycle(color=plt.get_cmap("tab20").colors)
    for name, row in cases.items():
        dense = row["batch"] * row["length"]
        share = [running / dense for running in row["running_rows"]]
        axis.step(range(1, len(share) + 1), share, where="mid", label=name)
    axis.set(xlabel="iteration", ylabel="running rows / rows of the plain loop", ylim=(0, 1.05))
    axis.set_title("Running rows: padding has none from the start")
    axis.legend(fontsize="x-small", ncols=2)
    return figure


def work_and_efficiency(rows: list[dict]) -> Figure | None:
    """Speed-up as the product of work saved and of what remains: log scale, bars end to end."""
    chosen = [r for r in published(rows) if r["batch"] == 8 and r["length"] == 128]
    chosen = [r for r in chosen if r["variant"] != BASELINE]
    if not chosen:
        return None
    chosen.sort(key=lambda row: row["speed_up"])
    names = [row["variant"] for row in chosen]
    saved = np.log2([row["work_saved"] for row in chosen])
    rest = np.log2([row["speed_up"] for row in chosen]) - saved
    figure, axis = plt.subplots(figsize=(8, 0.36 * len(names) + 1.4), layout="constrained")
    axis.barh(names, saved, color="#8fbf8f", label="work saved: fewer rows")
    axis.barh(names, rest, left=saved, color="#7d9cc9", label="the rest: kernels and number format")
    for i, row in enumerate(chosen):
        axis.text(max(saved[i] + rest[i], saved[i], 0) + 0.05, i, f"{row['speed_up']:.2f}x",
                  va="center", fontsize="small")  # fmt: skip
    top = int(np.ceil(max(saved + rest) + 0.5))
    ticks = [t for t in range(-1, top + 1) if 2.0**t >= 0.5]
    axis.set_xticks(ticks, [f"{2.0**t:g}x" for t in ticks])
    axis.set(title="8 x 128 tokens: where the speed-up comes from", xlim=(None, top))
    axis.legend(loc="lower right", fontsize="small")
    return figure


def break_even(rows: list[dict]) -> Figure | None:
    figure, axis = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for variant, colour in COLOURS.items():
        chosen = with_depth(rows, variant)
        if len(chosen) > 1:
            depths = [row["depths"]["all"] for row in chosen]
            axis.plot(depths, [r["seconds"] for r in chosen], "o-", color=colour, label=variant)
    if not axis.lines:
        plt.close(figure)
        return None
    peers = [r for r in published(rows) if r["batch"] == 8 and r["length"] == 128]
    peers = sorted((r for r in peers if r["variant"] in SHOWN_PEERS), key=lambda r: r["seconds"])
    for i, row in enumerate(peers):
        axis.axhline(row["seconds"], linestyle=":", linewidth=1, color="#333333")
        # Neighbours' names keep apart.
        side = "top" if i % 2 == 0 else "bottom"
        axis.text(24.2, row["seconds"], row["variant"], fontsize="x-small", va=side)
    axis.set(xlabel="mean iterations of all tokens, of 24", ylabel="seconds", yscale="log")
    axis.set_title("8 x 128 tokens: time by depth, peers at fixed depth 24 dotted")
    axis.legend(fontsize="small")
    return figure


def latency(rows: list[dict]) -> Figure | None:
    chosen = published(rows)
    lengths = [n for n in (16, 128) if len({r["batch"] for r in at(chosen, length=n)}) > 1]
    if not lengths:
        return None
    figure, axes = plt.subplots(1, len(lengths), figsize=(10, 4), layout="constrained")
    for axis, length in zip(np.atleast_1d(axes), lengths, strict=True):
        for variant in (BASELINE, *OURS):
            here = sorted(at(chosen, variant=variant, length=length), key=lambda r: r["batch"])
            axis.plot([r["batch"] for r in here], [1e3 * r["seconds"] for r in here], "o-",
                      color=COLOURS[variant], label=variant)  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="sequences", title=f"{length} tokens each")
        batches = sorted({r["batch"] for r in at(chosen, length=length)})
        axis.set_xticks(batches, batches)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("milliseconds")
    np.atleast_1d(axes)[0].legend(fontsize="small")
    return figure


def fit(rows: list[dict], variant: str) -> tuple[float, float, float] | None:
    """Seconds of a call without rows, seconds of a row, and R^2 of time against rows computed over
    the sweep of depths; None with less than three points."""
    chosen = with_depth(rows, variant)
    if len(chosen) < 3:
        return None
    x = np.array([sum(row["running_rows"]) for row in chosen], float)
    y = np.array([row["seconds"] for row in chosen])
    slope, constant = np.polyfit(x, y, 1)
    residual = y - (slope * x + constant)
    return float(constant), float(slope), float(1 - residual.var() / y.var())


def linearity(rows: list[dict]) -> Figure | None:
    figure, axis = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for variant, colour in COLOURS.items():
        fitted = fit(rows, variant)
        if fitted is None or variant == BASELINE:
            continue
        constant, slope, r2 = fitted
        chosen = with_depth(rows, variant)
        x = np.array([sum(row["running_rows"]) for row in chosen])
        label = f"{variant}: {1e6 * slope:.1f} us a row, R² {r2:.3f}"
        axis.plot(x, [row["seconds"] for row in chosen], "o", color=colour, label=label)
        axis.plot([0, x.max()], [constant, constant + slope * x.max()], "-", color=colour, lw=1)
    if not axis.lines:
        plt.close(figure)
        return None
    axis.set(xlabel="rows computed, over all iterations", ylabel="seconds")
    axis.set(title="8 x 128 tokens: time follows the running rows", ylim=(0, None), xlim=(0, None))
    axis.legend(fontsize="small")
    return figure


def operators(rows: list[dict]) -> Figure | None:
    chosen = [r for r in rows if r["kind"] == "operator" and "seconds" in r]
    if not chosen:
        return None
    cases = list(dict.fromkeys(r["case"] for r in chosen))
    variants = list(dict.fromkeys(r["variant"] for r in chosen))
    figure, axis = plt.subplots(figsize=(9, 0.5 * len(cases) + 1.5), layout="constrained")
    height = 0.8 / len(variants)
    for i, variant in enumerate(variants):
        here = at(chosen, variant=variant)
        places = [cases.index(r["case"]) + i * height - 0.4 for r in here]
        colour = COLOURS.get(variant)
        axis.barh(places, [r["share_of_floor"] for r in here], height, color=colour, label=variant)
    axis.set_yticks(range(len(cases)), cases)
    axis.invert_yaxis()
    axis.axvline(1, color="#333333", linewidth=1)
    axis.set(xlabel="floor / time: 1 is as fast as a copy, or as the peak of products")
    axis.set_title("Operators against their floors")
    axis.legend(fontsize="small")
    return figure


def serving(rows: list[dict]) -> Figure | None:
    """Latency against the rate of answers, from a third of each server's capacity to nearly all."""
    chosen = [r for r in at(rows, kind="serve") if r.get("p50") is not None]
    if not chosen:
        return None
    figure, axis = plt.subplots(figsize=(8, 4.4), layout="constrained")
    for variant in dict.fromkeys(r["variant"] for r in chosen):
        here = at(chosen, variant=variant)
        rate = [r["rate"] for r in here]
        (line,) = axis.plot(rate, [1e3 * r["p50"] for r in here], "o-", label=f"{variant}, p50")
        latency = [1e3 * r["p99"] for r in here]
        axis.plot(rate, latency, "s--", color=line.get_color(), label=f"{variant}, p99")
    axis.set(xlabel="requests a second", ylabel="milliseconds", yscale="log", xlim=(0, None))
    axis.set_title("Latency at 30, 50, 70 and 90 % of each server's capacity")
    axis.legend(fontsize="small")
    return figure


def corpus(rows: list[dict]) -> Figure | None:
    """Texts a second of each way, a panel for each model."""
    chosen = [row for row in at(rows, kind="corpus") if "texts_a_second" in row]
    cases = list(dict.fromkeys(row["case"] for row in chosen))
    if not cases:
        return None
    names = list(dict.fromkeys(row["variant"] for row in chosen))
    figure, axes = plt.subplots(
        1,
        len(cases),
        figsize=(4 + 3.5 * len(cases), 0.27 * len(names) + 1.2),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    for axis, case in zip(axes[0], cases, strict=True):
        here = at(chosen, case=case)
        colours = ["#1f5fa8" if "stream" in row["variant"] else "#9aa5b1" for row in here]
        places = [names.index(row["variant"]) for row in here]
        bars = axis.barh(places, [row["texts_a_second"] for row in here], color=colours)
        axis.bar_label(bars, fmt="%.0f", padding=2, fontsize="small")
        axis.set(xlabel="texts a second", title=case)
        axis.margins(x=0.12)
    axes[0][0].set_yticks(range(len(names)), names, fontsize="small")
    axes[0][0].invert_yaxis()
    return figure


# Name of the file, what it shows, who draws it.
PICTURES: tuple[tuple[str, str, Callable[[list[dict]], Figure | None]], ...] = (
    ("speed_up", "Speed-up over the reference loop, by batch and length", speed_up_grid),
    ("work_and_efficiency", "Work saved against everything else", work_and_efficiency),
    ("running_rows", "Running rows of each iteration", running_rows),
    ("break_even", "Where dropping starts to pay", break_even),
    ("linearity", "Time against running rows, with the fit", linearity),
    ("latency", "Latency against batch", latency),
    ("operators", "Operators against their floors", operators),
    ("serving", "Latency of the service under load", serving),
    ("corpus", "From texts to embeddings", corpus),
)


def draw_all(rows: list[dict], folder) -> list[tuple[str, str]]:
    """Writes the pictures that the rows allow; their file names and captions."""
    drawn = []
    for name, caption, draw in PICTURES:
        figure = draw(rows)
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
            plt.close(figure)
            drawn.append((f"{name}.png", caption))
    return drawn


def crossing(rows: list[dict], variant: str, seconds: float) -> float | None:
    """Mean depth at which the variant takes that many seconds, between the depths measured; None
    where it is faster, or slower, at all of them."""
    points = [(row["depths"]["all"], row["seconds"]) for row in with_depth(rows, variant)]
    for (d0, t0), (d1, t1) in pairwise(points):
        if t0 <= seconds < t1:
            return d0 + (d1 - d0) * (seconds - t0) / (t1 - t0)
    return None
