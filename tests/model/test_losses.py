"""The losses of the task models, and the ponder cost that may be added to them."""

import pytest
import torch
from support import models as builders
from support.models import TASKS, assert_close
from torch.nn import functional as F

import albert_act_fast as aaf


def classifier(**overrides):
    return builders.model(aaf.AlbertActForSequenceClassification, **overrides)


@pytest.mark.parametrize("problem_type", [None, "single_label_classification"])
def test_single_label_classification(problem_type):
    model = classifier(num_labels=3, problem_type=problem_type)
    labels = torch.tensor([0, 2, 1, 2])
    output = model(**builders.batch(), labels=labels)
    assert output.logits.shape == (4, 3)
    assert_close(output.loss, F.cross_entropy(output.logits, labels))
    assert model.config.problem_type == "single_label_classification"


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_several_labels_at_once(problem_type):
    model = classifier(num_labels=3, problem_type=problem_type)
    labels = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]).float()
    output = model(**builders.batch(), labels=labels)
    assert_close(output.loss, F.binary_cross_entropy_with_logits(output.logits, labels))
    assert model.config.problem_type == "multi_label_classification"


def test_several_labels_at_once_may_be_integers_where_the_configuration_says_so():
    model = classifier(num_labels=3, problem_type="multi_label_classification")
    labels = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
    output = model(**builders.batch(), labels=labels)
    assert_close(output.loss, F.binary_cross_entropy_with_logits(output.logits, labels.float()))


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("problem_type", [None, "regression"])
def test_regression_of_one_value(problem_type, shape):
    model = classifier(num_labels=1, problem_type=problem_type)
    labels = torch.tensor([0.5, -1.0, 2.0, 0.0]).view(shape)
    output = model(**builders.batch(), labels=labels)
    assert output.logits.shape == (4, 1)
    expected = ((output.logits.view(4) - labels.view(4)) ** 2).mean()
    assert_close(output.loss, expected)
    assert model.config.problem_type == "regression"


