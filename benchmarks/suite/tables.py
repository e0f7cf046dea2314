"""Tables made of measured rows, as Markdown, and the places in documents where they stand."""

from __future__ import annotations

import re
from pathlib import Path

from suite.cases import BASELINE, ENGINES, PEERS, TARGETS
from suite.plots import at, crossing, fit, timed, with_depth

SHOWN_ENGINES = [name for name in ENGINES if name.startswith(("torch", "cpp"))]
INPUTS = {
    "base, 8 x 128": "8 x 128 tokens, no padding",
    "base, 32 sentences": "32 real sentences, padded",
    "base, 1 x 128": "1 x 128 tokens",
    "base, 1 x 16": "1 x 16 tokens",
}


def markdown(header: list[str], lines: list[list[str]]) -> str:
    head = "| " + " | ".join(header) + " |\n|" + "---|" * len(header) + "\n"
    return head + "".join("| " + " | ".join(line) + " |\n" for line in lines)


def times(value: float | None) -> str:
    """A speed-up with two digits."""
    return "" if value is None else f"{value:.0f}x" if value >= 9.95 else f"{value:.1f}x"


def where(rows: list[dict]) -> str:
    """Machine and versions of the rows, one sentence."""
    row = rows[0]
    versions = ", ".join(
        f"{name} {version}"
        for name, version in row["versions"].items()
        if name in ("torch", "onnxruntime", "openvino")
    )
    return (
        f"Measured with {row['threads']} threads on {row['machine']} ({row['instruction_set']}), "
        f"commit {row['commit']}, {versions}."
    )


def speed_ups(rows: list[dict]) -> str:
    """Cases that stand in the README, by engine."""
    lines = []
    for case, text in INPUTS.items():
        here = {row["variant"]: row for row in at(timed(rows), case=case)}
        if BASELINE not in here:
            continue
        saved = times(here["torch float32"]["work_saved"])
        shown = [times(here[e]["speed_up"]) if e in here else "" for e in SHOWN_ENGINES]
        lines.append([text, saved, *shown])
    training = at(rows, kind="training", variant="torch float32")
    for row in training:
        if "seconds" in row:
            line = ["training step, 8 x 128", times(row["work_saved"]), times(row["speed_up"])]
            lines.append(line + [""] * (len(SHOWN_ENGINES) - 1))
    names = [f"`{e.split()[0]}`, {e.split()[1]}" for e in SHOWN_ENGINES]
    return markdown(["input", "work saved", *names], lines)


def peers(rows: list[dict], case: str = TARGETS[0].name) -> str:
    """Everyone on one case, fastest first."""
    here = sorted(at(timed(rows), case=case), key=lambda row: row["seconds"])
    lines = [
        [
            row["variant"],
            "fixed" if row["variant"] in PEERS[1:] else "adaptive",
            f"{1e3 * row['seconds']:.0f} ms",
            f"{row['speed_up']:.2f}x",
            f"{row['work_saved']:.2f}x",
            f"{row['kernel_efficiency']:.0%}",
            f"{row['peak_memory'] / 2**20:.0f} MiB" if row["peak_memory"] else "",
        ]
        for row in here
    ]
    header = ["variant", "depth", "time", "speed-up", "work saved", "kernel efficiency", "memory"]
    return markdown(header, lines)


def all_cases(rows: list[dict]) -> str:
    """Every case of a model, with the engine in C++."""
    lines = []
    for case in dict.fromkeys(row["case"] for row in timed(rows)):
        here = {row["variant"]: row for row in at(timed(rows), case=case)}
        first = here[BASELINE]
        engines = [here.get(name) for name in SHOWN_ENGINES if name.startswith("cpp")]
        lines.append(
            [
                case,
                f"{first['tokens'] / (first['batch'] * first['length']):.0%}",
                f"{first['depths']['all']:.1f} of {first['iteration_limit']}",
                times(next((e["work_saved"] for e in engines if e), None)),
                f"{1e3 * first['seconds']:.1f} ms",
                *(times(e["speed_up"]) if e else "" for e in engines),
            ]
        )
    header = ["case", "tokens of places", "mean depth", "work saved", "reference"]
    return markdown([*header, "`cpp` float32", "bfloat16", "int8"], lines)


