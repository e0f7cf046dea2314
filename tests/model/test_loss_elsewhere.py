"""A loss that the Trainer computes itself: the ponder cost is not dropped without a word."""

from __future__ import annotations

import pytest
from support import models as builders
from transformers.utils import logging

import albert_act_fast as aaf
from tests.model.test_trainer import make_trainer


@pytest.fixture
def warnings(monkeypatch):
    """What transformers' loggers warn of, each message as often as it is said."""
    said = []
    logging.warning_once.cache_clear()
    monkeypatch.setattr(
        "logging.Logger.warning", lambda logger, message, *args, **kwargs: said.append(str(message))
    )
    yield said
    logging.warning_once.cache_clear()


def of_ponder_cost(warnings) -> list[str]:
    return [message for message in warnings if "ponder cost" in message]


def test_label_smoothing_says_once_that_the_ponder_cost_is_left_out(tmp_path, warnings):
    model = builders.model(aaf.AlbertActForSequenceClassification, act_tau=1e-3)
    trainer = make_trainer(model, tmp_path, label_smoothing_factor=0.1)
    assert trainer.train().global_step == 4
    (message,) = of_ponder_cost(warnings)
    assert "act_tau=0.001" in message
    assert "label smoothing" in message
    assert "act_loss" in message


@pytest.mark.parametrize("tau", [None, 0.0])
def test_without_a_ponder_cost_there_is_nothing_to_say(tmp_path, warnings, tau):
    model = builders.model(aaf.AlbertActForSequenceClassification, act_tau=tau)
    make_trainer(model, tmp_path, label_smoothing_factor=0.1).train()
    assert of_ponder_cost(warnings) == []


def test_the_model_s_own_loss_has_it(tmp_path, warnings):
    model = builders.model(aaf.AlbertActForSequenceClassification, act_tau=1e-3)
    make_trainer(model, tmp_path).train()
    assert of_ponder_cost(warnings) == []


def test_what_the_message_names_can_be_imported():
    assert callable(aaf.act_loss)
