"""What the models return: fields and their order, shapes, tuples, hidden states, attentions."""

import pytest
import torch
from support import models as builders
from support.models import LENGTHS, MODELS, TASKS, assert_close

import albert_act_fast as aaf

DEPTH_FIELDS = ["updates", "n_updates", "remainders", "ponder_cost"]
HEAD_FIELDS = {
    aaf.AlbertActModel: ["last_hidden_state", "pooler_output"],
    aaf.AlbertActForPreTraining: ["prediction_logits", "sop_logits"],
    aaf.AlbertActForMaskedLM: ["logits"],
    aaf.AlbertActForSequenceClassification: ["logits"],
    aaf.AlbertActForTokenClassification: ["logits"],
    aaf.AlbertActForQuestionAnswering: ["start_logits", "end_logits"],
    aaf.AlbertActForMultipleChoice: ["logits"],
}
LOGIT_SHAPES = {
    aaf.AlbertActForPreTraining: [(4, 9, 40), (4, 2)],
    aaf.AlbertActForMaskedLM: [(4, 9, 40)],
    aaf.AlbertActForSequenceClassification: [(4, 2)],
    aaf.AlbertActForTokenClassification: [(4, 9, 2)],
    aaf.AlbertActForQuestionAnswering: [(4, 9), (4, 9)],
    aaf.AlbertActForMultipleChoice: [(2, 2)],
}


@pytest.mark.parametrize("cls", MODELS)
def test_fields_and_their_order(cls):
    model, inputs = builders.model(cls), builders.batch(cls, labels=True)
    loss = [] if cls is aaf.AlbertActModel else ["loss"]
    assert list(model(**inputs)) == loss + HEAD_FIELDS[cls] + DEPTH_FIELDS
    everything = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert list(everything) == (
        loss + HEAD_FIELDS[cls] + ["hidden_states", "attentions"] + DEPTH_FIELDS
    )


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("dense", [False, True], ids=["engine", "reference"])
@torch.no_grad()
def test_a_tuple_holds_the_output_s_values(cls, dense):
    model, inputs = builders.model(cls), builders.batch(cls, labels=True)
    inputs |= {"output_hidden_states": dense, "output_attentions": dense}
    output = model(**inputs)
    as_argument = model(**inputs, return_dict=False)
    model.config.return_dict = False
    as_configured = model(**inputs)
    overridden = model(**inputs, return_dict=True)
    assert type(overridden) is type(output)
    for given in (as_argument, as_configured):
        assert type(given) is tuple
        torch.testing.assert_close(given, output.to_tuple(), rtol=0, atol=0)


@torch.no_grad()
def test_arguments_by_position_are_the_published_model_s():
    model, inputs = builders.model(), builders.batch()
    positions = torch.arange(9).flip(0)
    given = model(
        inputs["input_ids"],
        inputs["attention_mask"],
        inputs["token_type_ids"],
        positions,
        torch.ones(4),
        None,
        True,
        True,
    )
    expected = model(**inputs, position_ids=positions)
    assert_close(given.last_hidden_state, expected.last_hidden_state)
    assert given.attentions is not None
    assert given.hidden_states is not None


@pytest.mark.parametrize("implementation", ["reference", "auto"])
@torch.no_grad()
def test_shapes_and_padding_of_the_bare_model(implementation):
    inputs = builders.batch()
    output = builders.model()(**inputs, implementation=implementation)
    padding = inputs["attention_mask"] == 0
    assert output.last_hidden_state.shape == (4, 9, 16)
    assert output.pooler_output.shape == (4, 16)
    assert output.updates.shape == (4, 1, 1, 9)
    assert output.updates.dtype == torch.float32
    for name in ("n_updates", "remainders", "ponder_cost"):
        assert output[name].shape == (4, 9)
        assert output[name].dtype == torch.float32
        assert not output[name][padding].any()
    assert not output.last_hidden_state[padding].any()
    assert torch.equal(output.updates[:, 0, 0], output.n_updates)
    assert torch.equal(output.ponder_cost, output.n_updates + output.remainders)
    depths = output.n_updates[~padding]
    assert depths.min() >= 1
    assert depths.max() <= 8
    assert depths.unique().numel() > 3, "the test's own model must spread its depths"


@torch.no_grad()
def test_updates_of_one_sequence_have_the_published_shape():
    assert builders.model()(builders.ids(1, 6)).updates.shape == (1, 1, 1, 6)