def operators(rows: list[dict]) -> str:
    """Microseconds and share of the floor of each operator, `torch` and `cpp`."""
    chosen = [row for row in at(rows, kind="operator") if "seconds" in row]
    variants = list(dict.fromkeys(row["variant"] for row in chosen))
    lines = []
    for case in dict.fromkeys(row["case"] for row in chosen):
        here = {row["variant"]: row for row in at(chosen, case=case)}
        cells = [
            f"{1e6 * here[v]['seconds']:.0f} ({here[v]['share_of_floor']:.0%})" if v in here else ""
            for v in variants
        ]
        lines.append([case, *cells])
    return markdown(["operator, µs (floor / time)", *variants], lines)


def parts(rows: list[dict]) -> str:
    """Where a call of the engine in C++ spends its time."""
    lines = []
    for row in at(rows, kind="parts"):
        rate = row["flop"] / row["products"]
        lines.append(
            [
                row["case"],
                row["dtype"],
                f"{1e3 * row['seconds']:.1f}",
                f"{1e3 * row['products']:.1f}",
                f"{rate / 1e9:.0f} ({rate / row['peak_flops']:.0%})",
                *(f"{1e3 * row[part]:.2f}" for part in ("attention", "other", "outside")),
            ]
        )
    header = ["rows", "dtype", "call", "products", "GFLOP/s (of oneDNN's peak)", "attention"]
    return markdown([*header, "other", "outside"], lines)


def fits(rows: list[dict]) -> str:
    """Time against rows computed, and the depths at which peers are as fast."""
    rivals = {row["variant"]: row for row in at(timed(rows), case=TARGETS[0].name)}
    shown = [
        p for p in ("HF compiled float32", "OpenVINO bfloat16", "OpenVINO int8") if p in rivals
    ]
    lines = []
    for variant in SHOWN_ENGINES:
        fitted = fit(rows, variant)
        if fitted is None:
            continue
        constant, slope, r2 = fitted
        cells = [_up_to_depth(rows, variant, rivals[peer]["seconds"]) for peer in shown]
        lines.append(
            [variant, f"{1e6 * slope:.1f} µs", f"{1e3 * constant:.0f} ms", f"{r2:.4f}", *cells]
        )
    header = ["variant", "a row", "a call without rows", "R²"]
    return markdown([*header, *(f"as fast as {p} up to depth" for p in shown)], lines)


def _up_to_depth(rows: list[dict], variant: str, seconds: float) -> str:
    depth = crossing(rows, variant, seconds)
    if depth is not None:
        return f"{depth:.1f}"
    return "all" if with_depth(rows, variant)[-1]["seconds"] < seconds else "none"


