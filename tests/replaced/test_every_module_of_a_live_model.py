"""The walk over a live model of the published structure: taken over by `accelerate`, it computes
what its own loop computes with the same change, or says what has to be restored."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

import albert_act_fast as aaf
from tests.model import published
from tests.replaced.agreement import (
    IMPLEMENTATIONS,
    TINY,
    assert_equal,
    changed,
    differs,
    result_or_refusal,
)
from tests.replaced.agreement import batch_of as random_batch_of
from tests.replaced.changes import (
    changes_of,
    hook,
    hook_that_sees_positions,
    own_forward,
    subclass,
)

POSITIONS = ("absolute", "relative_key_query")
# Whose `forward` the engine takes the place of.
CONTAINERS = (
    "",
    "embeddings",
    "encoder",
    "encoder.albert_layer",
    "encoder.albert_layer.attention",
    "encoder.albert_layer.act",
)


@functools.cache
def walked(positions: str) -> nn.Module:
    return published.model(**TINY, position_embedding_type=positions)


def cases() -> list:
    return [
        pytest.param(positions, path, change, id=f"{positions}-{path or 'model'}-{change.__name__}")
        for positions in POSITIONS
        for path, module in walked(positions).named_modules()
        for change in changes_of(module)
        # `accelerate` itself is such a forward; test_live has it.
        # The output of the whole is this package's, of which a hook would see more.
        if not (path == "" and change in (own_forward, subclass, hook, hook_that_sees_positions))
    ]


def batch_of(model: nn.Module) -> dict[str, Tensor]:
    return random_batch_of(model)


def outputs(model: nn.Module, implementation: str | None = None) -> dict[str, Tensor]:
    """At tokens alone: the published loop leaves something at padding."""
    batch = batch_of(model)
    token = batch["attention_mask"].bool()
    with torch.no_grad(), aaf.use_implementation(implementation or "auto"):
        result = model(**batch)
    hidden, pooled, updates = result[0], result[1], result[2]
    if updates.shape[:3] != (token.size(0), 1, 1):  # a hook may have changed it
        updates = updates.reshape(token.size(0), 1, 1, -1)
    return {
        "last_hidden_state": hidden[token],
        "pooler_output": pooled[token[:, 0]],
        "updates": updates[:, 0, 0][token],
    }


@pytest.mark.parametrize(("positions", "path", "change"), cases())
def test_a_changed_module(positions, path, change):
    plain = walked(positions)
    own = changed(plain, lambda m: change(m.get_submodule(path)))
    expected = outputs(own)
    # The published halting unit is only a place for its Linear.
    unused = path.endswith("albert_layer.act") or (
        path.endswith("position_embeddings") and positions != "absolute"
    )
    assert unused or differs(expected, outputs(plain))

    taken_over = aaf.accelerate(changed(plain, lambda _: None))
    change(taken_over.get_submodule(path))
    assert_its_own_results_or_a_reason(taken_over, path, expected)
    aaf.restore(taken_over)
    assert_equal(outputs(taken_over), expected)

    if change is hook:  # before it was taken over
        taken_over = changed(own, lambda _: None)
        _, refusal = result_or_refusal(lambda: aaf.accelerate(taken_over))
        if refusal is None:
            assert_its_own_results_or_a_reason(taken_over, path, expected)
        else:
            assert refusal.startswith("model: ")
            assert path.rpartition(".")[2] in refusal
            assert_equal(outputs(taken_over), expected)


def assert_its_own_results_or_a_reason(taken_over: nn.Module, path: str, expected: dict) -> None:
    for implementation in ("reference", *IMPLEMENTATIONS):
        actual, refusal = result_or_refusal(functools.partial(outputs, taken_over, implementation))
        if refusal is None:
            assert_equal(actual, expected)
            continue
        assert path.rpartition(".")[2] in refusal
        if path in CONTAINERS:
            assert "albert_act_fast.restore" in refusal
        else:
            assert implementation not in ("auto", "reference"), refusal