def test_regression_of_several_values():
    model = classifier(num_labels=2, problem_type="regression")
    labels = torch.tensor([[0.5, 1.0], [-1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    output = model(**builders.batch(), labels=labels)
    assert_close(output.loss, F.mse_loss(output.logits, labels))


def test_masked_language_model_counts_labelled_tokens_only():
    model = builders.model(aaf.AlbertActForMaskedLM)
    labels = torch.full((4, 9), -100)
    labels[0, 1], labels[3, 4] = 7, 39
    output = model(**builders.batch(), labels=labels)
    log_probabilities = output.logits.log_softmax(-1)
    expected = -(log_probabilities[0, 1, 7] + log_probabilities[3, 4, 39]) / 2
    assert_close(output.loss, expected)


def test_token_classification_counts_labelled_tokens_only():
    model = builders.model(aaf.AlbertActForTokenClassification, num_labels=5)
    labels = torch.full((4, 9), -100)
    labels[0, 1], labels[3, 4] = 4, 0
    output = model(**builders.batch(), labels=labels)
    assert output.logits.shape == (4, 9, 5)
    log_probabilities = output.logits.log_softmax(-1)
    expected = -(log_probabilities[0, 1, 4] + log_probabilities[3, 4, 0]) / 2
    assert_close(output.loss, expected)


def test_pre_training_sums_the_losses_of_the_labels_given():
    cls = aaf.AlbertActForPreTraining
    model, inputs, labels = builders.model(cls), builders.batch(cls), builders.labels_of(cls)
    both = model(**inputs, **labels)
    words = F.cross_entropy(both.prediction_logits.flatten(0, 1), labels["labels"].flatten())
    order = F.cross_entropy(both.sop_logits, labels["sentence_order_label"])
    assert_close(both.loss, words + order)
    assert_close(model(**inputs, labels=labels["labels"]).loss, words)
    only_order = model(**inputs, sentence_order_label=labels["sentence_order_label"])
    assert_close(only_order.loss, order)
    assert model(**inputs).loss is None


def test_span_loss_is_the_mean_of_start_and_end():
    cls = aaf.AlbertActForQuestionAnswering
    model, inputs, labels = builders.model(cls), builders.batch(cls), builders.labels_of(cls)
    output = model(**inputs, **labels)
    start = F.cross_entropy(output.start_logits, labels["start_positions"])
    end = F.cross_entropy(output.end_logits, labels["end_positions"])
    assert_close(output.loss, (start + end) / 2)
    as_column = model(**inputs, **{name: x[:, None] for name, x in labels.items()})
    assert_close(as_column.loss, output.loss)
    assert model(**inputs, start_positions=labels["start_positions"]).loss is None


@pytest.mark.parametrize("outside", [-1, 9, 400])
def test_answers_outside_the_input_count_for_nothing(outside):
    cls = aaf.AlbertActForQuestionAnswering
    model, inputs = builders.model(cls), builders.batch(cls)
    starts, ends = torch.tensor([1, 5, outside, 2]), torch.tensor([3, 7, outside, outside])
    output = model(**inputs, start_positions=starts, end_positions=ends)
    start = F.cross_entropy(output.start_logits[[0, 1, 3]], starts[[0, 1, 3]])
    end = F.cross_entropy(output.end_logits[[0, 1]], ends[[0, 1]])
    assert_close(output.loss, (start + end) / 2)


def test_question_answering_needs_two_labels():
    with pytest.raises(ValueError, match=r"num_labels: got 3, expected 2"):
        aaf.AlbertActForQuestionAnswering(builders.config(num_labels=3))


def test_multiple_choice_scores_every_choice_alone():
    cls = aaf.AlbertActForMultipleChoice
    model, inputs, labels = builders.model(cls), builders.batch(cls), builders.labels_of(cls)
    output = model(**inputs, **labels)
    assert output.logits.shape == (2, 2)
    assert_close(output.loss, F.cross_entropy(output.logits, labels["labels"]))
    for row in range(2):
        for choice in range(2):
            alone = {k: x[row : row + 1, choice : choice + 1] for k, x in inputs.items()}
            assert_close(model(**alone).logits[0, 0], output.logits[row, choice])
    with pytest.raises(ValueError, match=r"input_ids: got shape \(4, 9\), expected 3 dimensions"):
        model(**(inputs | {"input_ids": inputs["input_ids"].flatten(0, 1)}))


@pytest.mark.parametrize("cls", TASKS)
@pytest.mark.parametrize("gradients", [True, False], ids=["reference", "engine"])
def test_the_ponder_cost_is_added_to_the_loss(cls, gradients):
    model, inputs = builders.model(cls), builders.batch(cls, labels=True)
    with torch.set_grad_enabled(gradients):
        plain = model(**inputs)
        weighted = model(**inputs, act_tau=0.25)
        model.config.act_tau = 0.25
        configured = model(**inputs)
        overridden = model(**inputs, act_tau=0.0)
    tokens = builders.mask().bool()
    per_token = plain.n_updates + plain.remainders
    sequences = [per_token[row][tokens[row]].sum() for row in range(4)]
    expected = plain.loss + 0.25 * torch.stack(sequences).mean()
    assert_close(weighted.loss, expected)
    assert_close(configured.loss, expected)
    assert_close(overridden.loss, plain.loss)


@pytest.mark.parametrize("cls", TASKS)
def test_without_labels_there_is_no_loss_to_add_to(cls):
    assert builders.model(cls, act_tau=0.25)(**builders.batch(cls)).loss is None


def test_the_ponder_cost_s_gradient_flows_through_the_remainder_alone():
    cls = aaf.AlbertActForSequenceClassification
    model, inputs = builders.model(cls), builders.batch(cls)
    output = model(**inputs)
    assert not output.n_updates.requires_grad
    weight = model.albert.encoder.albert_layer.act.dense.weight
    (of_cost,) = torch.autograd.grad(output.ponder_cost.sum(), weight, retain_graph=True)
    (of_remainder,) = torch.autograd.grad(output.remainders.sum(), weight)
    assert of_cost.any()
    assert torch.equal(of_cost, of_remainder)


def test_a_larger_tau_makes_a_trained_model_shallower():
    def ponder_cost_after_training(tau: float) -> float:
        cls = aaf.AlbertActForSequenceClassification
        model, inputs = builders.model(cls, act_tau=tau), builders.batch(cls, labels=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
        for _ in range(8):
            optimizer.zero_grad()
            output = model.train()(**inputs)
            output.loss.backward()
            optimizer.step()
        return model(**inputs).ponder_cost.sum().item()

    assert ponder_cost_after_training(1.0) < ponder_cost_after_training(0.0) - 5
