"""One sentence, from a string to its embedding: `TextEncoder.encode` beside the tokenizer and the
model, and how much of it is neither products nor attention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from albert_act_fast import TextEncoder, native
from albert_act_fast.engine.cpu import last_native_engine
from albert_act_fast.tokenizer import load_tokenizer
from suite.cases import Case
from suite.models import model_of
from suite.parts import measured_parts
from suite.timing import MACHINE_CLOCK, Clock, interleave, quartiles
from suite.variants import in_dtype

SENTENCE = "It was the best of times, it was the worst of times."
TOKENS = 16
SIZES, DTYPES = ("base", "shipped"), ("float32", "bfloat16", "int8")
ENCODER, MODEL = "TextEncoder.encode", "tokenizer and model"
ROUNDS = 40


def steps() -> int:
    """How often `sentence_rows` calls `advance`."""
    return len(SIZES) * len(DTYPES)


def sentence_rows(
    folder: Path,
    advance: Callable[[], None] = lambda: None,
    *,
    rounds: int = ROUNDS,
    clock: Clock = MACHINE_CLOCK,
) -> list[dict]:
    """Two rows for every size and dtype: seconds, and what of them is outside of products and
    attention."""
    if native.why_no_cpp is not None:
        return []
    rows = []
    for size in SIZES:
        model = model_of(Case(size, "sentence", 1), folder)
        for dtype in DTYPES:
            rows += _rows_of(in_dtype(model, dtype), size, dtype, rounds, clock)
            advance()
    return rows


def _rows_of(model, size: str, dtype: str, rounds: int, clock: Clock) -> list[dict]:
    tokenizer = load_tokenizer()
    encoder = TextEncoder(model, tokenizer)

    def by_encoder() -> np.ndarray:
        return encoder.encode(SENTENCE, pooling="mean")

    @torch.inference_mode()
    def by_model() -> np.ndarray:
        encoded = tokenizer(SENTENCE, return_tensors="pt")
        states = model(**encoded, implementation="cpp").last_hidden_state
        return states[0].float().mean(0).numpy()

    about = {
        "kind": "sentence",
        "case": f"{size}, a sentence of {TOKENS} tokens",
        "text": SENTENCE,
        "dtype": dtype,
    }
    calls = {ENCODER: by_encoder, MODEL: by_model}
    given, expected = by_encoder(), by_model()
    # Both are the same engine's; only the embeddings before it are mapped by another product.
    differs = np.abs(given - expected).max() / np.abs(expected).max()
    limit = {"float32": 1e-4}.get(dtype, 0.05)
    if not differs <= limit:
        why = f"differs by {differs:.1e} of the largest, at most {limit:.1e} expected"
        return [{**about, "variant": f"{name} {dtype}", "wrong": why} for name in calls]
    # The mapping of the embeddings is a product too; in a model's call it counts as outside.
    engines = {
        ENCODER: encoder._frozen._native.encoder,
        MODEL: last_native_engine(model.encoder.albert_layer),
    }
    seconds = interleave(calls, dict.fromkeys(calls, 0.003), rounds, clock=clock)
    rows = []
    for name, call in calls.items():
        low, middle, high = quartiles(seconds[name])
        over = zip(seconds[MODEL], seconds[name], strict=True)
        parts = measured_parts(call, lambda name=name: engines[name].seconds)
        rows.append(
            {
                **about,
                "variant": f"{name} {dtype}",
                "seconds": middle,
                "seconds_low": low,
                "seconds_high": high,
                "of_model": quartiles([model / own for model, own in over])[1],
                "beside_products": parts["other"] + parts["outside"],
            }
        )
    return rows
