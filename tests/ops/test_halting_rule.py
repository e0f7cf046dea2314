"""The reference's halting rule against one token at a time in plain Python with NumPy floats."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from albert_act_fast import AlbertActConfig
from albert_act_fast.reference import HaltingState, halting_rule

EPSILONS = (0, 0.01, 0.4, 0.5)
ONE = np.float32(1)


@dataclass
class Token:
    """What the rule made of one token; weights has one entry an iteration."""

    accumulated_probability: np.float32
    remainder: np.float32
    n_updates: int
    weights: list[np.float32]
    halted: bool


def one_token(probabilities: list[float], epsilon: float) -> Token:
    """Graves' rule as a person would do it; the iteration limit is the list's length."""
    threshold = np.float32(1 - epsilon)
    token = Token(np.float32(0), np.float32(0), 0, [], False)
    for p in np.array(probabilities, dtype=np.float32):
        if not token.accumulated_probability < ONE:
            token.weights.append(np.float32(0))
            continue
        reached = token.accumulated_probability + p
        if math.isnan(reached):
            token.accumulated_probability = reached
            token.weights.append(reached)
            continue
        token.n_updates += 1
        if reached > threshold:
            token.remainder = ONE - token.accumulated_probability
            token.accumulated_probability = ONE
            token.weights.append(token.remainder)
            token.halted = True
        else:
            token.accumulated_probability = reached
            token.weights.append(p)
    return token


def by_the_rule(
    probabilities: list[list[float]], epsilon: float
) -> tuple[HaltingState, torch.Tensor, torch.Tensor]:
    """All tokens at once; also the weights and who ran, [iterations, 1, tokens]."""
    p = torch.tensor(probabilities, dtype=torch.float32).T.unsqueeze(1)
    limits = AlbertActConfig(act_epsilon=epsilon).halting_limits
    state = HaltingState.start(torch.empty(1, len(probabilities), 7))
    weights, running = [], []
    for of_iteration in p:
        runs, w, state = halting_rule(of_iteration, state, limits)
        weights.append(w)
        running.append(runs)
    return state, torch.stack(weights), torch.stack(running)


def assert_equal_to_one_at_a_time(probabilities: list[list[float]], epsilon: float) -> None:
    state, weights, running = by_the_rule(probabilities, epsilon)
    for i, of_token in enumerate(probabilities):
        expected = one_token(of_token, epsilon)
        np.testing.assert_array_equal(
            state.accumulated_probability[0, i].numpy(), expected.accumulated_probability
        )
        np.testing.assert_array_equal(state.remainder[0, i].numpy(), expected.remainder)
        np.testing.assert_array_equal(weights[:, 0, i].numpy(), np.array(expected.weights))
        assert state.n_updates[0, i] == expected.n_updates
        is_nan = bool(np.isnan(expected.accumulated_probability))
        assert running[:, 0, i].sum() == expected.n_updates + is_nan
        if expected.halted:
            assert sum(expected.weights, start=np.float32(0)) == ONE
            assert state.accumulated_probability[0, i] == 1


def test_thresholds_are_rounded_to_float32():
    for epsilon in EPSILONS:
        threshold = AlbertActConfig(act_epsilon=epsilon).halting_threshold
        assert isinstance(threshold, float)
        assert threshold == float(np.float32(1 - epsilon))
    assert AlbertActConfig(act_epsilon=0.01).halting_threshold != 0.99


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("seed", range(5))
def test_random_probabilities(epsilon, seed):
    generator = np.random.default_rng(seed)
    # Tokens that halt at once up to tokens that never do.
    shape = generator.choice([0.05, 0.3, 1, 3], size=(200, 1))
    probabilities = generator.beta(shape, 2, size=(200, 24))
    assert_equal_to_one_at_a_time(probabilities.tolist(), epsilon)
    depths = {one_token(p, epsilon).n_updates for p in probabilities.tolist()}
    assert len(depths) > 10, "the tokens do not differ in depth"


TIES = {
    "reaches the threshold in one": ([0.5, 0.0, 0.0], 0.5),
    "reaches the threshold in two": ([0.25, 0.25, 0.125], 0.5),
    "at the threshold, then p = 0 for ever": ([0.5, 0, 0, 0, 0], 0.5),
    "at the threshold, then any p": ([0.5, 1e-3, 0.7], 0.5),
    "reaches 1 = threshold": ([0.5, 0.5, 0.5], 0),
    "p = 1 with threshold 1": ([1.0, 1.0], 0),
    "p = 1": ([1.0, 1.0], 0.01),
    "p = 0 for ever": ([0.0] * 24, 0.01),
    "p = 0, then 1": ([0.0, 0.0, 1.0, 0.5], 0.4),
    "halts in the last iteration": ([0.3, 0.3, 0.3], 0.4),
    "one iteration short of halting": ([0.3, 0.3], 0.4),
    "no more than one iteration": ([0.3], 0.4),
    "a p that is lost in rounding": ([0.5, 1e-9, 1e-9, 0.6], 0.01),
    "one rounding above the threshold": ([0.25, 0.25 + 2**-24, 0.5], 0.5),
    "one rounding below the threshold": ([0.25, 0.25 - 2**-25, 0.5], 0.5),
    "the float32 of 0.99": ([float(np.float32(0.99)), 0.5], 0.01),
    "one above the float32 of 0.99": ([float(np.nextafter(np.float32(0.99), ONE)), 0.5], 0.01),
    "NaN at once": ([math.nan, 0.5, 0.9], 0.01),
    "NaN later": ([0.2, math.nan, 0.9, 0.9], 0.01),
    "NaN after halting": ([0.9, 0.9, math.nan], 0.01),
}


@pytest.mark.parametrize(("probabilities", "epsilon"), TIES.values(), ids=list(TIES))
def test_edges(probabilities, epsilon):
    assert_equal_to_one_at_a_time([probabilities], epsilon)


def test_what_the_edges_give():
    """The same edges with the numbers written out."""

    def after(probabilities, epsilon):
        state, weights, _ = by_the_rule([probabilities], epsilon)
        return tuple(x.item() for x in state), weights.flatten().tolist()

    # At the threshold: still running, updated once more if others ask for it.
    assert after([0.5], 0.5) == ((0.5, 0.0, 1.0), [0.5])
    assert after([0.5, 0.25], 0.5) == ((1.0, 0.5, 2.0), [0.5, 0.5])
    # Exactly 1 without passing: never updated again, no remainder.
    assert after([1.0, 0.25], 0) == ((1.0, 0.0, 1.0), [1.0, 0.0])
    # The iteration limit: no remainder.
    assert after([0.25, 0.25], 0.01) == ((0.5, 0.0, 2.0), [0.25, 0.25])
    assert after([0.25, 0.75], 0.01) == ((1.0, 0.75, 2.0), [0.25, 0.75])


def test_nan_freezes():
    state, weights, running = by_the_rule([[0.25, math.nan, 0.5, 0.5]], 0.01)
    assert state.accumulated_probability.isnan().all()
    assert state.n_updates.item() == 1
    assert state.remainder.item() == 0
    assert running.flatten().tolist() == [True, True, False, False]
    assert weights.flatten().isnan().tolist() == [False, True, False, False]
    assert not bool((state.accumulated_probability < 1).any()), "it would keep the loop going"


probability = st.one_of(
    st.floats(0, 1, width=32),
    st.sampled_from([0.0, 0.25, 0.5, 1.0, 2**-24, float(np.float32(0.6)), math.nan]),
)


@given(
    st.integers(1, 24).flatmap(
        lambda n: st.lists(st.lists(probability, min_size=n, max_size=n), min_size=1, max_size=4)
    ),
    st.sampled_from(EPSILONS),
)
def test_any_probabilities(probabilities, epsilon):
    assert_equal_to_one_at_a_time(probabilities, epsilon)


def test_float64_states_are_float64():
    state = HaltingState.start(torch.empty(2, 3, 5, dtype=torch.float64))
    assert {x.dtype for x in state} == {torch.float64}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert {x.dtype for x in HaltingState.start(torch.empty(2, 3, 5, dtype=dtype))} == {
            torch.float32
        }


def test_gradient_flows_through_probabilities_and_remainder_not_through_counts():
    p = torch.tensor([[0.25, 0.75]], dtype=torch.float64, requires_grad=True)
    state = HaltingState.start(p.unsqueeze(-1).detach())
    limits = AlbertActConfig(act_epsilon=0.01).halting_limits
    _, first, state = halting_rule(p, state, limits)
    _, second, state = halting_rule(p, state, limits)
    assert not state.n_updates.requires_grad
    # The first token goes on twice; the second halts with remainder 1 - p.
    (state.remainder.sum() + 10 * first.sum() + 100 * second[0, 0]).backward()
    assert p.grad.tolist() == [[110.0, 9.0]]
