"""transformers' own common tests over all heads, on the engine and on the reference, and over its
ALBERT beside them.

A test that ours means to fail has to fail as CHOICES says; one that ours skips has to be skipped
with ALBERT too, or stand in SKIPPED.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import unittest
from fnmatch import filter as filter_names
from fnmatch import fnmatch

import pytest
import torch
import transformers
from support import transformers_suite
from transformers import AlbertConfig

import albert_act_fast as aaf
from albert_act_fast import AlbertActConfig

if (reason := transformers_suite.why_not()) is not None:
    if os.environ.get("CI"):
        raise RuntimeError(f"transformers' own tests: {reason}")
    pytest.skip(f"transformers' own tests: {reason}", allow_module_level=True)

common = transformers_suite.common_tests()
ConfigTester = transformers_suite.configuration_tests().ConfigTester

HEADS = (
    "Model ForPreTraining ForMaskedLM ForMultipleChoice ForSequenceClassification "
    "ForTokenClassification ForQuestionAnswering"
).split()

# Test: what its failure says, and why it is meant.
CHOICES = {
    "test_model_weights_reload_no_missing_tied_weights": (
        "not an ALBERT-ACT checkpoint; 25 weights of the embeddings and the encoder are missing",
        "loads a checkpoint without any weight, which is an error here and no model at random",
    ),
    "test_can_set_attention_dynamically": (
        "got 'foo', expected 'eager', 'sdpa' or nothing: the engine has its own attention",
        "other names are refused, as wanted, but with what to do here instead",
    ),
    "test_sdpa_can_dispatch_non_composite_models": (
        "False is not true",
        "the default is 'eager': it chooses nothing here, and lets config.output_attentions be set",
    ),
}
_OWN_STATES = "one layer, called once an iteration: the loop itself collects states, not hooks"
# Tests that ours skips and ALBERT does not: why.
SKIPPED = {
    "test_capture_outputs_decorator": _OWN_STATES,
    "test_can_capture_specific_layers_hidden_states": _OWN_STATES,
}


def get_values(mapping) -> list:
    """The suite looks classes up by name to see which labels they take; ours take ALBERT's."""
    names = list(mapping.values())
    return names + [
        name.replace("Albert", "AlbertAct")
        for name in names
        if isinstance(name, str) and name.startswith("Albert")
    ]


common.get_values = get_values


class ModelTester:
    """What the suite asks of a model's tests: a small configuration, and inputs."""

    batch_size, seq_length, num_choices, is_training = 13, 7, 4, True
    num_hidden_layers = 2  # no token halts in the first iteration, so that there are always two
    num_attention_heads, hidden_size, vocab_size, type_vocab_size = 6, 36, 99, 16

    def __init__(self, config_class: type, **fields):
        self.config_class, self.fields = config_class, fields

    def get_config(self):
        return self.config_class(
            vocab_size=self.vocab_size,
            embedding_size=16,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            hidden_act="gelu",
            max_position_embeddings=512,
            type_vocab_size=self.type_vocab_size,
            num_hidden_groups=1,
            **self.fields,
        )

    def prepare_config_and_inputs_for_common(self):
        shape = (self.batch_size, self.seq_length)
        return self.get_config(), {
            "input_ids": common.ids_tensor(shape, self.vocab_size),
            "token_type_ids": common.ids_tensor(shape, self.type_vocab_size),
            "attention_mask": common.random_attention_mask(shape),
        }


class Common(common.ModelTesterMixin):
    """All tests of the suite, for one configuration."""

    def setUp(self):
        self.model_tester = self.make_tester()

    def subTest(self, *args, **kwargs):
        # A failure inside one ends the test, so that CHOICES sees it.
        return contextlib.nullcontext()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class.__name__.endswith("ForPreTraining"):
            shape = (self.model_tester.batch_size, self.model_tester.seq_length)
            inputs["labels"] = torch.zeros(shape, dtype=torch.long)
            inputs["sentence_order_label"] = torch.zeros(shape[0], dtype=torch.long)
        return inputs

    def test_config(self):
        tester = self.model_tester
        fields = {"hidden_size": 36, "num_attention_heads": 6}
        ConfigTester(self, config_class=tester.config_class, **fields).run_common_tests()


class AlbertTest(Common, unittest.TestCase):
    all_model_classes = tuple(getattr(transformers, f"Albert{head}") for head in HEADS)

    def make_tester(self):
        return ModelTester(AlbertConfig)


class OurTests(Common):
    all_model_classes = tuple(getattr(aaf, f"AlbertAct{head}") for head in HEADS)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in dir(cls):
            if name.startswith("test_") and callable(getattr(cls, name)):
                setattr(cls, name, as_stated(name, getattr(cls, name)))


def as_stated(name: str, test):
    """The test, which has to end as CHOICES and SKIPPED say."""
    skipped = next((why for tests, why in SKIPPED.items() if fnmatch(name, tests)), None)

    @functools.wraps(test)
    def run(self, *args, **kwargs):
        ended = None
        try:
            test(self, *args, **kwargs)
        except Exception as error:
            ended = error
        if isinstance(ended, unittest.SkipTest):
            if skipped is not None:
                raise unittest.SkipTest(skipped)
            albert = unittest.TestResult()
            AlbertTest(name).run(albert)
            assert albert.skipped, f"skipped ({ended}), but not with ALBERT; SKIPPED has no reason"
            raise ended
        if ended is not None and name not in CHOICES:
            raise ended
        assert skipped is None, "is not skipped: it does not belong into SKIPPED"
        if name in CHOICES:
            message, _ = CHOICES[name]
            assert ended is not None, "passes: it does not belong into CHOICES"
            assert re.search(message, str(ended)), f"fails otherwise than CHOICES says: {ended}"

    return run


class AutoTest(OurTests, unittest.TestCase):
    def make_tester(self):
        return ModelTester(AlbertActConfig, implementation="auto")


class ReferenceTest(OurTests, unittest.TestCase):
    def make_tester(self):
        return ModelTester(AlbertActConfig, implementation="reference")


def test_what_is_stated_is_a_test():
    assert all(filter_names(dir(AlbertTest), tests) for tests in (*CHOICES, *SKIPPED))