@torch.no_grad()
def test_the_pooler_is_a_tanh_of_the_first_token():
    model = builders.model()
    output = model(**builders.batch())
    expected = torch.tanh(model.pooler(output.last_hidden_state[:, 0]))
    assert_close(output.pooler_output, expected)


@torch.no_grad()
def test_without_a_pooler_there_is_no_pooled_output():
    model = aaf.AlbertActModel(builders.config(), add_pooling_layer=False).eval()
    output = model(**builders.batch())
    assert output.pooler_output is None
    assert list(output) == ["last_hidden_state", *DEPTH_FIELDS]


@pytest.mark.parametrize("cls", TASKS)
@torch.no_grad()
def test_logits_have_the_task_s_shape_and_no_loss_without_labels(cls):
    output = builders.model(cls)(**builders.batch(cls))
    assert [tuple(output[name].shape) for name in HEAD_FIELDS[cls]] == LOGIT_SHAPES[cls]
    assert output.loss is None
    assert output.n_updates.shape == (4, 9)


@pytest.mark.parametrize("cls", MODELS)
def test_engine_and_reference_agree_in_every_field(cls):
    model, inputs = builders.model(cls), builders.batch(cls, labels=True)
    with torch.no_grad():
        engine = model(**inputs)
    reference = model(**inputs)
    assert list(engine) == list(reference)
    for name in engine:
        assert_close(engine[name], reference[name].detach())


def test_hidden_states_go_from_the_embeddings_to_the_last_state():
    model, inputs = builders.model(), builders.batch()
    output = model(**inputs, output_hidden_states=True)
    iterations = int(output.n_updates.max())
    assert len(output.hidden_states) == iterations + 1
    assert all(state.shape == (4, 9, 16) for state in output.hidden_states)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    # A token's state moves in exactly its own iterations.
    before, after = torch.stack(output.hidden_states[:-1]), torch.stack(output.hidden_states[1:])
    moved = (before != after).any(-1)
    expected = torch.arange(iterations)[:, None, None] < output.n_updates
    assert torch.equal(moved, expected)


def test_attentions_are_distributions_over_the_tokens():
    model, inputs = builders.model(), builders.batch()
    output = model(**inputs, output_attentions=True)
    assert len(output.attentions) == int(output.n_updates.max())
    at_padding = (inputs["attention_mask"] == 0)[:, None, None, :]
    for weights in output.attentions:
        assert weights.shape == (4, 4, 9, 9)
        assert not weights.masked_select(at_padding).any()
        assert_close(weights.sum(-1), torch.ones(4, 4, 9))
    assert not torch.allclose(output.attentions[0], output.attentions[1])


def test_hidden_states_and_attentions_follow_the_configuration():
    model, inputs = builders.model(), builders.batch()
    model.config.output_hidden_states = True
    assert model(**inputs).hidden_states is not None
    assert model(**inputs, output_hidden_states=False).hidden_states is None
    model = builders.model(output_attentions=True)
    assert model(**inputs).attentions is not None
    assert model(**inputs, output_attentions=False).attentions is None


@pytest.mark.parametrize("cls", TASKS)
def test_task_models_hand_on_hidden_states_and_attentions(cls):
    model, inputs = builders.model(cls), builders.batch(cls)
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    iterations = int(output.n_updates.max())
    assert len(output.attentions) == iterations
    assert len(output.hidden_states) == iterations + 1


@torch.no_grad()
def test_asking_for_hidden_states_changes_no_result():
    model, inputs = builders.model(), builders.batch()
    plain = model(**inputs)
    full = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert_close(plain.last_hidden_state, full.last_hidden_state)
    assert torch.equal(plain.n_updates, full.n_updates)


@torch.no_grad()
def test_every_sequence_s_output_is_its_own():
    model, inputs = builders.model(), builders.batch()
    together = model(**inputs)
    for row, length in enumerate(LENGTHS):
        alone = model(**{name: x[row : row + 1] for name, x in inputs.items()})
        assert int((alone.n_updates > 0).sum()) == length
        assert_close(together.last_hidden_state[row], alone.last_hidden_state[0])
        assert torch.equal(together.n_updates[row], alone.n_updates[0])


def test_return_dict_may_be_given_by_position():
    model = builders.model(aaf.AlbertActModel)
    ids = torch.tensor([[2, 5, 3]])
    positional = (ids, None, None, None, None, None, False, False, False)
    with torch.no_grad():
        assert isinstance(model(*positional), tuple)
        assert not isinstance(model(*positional[:-1], True), tuple)
