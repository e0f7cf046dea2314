"""Small encoders whose tokens halt at different depths."""

from __future__ import annotations

import pytest
from support.models import random_model

from albert_act_fast import TextEncoder
from albert_act_fast.tokenizer import load_tokenizer

POSITIONS = 40


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="session")
def model():
    """At most 40 tokens, 12 iterations."""
    return random_model(3, halting_bias=-0.2, vocab_size=30000, max_position_embeddings=POSITIONS)


@pytest.fixture(scope="session")
def encoder(model, tokenizer) -> TextEncoder:
    return TextEncoder(model, tokenizer)