def serving_lines(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: capacity of each server, and latency at shares of it."""
    lines = []
    for row in at(rows, kind="serve"):
        if "capacity" in row:
            figures = ["capacity", f"{row['capacity']:.0f}", f"{row['of_stream']:.0%}", "", "", ""]
        elif row.get("p50") is not None:
            figures = [
                f"{row['load']:.0%}",
                f"{row['throughput']:.0f}",
                "",
                f"{1e3 * row['p50']:.0f} ms",
                f"{1e3 * row['p99']:.0f} ms",
                f"{row['failed']} of {row['requests']}",
            ]
        else:
            continue
        lines.append([row["variant"], *figures])
    header = ["server", "load", "texts a second", "of the stream's", "p50", "p99", "failed"]
    return header, lines


def serving(rows: list[dict]) -> str:
    """The service under load, and others beside it."""
    return markdown(*serving_lines(rows))


def corpus_lines(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: texts a second of each way, and over the stream's in bfloat16."""
    chosen = [row for row in at(rows, kind="corpus") if "texts_a_second" in row]
    streams = {
        row["case"]: row["texts_a_second"]
        for row in at(chosen, variant="TextEncoder.stream bfloat16")
    }
    lines = [
        [
            row["case"],
            row["variant"],
            f"{row['sentences']}",
            f"{row['texts_a_second']:.0f}",
            f"{row['texts_a_second'] / streams[row['case']]:.2f}x" if streams else "",
        ]
        for row in chosen
    ]
    return ["case", "way", "texts", "texts a second", "over the stream's in bfloat16"], lines


def corpus(rows: list[dict]) -> str:
    """From texts to embeddings."""
    return markdown(*corpus_lines(rows))


def sentence_lines(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: milliseconds of one sentence, by encoder and by tokenizer and model."""
    lines = [
        [
            row["case"],
            row["variant"],
            f"{1e3 * row['seconds']:.2f}",
            f"{row['of_model']:.2f}x",
            f"{1e3 * row['beside_products']:.2f}",
        ]
        for row in at(rows, kind="sentence")
        if "seconds" in row
    ]
    header = ["case", "way", "ms", "speed-up", "ms beside products and attention"]
    return header, lines


def sentence(rows: list[dict]) -> str:
    """One sentence, from its string to its embedding."""
    return markdown(*sentence_lines(rows))


def corpus_memory(rows: list[dict]) -> str:
    """Peak memory by how many texts were embedded."""
    lines = [
        [f"{row['sentences']}", f"{row['peak_memory'] / 2**20:.0f} MiB"]
        for row in at(rows, kind="corpus memory")
    ]
    return markdown(["texts so far", "peak memory of the process"], lines)


def crowd_lines(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: what a stream takes, by threads, alone and beside busy loops."""
    lines = [
        [
            row["case"],
            row["variant"],
            f"{row['seconds']:.1f} s ({row['seconds_of_one']:.2f}x)",
            f"{row['user_seconds']:.1f} s ({row['user_seconds_of_one']:.2f}x)",
        ]
        for row in at(rows, kind="crowd")
        if "seconds" in row
    ]
    return ["beside", "way", "time (of 1 thread's)", "user time (of 1 thread's)"], lines


def crowd(rows: list[dict]) -> str:
    """A stream of texts beside other programs."""
    return markdown(*crowd_lines(rows))


# Of what is measured apart, by kind of row.
LINES = {
    "serve": serving_lines,
    "sentence": sentence_lines,
    "corpus": corpus_lines,
    "crowd": crowd_lines,
}
TABLES = {
    "where": lambda rows: where(rows) + "\n",
    "speed-ups": speed_ups,
    "peers": peers,
    "cases": all_cases,
    "operators": operators,
    "parts": parts,
    "fits": fits,
    "serving": serving,
    "sentence": sentence,
    "corpus": corpus,
    "corpus-memory": corpus_memory,
    "crowd": crowd,
}
_MARKED = re.compile(r"(<!-- rows: ([\w-]+) -->\n).*?(<!-- end of rows -->)", re.DOTALL)


def filled(document: str, rows: list[dict]) -> str:
    """The document with what stands between `<!-- rows: NAME -->` and `<!-- end of rows -->` made
    of the rows.

    Raises:
        ValueError: a marker names no table.
    """

    def fill(match: re.Match) -> str:
        if match[2] not in TABLES:
            raise ValueError(f"rows: got {match[2]!r}, expected one of {', '.join(TABLES)}.")
        return f"{match[1]}\n{TABLES[match[2]](rows)}\n{match[3]}"

    return _MARKED.sub(fill, document)


def fill_file(path: Path, rows: list[dict]) -> None:
    path.write_text(filled(path.read_text(encoding="utf-8"), rows), encoding="utf-8")
