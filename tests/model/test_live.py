"""`accelerate` and `restore`: a live model of the published structure on the engine."""

import copy
import io
import pickle

import pytest
import torch
from support import models as builders
from support.count_rows import rows_through_the_ffn
from support.models import assert_close
from torch import nn

import albert_act_fast as aaf
from tests.model import published

TOKENS = builders.mask().bool()


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"hidden_act": "gelu_new"},
        {"hidden_act": "relu", "act_epsilon": 0.1},
        {"num_hidden_layers": 1},
        {"position_embedding_type": "relative_key"},
        {"position_embedding_type": "relative_key_query"},
        {"hidden_size": 18, "num_attention_heads": 3, "intermediate_size": 7},
    ],
    ids=str,
)
@torch.no_grad()
def test_the_engine_gives_the_model_s_own_results(overrides):
    model, inputs = published.model(**overrides), builders.batch()
    expected = model(**inputs)
    depths = expected.updates[:, 0, 0][TOKENS]
    assert overrides.get("num_hidden_layers") == 1 or depths.unique().numel() > 2
    assert aaf.accelerate(model) is model
    output = model(**inputs)
    assert_close(output.last_hidden_state[TOKENS], expected.last_hidden_state[TOKENS])
    assert torch.equal(output.n_updates[TOKENS], depths)
    assert_close(output.pooler_output[TOKENS[:, 0]], expected.pooler_output[TOKENS[:, 0]])
    assert output.updates.shape == expected.updates.shape == (4, 1, 1, 9)
    assert rows_through_the_ffn(model, **inputs) == int(depths.sum())


@torch.no_grad()
def test_arguments_and_outputs_are_those_of_this_package():
    model, inputs = aaf.accelerate(published.model()), builders.batch()
    output = model(**inputs)
    as_tuple = model(**inputs, return_dict=False)
    assert type(as_tuple) is tuple
    torch.testing.assert_close(as_tuple, output.to_tuple(), rtol=0, atol=0)
    by_position = model(inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"])
    assert torch.equal(by_position.last_hidden_state, output.last_hidden_state)
    full = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert len(full.attentions) + 1 == len(full.hidden_states) == int(output.n_updates.max()) + 1
    with pytest.raises(ValueError, match="input_ids: got values from 0 to 40, expected 0 to 39"):
        model(inputs["input_ids"].masked_fill(inputs["input_ids"] > 30, 40))


@torch.no_grad()
def test_the_configuration_may_ask_for_tuples():
    model = aaf.accelerate(published.model(return_dict=False))
    assert type(model(**builders.batch())) is tuple


@torch.no_grad()
def test_a_task_model_runs_on_the_engine_too():
    model, inputs = published.model(published.PublishedClassifier), builders.batch()
    expected = model(**inputs)
    assert aaf.accelerate(model) is model
    first = TOKENS[:, 0]
    assert_close(model(**inputs)[first], expected[first])
    assert rows_through_the_ffn(model.albert, **inputs) == int(
        model.albert(**inputs).n_updates.sum()
    )


@torch.no_grad()
def test_weights_are_shared():
    model, inputs = published.model(), builders.batch()
    weights = dict(model.named_parameters())
    keys = list(model.state_dict())
    aaf.accelerate(model)
    model(**inputs)
    assert list(model.state_dict()) == keys
    assert all(p is weights[name] for name, p in model.named_parameters())
    assert len(list(model.modules())) == len(list(published.model().modules()))

    def own_loop() -> torch.Tensor:
        return published.PublishedModel.forward(model, **inputs).last_hidden_state[TOKENS]

    before = own_loop()
    model.encoder.albert_layer.ffn.weight.mul_(-1)
    changed = own_loop()
    assert not torch.allclose(changed, before)
    assert_close(model(**inputs).last_hidden_state[TOKENS], changed)
    model.load_state_dict(published.model(seed=4).state_dict())
    expected = published.model(seed=4)(**inputs).last_hidden_state[TOKENS]
    assert_close(model(**inputs).last_hidden_state[TOKENS], expected)


@torch.no_grad()
def test_a_replaced_module_is_the_one_that_runs():
    model, inputs = aaf.accelerate(published.model()), builders.batch()
    before = model(**inputs).last_hidden_state
    replacement = nn.Linear(16, 24)
    model.encoder.albert_layer.ffn = replacement
    assert not torch.allclose(model(**inputs).last_hidden_state, before)
    expected = published.PublishedModel.forward(model, **inputs).last_hidden_state[TOKENS]
    assert_close(model(**inputs).last_hidden_state[TOKENS], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("used_before", [False, True])
@torch.no_grad()
def test_moves_between_dtypes(dtype, used_before):
    model, inputs = aaf.accelerate(published.model()), builders.batch()
    if used_before:
        model(**inputs)
    output = model.to(dtype)(**inputs)
    assert output.last_hidden_state.dtype == dtype
    again = model.float()(**inputs)
    assert again.last_hidden_state.dtype == torch.float32
    assert (output.n_updates == again.n_updates).float().mean() > 0.8


@pytest.mark.gpu
@torch.no_grad()
def test_moves_to_the_gpu():
    model, inputs = aaf.accelerate(published.model()), builders.batch()
    expected = model(**inputs)
    output = model.cuda()(**{name: x.cuda() for name, x in inputs.items()})
    assert_close(output.last_hidden_state.cpu(), expected.last_hidden_state, 1e-3)


def test_training_through_the_accelerated_model_changes_its_weights():
    inputs, labels = builders.batch(), torch.tensor([0, 1, 1, 0])
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])

    def gradients(model) -> dict[str, torch.Tensor]:
        nn.functional.cross_entropy(model(**inputs), labels).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    own = gradients(published.model(published.PublishedClassifier).train())
    model = aaf.accelerate(published.model(published.PublishedClassifier)).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    given = gradients(model)
    assert given.keys() == own.keys()
    before = [p.detach().clone() for p in model.parameters()]
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    for name in (
        "albert.encoder.albert_layer.ffn.weight",
        "albert.encoder.albert_layer.act.dense.bias",
    ):
        assert given[name].any()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > 20


