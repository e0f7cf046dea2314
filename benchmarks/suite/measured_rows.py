"""Measured rows: one JSON object a line, each complete in itself."""

from __future__ import annotations

import json
from pathlib import Path

# What every row of a model's case holds. A row that was not timed has "skipped" or "wrong", the
# reason, in place of everything from "seconds" on.
FIELDS = {
    "kind": '"model", "training", "operator", "parts", "serve", "sentence", "corpus", '
    '"corpus memory" or "crowd"',
    "case": "name of the case",
    "text": "where the text is from",
    "batch": "sequences",
    "length": "places of a sequence, padding included",
    "tokens": "of the batch, padding left out",
    "depths": "mean iterations of all tokens and of each class",
    "dense_rows": "rows that the plain loop computes over all iterations",
    "running_rows": "rows of each iteration that have to be computed",
    "variant": "who and in which dtype",
    "dtype": "of weights and products",
    "seconds": "of a call: the median of the rounds",
    "seconds_low, seconds_high": "quartiles of the rounds",
    "speed_up": "the median over the rounds of the reference's seconds over the variant's",
    "ratios": "the rounds' ratios",
    "rows": "that the variant computed over all iterations",
    "work_saved": "dense_rows / rows",
    "useful_flops": "operations a second, of those that have to be computed; none at fixed depth",
    "share_of_peak": "useful_flops / peak_flops",
    "kernel_efficiency": "operations that the variant computed a second / peak_flops",
    "peak_flops": "of matrix products in the variant's dtype, measured beside this case",
    "peak_memory": "bytes that loading and running it adds to the process",
    "error": "root mean square of the states against the reference",
    "differing_depths": "share of tokens with another depth than the reference's",
    "products, attention, other, outside": "seconds of the parts of a call (`parts.py`)",
    "of_model, beside_products": "of one sentence: seconds of tokenizer and model over its own; "
    "seconds outside of products and attention",
    "capacity, of_stream": "texts a second of a server that is asked as often as it answers; over "
    "TextEncoder.stream's",
    "load, rate": "requests a second over the capacity; requests a second, on average",
    "throughput, p50, p99": "answers a second; seconds from when a request was due to its answer",
    "user_seconds, seconds_of_one, user_seconds_of_one": "of the processors in user mode; both "
    "over those of one thread",
    "sentences, texts_a_second": "texts that were embedded; how many a second",
    "requests, failed": "how many; how many were not answered with 200",
    "machine, threads, versions, commit, ...": "where and with what",
}


def read_rows(path: Path) -> list[dict]:
    """
    Raises:
        ValueError: a line is not a row.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}).") from error
        if not isinstance(row, dict) or not {"case", "variant"} <= row.keys():
            raise ValueError(f"{path}, line {number}: expected a row with a case and a variant.")
        rows.append(row)
    return rows


def append_row(path: Path, row: dict) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
