"""Training: gradients, learning, gradient checkpointing, dropout, automatic mixed precision."""

import pytest
import torch
from support import models as builders
from support.models import MODELS, TASKS, assert_close, head_output
from transformers import set_seed

import albert_act_fast as aaf
from albert_act_fast.configuration import POSITION_TYPES

# transformers renames gradient checkpointing in 5.x; both names work until version 6.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


def loss_of(model, inputs) -> torch.Tensor:
    output = model(**inputs)
    if isinstance(model, aaf.AlbertActModel):
        return output.last_hidden_state.pow(2).mean() + output.pooler_output.sum()
    return output.loss


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters()}


# What trains: the dense loop, which "auto" takes, and the engine where it is asked for.
trainable = pytest.mark.parametrize("implementation", ["auto", "torch"])


@trainable
@pytest.mark.parametrize("cls", TASKS)
def test_the_loss_falls_within_a_few_steps(cls, implementation):
    model = builders.model(cls, implementation=implementation).train()
    inputs = builders.batch(cls, labels=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = loss_of(model, inputs)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@trainable
@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("positions", POSITION_TYPES)
def test_every_parameter_gets_a_gradient(cls, positions, implementation):
    model = builders.model(cls, position_embedding_type=positions, implementation=implementation)
    model.train()
    loss_of(model, builders.batch(cls, labels=True)).backward()
    for name, gradient in gradients(model).items():
        if name.endswith("position_embeddings.weight") and not POSITION_TYPES[positions].embedded:
            assert gradient is None, "this type has no use for position embeddings"
            continue
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        # A softmax is blind to what all keys, or all choices, share.
        blind = name.endswith("key.bias") or (
            name == "classifier.bias" and cls is aaf.AlbertActForMultipleChoice
        )
        if not blind:
            assert gradient.any(), name


@trainable
@pytest.mark.parametrize("cls", MODELS)
def test_frozen_parameters_stay_out(cls, implementation):
    model = builders.model(cls, implementation=implementation).train()
    inputs = builders.batch(cls, labels=True)
    frozen = builders.base_of(model).embeddings
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    loss_of(model, inputs).backward()
    assert all(p.grad is None for p in frozen.parameters())
    assert builders.base_of(model).encoder.albert_layer.ffn.weight.grad.any()


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("reentrant", [None, True, False])
def test_gradient_checkpointing_changes_no_gradient(cls, reentrant):
    model, inputs = builders.model(cls, hidden_dropout_prob=0.1), builders.batch(cls, labels=True)
    model.train()

    layer_runs = []
    layer = builders.base_of(model).encoder.albert_layer
    layer.activation.register_forward_hook(lambda *_: layer_runs.append(1))

    def run() -> tuple[torch.Tensor, int, int, dict]:
        model.zero_grad()
        layer_runs.clear()
        set_seed(5)
        loss = loss_of(model, inputs)
        forward = len(layer_runs)
        loss.backward()
        backward = len(layer_runs) - forward
        return loss.detach(), forward, backward, {k: g.clone() for k, g in gradients(model).items()}

    loss, forward, backward, expected = run()
    assert forward > 3
    assert backward == 0
    assert not model.is_gradient_checkpointing
    arguments = None if reentrant is None else {"use_reentrant": reentrant}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments)
    assert model.is_gradient_checkpointing
    checkpointed_loss, *runs, given = run()
    assert runs == [forward, forward], "the layer runs again in the backward pass"
    assert torch.equal(checkpointed_loss, loss)
    for name, gradient in expected.items():
        assert_close(given[name], gradient)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_gradient_checkpointing_is_the_dense_loop_s():
    model = builders.model(implementation="torch").train()
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="gradient checkpointing is on"):
        model(**builders.batch())


def test_gradient_checkpointing_trains_adapters_on_a_frozen_model():
    model, inputs = builders.model().train(), builders.batch()
    model.requires_grad_(False)
    adapted = model.encoder.albert_layer.ffn.bias.requires_grad_()
    expected = torch.autograd.grad(loss_of(model, inputs), adapted)[0]
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    loss_of(model, inputs).backward()
    assert_close(adapted.grad, expected)


@pytest.mark.parametrize("field", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_dropout_acts_in_training_alone(field):
    model, inputs = builders.model(**{field: 0.5}), builders.batch()
    plain = builders.model()
    assert_close(model(**inputs).last_hidden_state, plain(**inputs).last_hidden_state, tolerance=0)
    model.train()
    set_seed(0)
    first = model(**inputs).last_hidden_state
    second = model(**inputs).last_hidden_state
    set_seed(0)
    again = model(**inputs).last_hidden_state
    assert not torch.allclose(first, second)
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    "cls",
    [
        aaf.AlbertActForPreTraining,
        aaf.AlbertActForSequenceClassification,
        aaf.AlbertActForTokenClassification,
        aaf.AlbertActForMultipleChoice,
    ],
)
def test_the_head_s_dropout_acts_in_training_alone(cls):
    model, inputs = builders.model(cls, classifier_dropout_prob=0.5), builders.batch(cls)
    field = "sop_logits" if cls is aaf.AlbertActForPreTraining else "logits"
    assert torch.equal(model(**inputs)[field], model(**inputs)[field])
    model.train()
    assert not torch.allclose(model(**inputs)[field], model(**inputs)[field])


@torch.no_grad()
def test_dropout_stays_active_in_training_mode_without_gradients():
    model, inputs = builders.model(hidden_dropout_prob=0.5).train(), builders.batch()
    assert not torch.equal(model(**inputs).last_hidden_state, model(**inputs).last_hidden_state)


@trainable
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cls", MODELS)
def test_automatic_mixed_precision(cls, dtype, implementation):
    model = builders.model(cls, implementation=implementation)
    inputs = builders.batch(cls, labels=True)
    with torch.autocast("cpu", dtype=dtype):
        loss = loss_of(model.train(), inputs)
        with torch.no_grad():
            output = model.eval()(**inputs)
    loss.backward()
    with torch.no_grad():
        expected = model(**inputs)
    assert output.n_updates.dtype == torch.float32
    assert_close(head_output(output).float(), head_output(expected), tolerance=0.2)
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name