def test_gradients_are_those_of_the_model_s_own_loop():
    inputs = builders.batch()

    def gradients(model) -> dict[str, torch.Tensor]:
        hidden = model.train()(**inputs)[0]
        hidden[TOKENS].pow(2).sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    own = gradients(published.model())
    given = gradients(aaf.accelerate(published.model()))
    assert given.keys() == own.keys()
    for name, gradient in own.items():
        assert_close(given[name], gradient, tolerance=1e-4)


@pytest.mark.parametrize("cls", [published.PublishedModel, published.PublishedClassifier])
@torch.no_grad()
def test_restore_gives_back_the_own_forward(cls):
    model, inputs = published.model(cls), builders.batch()
    expected = model(**inputs)
    attributes = {id(module): set(vars(module)) for module in model.modules()}
    aaf.accelerate(model)
    model(**inputs)
    assert aaf.restore(model) is model
    assert {id(module): set(vars(module)) for module in model.modules()} == attributes
    output = model(**inputs)
    assert type(output) is type(expected)
    assert all(torch.equal(a, b) for a, b in zip(output, expected, strict=True))


@torch.no_grad()
def test_restore_gives_back_a_forward_that_was_overridden_before():
    model, inputs = published.model(), builders.batch()

    def override(*args, **kwargs):
        return "overridden"

    model.forward = override
    aaf.accelerate(model)
    assert model(**inputs).last_hidden_state.shape == (4, 9, 16)
    assert aaf.restore(model)(**inputs) == "overridden"
    assert model.forward is override


@torch.no_grad()
def test_accelerating_twice_is_accelerating_once():
    model, inputs = published.model(published.PublishedClassifier), builders.batch()
    aaf.accelerate(model)
    forward = model.albert.forward
    aaf.accelerate(model)
    assert model.albert.forward is forward
    aaf.restore(model)
    assert "forward" not in vars(model.albert)
    assert type(model.albert(**inputs)) is published.Output


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_torch_save])
@pytest.mark.parametrize("used_before", [False, True])
@torch.no_grad()
def test_copies_of_an_accelerated_model_stand_on_their_own(duplicate, used_before):
    model, inputs = published.model(published.PublishedClassifier), builders.batch()
    first = TOKENS[:, 0]
    expected = model(**inputs)[first]
    aaf.accelerate(model)
    if used_before:
        model(**inputs)
    twin = duplicate(model)
    assert twin.albert.forward is not model.albert.forward
    for parameter in model.parameters():
        parameter.zero_()
    assert_close(twin(**inputs)[first], expected)
    assert rows_through_the_ffn(twin.albert, **inputs) == int(twin.albert(**inputs).n_updates.sum())
    aaf.restore(twin)
    assert type(twin.albert(**inputs)) is published.Output
    assert_close(twin(**inputs)[first], expected)
    assert type(model.albert(**inputs)) is not published.Output


@torch.no_grad()
def test_use_implementation_reaches_an_accelerated_model():
    model, inputs = aaf.accelerate(published.model()), builders.batch()
    dense = 36 * int(model(**inputs).n_updates.max())
    with aaf.use_implementation("reference"):
        assert rows_through_the_ffn(model, **inputs) == dense
    assert rows_through_the_ffn(model, **inputs) < dense


@torch.no_grad()
def test_models_of_this_package_are_left_as_they_are():
    for cls in builders.MODELS:
        model = builders.model(cls)
        assert aaf.accelerate(model) is model
        assert all("forward" not in vars(module) for module in model.modules())


@torch.no_grad()
def test_a_model_that_holds_one_of_this_package_is_left_as_it_is():
    model = nn.ModuleDict({"encoder_of_questions": builders.model(implementation="reference")})
    assert aaf.accelerate(model) is model
    assert all("forward" not in vars(module) for module in model.modules())


@torch.no_grad()
def test_a_model_with_two_encoders():
    model = nn.ModuleDict(
        {"questions": published.model(seed=1), "answers": published.model(seed=2)}
    )
    inputs = builders.batch()
    expected = {name: module(**inputs)[0][TOKENS] for name, module in model.items()}
    aaf.accelerate(model)
    for name, module in model.items():
        assert_close(module(**inputs).last_hidden_state[TOKENS], expected[name])
    aaf.restore(model)
    assert all("forward" not in vars(module) for module in model.modules())
