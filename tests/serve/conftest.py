"""Small encoders to serve, and what is logged."""

from __future__ import annotations

import io
import json
import logging

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from support.models import random_model

from albert_act_fast import AlbertActForSequenceClassification, TextEncoder
from albert_act_fast.serve import logs
from albert_act_fast.tokenizer import load_tokenizer

POSITIONS = 40


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="session")
def encoder(tokenizer) -> TextEncoder:
    """At most 40 tokens, 12 iterations, 48 columns."""
    model = random_model(3, halting_bias=-0.2, vocab_size=30000, max_position_embeddings=POSITIONS)
    return TextEncoder(model, tokenizer)


@pytest.fixture(scope="session")
def classifier(tokenizer) -> TextEncoder:
    """Three labels."""
    model = random_model(
        4,
        model_class=AlbertActForSequenceClassification,
        vocab_size=30000,
        max_position_embeddings=POSITIONS,
        num_labels=3,
    )
    return TextEncoder(model, tokenizer)


@pytest.fixture
def log_lines():
    """What was logged, as objects: a function."""
    stream, root = io.StringIO(), logging.getLogger()
    before, level = root.handlers[:], root.level
    logs.configure("debug", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = False
