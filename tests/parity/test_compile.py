"""torch.compile: the same results, and no new compilation for every shape of batch."""

from __future__ import annotations

import pytest
import torch
from support.compare import run
from support.engines import ON_CPU, WITH_GRADIENTS
from support.models import mask_of, random_batch, random_model
from torch._dynamo.testing import CompileCounter

IMPLEMENTATIONS = [*(name for name in ON_CPU if WITH_GRADIENTS not in name), None]
# A size of 1 is always a graph of its own, so these are all the kinds of batch there are ...
KINDS = ([9], [9, 4], [3, 12, 7], [1], [1, 1], [31], [2, 5])
# ... and these are more of the same.
MORE = ([20, 20, 1, 5], [17], [2, 2], [1, 1, 1], [0, 6], [44])


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No graph of another test counts, and running into the recompilation limit is an error."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=False, fail_on_recompile_limit_hit=True):
        yield
    torch._dynamo.reset()


def assert_same_output(compiled, plain) -> None:
    assert torch.equal(compiled.n_updates, plain.n_updates)
    for name in ("last_hidden_state", "pooler_output", "remainders", "ponder_cost", "updates"):
        torch.testing.assert_close(compiled[name], plain[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("context", "position"),
    [(torch.no_grad, "absolute"), (torch.inference_mode, "relative_key")],
)
def test_every_shape_of_batch(implementation, context, position):
    model = random_model(0, position_embedding_type=position)
    counter = CompileCounter()  # traces and guards as ever, and runs the graph without a compiler
    compiled = torch.compile(model, backend=counter)
    graphs = []
    for seed, lengths in enumerate(KINDS + MORE):
        inputs = random_batch(seed, model.config, mask_of(lengths))
        with context():
            output = compiled(**inputs, implementation=implementation)
        assert_same_output(output, run(model, "reference", **inputs))
        graphs.append(counter.frame_count)
    assert graphs[0] >= 1, "nothing was compiled"
    assert graphs[len(KINDS) - 1] == graphs[-1] <= len(KINDS), f"after each batch: {graphs}"


def test_the_reference_and_its_extras():
    model = random_model(1)
    compiled = torch.compile(model, backend=CompileCounter())
    for lengths in ([9, 4], [3, 12, 7]):
        inputs = random_batch(1, model.config, mask_of(lengths))
        plain = run(model, "reference", **inputs)
        with torch.no_grad():
            output = compiled(**inputs, implementation="reference", output_hidden_states=True)
        assert_same_output(output, plain)
        assert len(output.hidden_states) == plain.n_updates.max() + 1


@pytest.mark.parametrize("implementation", ["auto", "torch"])
def test_training_step(implementation):
    model = random_model(2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    compiled = torch.compile(model, backend="eager")
    inputs = random_batch(2, model.config, mask_of([9, 4]))
    gradients = []
    for which in (compiled, model):
        model.zero_grad()
        output = which(**inputs, implementation=implementation)
        (output.pooler_output.sum() + output.ponder_cost.mean()).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-4)


def test_errors_stay_errors():
    model = random_model(3)
    compiled = torch.compile(model, backend=CompileCounter())
    inputs = random_batch(3, model.config, mask_of([9, 4]))
    inputs["input_ids"][0, 0] = 61
    with torch.no_grad(), pytest.raises(ValueError, match="input_ids"):
        compiled(**inputs)


@pytest.mark.slow
def test_inductor():
    model = random_model(4, "odd")
    compiled = torch.compile(model)
    for seed, lengths in enumerate(KINDS):
        inputs = random_batch(seed, model.config, mask_of(lengths))
        with torch.no_grad():
            output = compiled(**inputs)
        assert_same_output(output, run(model, "reference", **inputs))
