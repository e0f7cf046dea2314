"""`TextEncoder.encode` of a string: by itself it goes another way than in a list."""

from __future__ import annotations

import numpy as np
import pytest

from albert_act_fast import TextError

TEXTS = ["so", "It was the best of times, it was the worst of times.", "quiet ."]
LONG = "one and then another " * 32


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalize": True},
        {"pooling": "cls"},
        {"pooling": "pooler"},
        {"truncation": True},
        {"truncation": True, "output": "torch", "normalize": True},
        {"chunk": True},
        {"max_iterations": 2},
        {"act_epsilon": 0.4},
        {"batch_tokens": 1},
        {"batch_size": 1},
        {"show_progress": True},
    ],
)
def test_a_string_is_what_it_is_in_a_list(encoder, settings):
    for text in [*TEXTS, LONG]:
        if text is LONG and not {"truncation", "chunk"} & set(settings):
            continue
        one, (listed,) = (encoder.encode(texts, **settings) for texts in (text, [text]))
        assert (type(one), one.dtype) == (type(listed), listed.dtype)
        np.testing.assert_array_equal(one, listed)
        one += 1  # the caller's own


@pytest.mark.parametrize("text", ["", " ", "日本語", "x\ud800", LONG])
def test_a_string_fails_as_in_a_list(encoder, text):
    failures = []
    for texts in (text, [text]):
        with pytest.raises(TextError) as caught:
            encoder.encode(texts)
        failures.append(caught.value)
    one, listed = failures
    assert (str(one), one.index, one.kind, one.text) == (str(listed), 0, listed.kind, text)
    assert np.isnan(one.computed.embeddings).all()
