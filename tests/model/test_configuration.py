"""The configuration: defaults, sizes of the published checkpoints, validation, round trips."""

import copy
import json
import pickle
import re

import numpy as np
import pytest
from support import models as builders

import albert_act_fast as aaf


def test_defaults_are_the_published_ones():
    config = aaf.AlbertActConfig()
    assert config.model_type == "albert_act"
    assert config.act_epsilon == 0.01
    assert config.act_tau is None
    assert config.position_embedding_type == "absolute"
    assert config.implementation == "auto"
    assert config.vocab_size == 30000
    assert config.layer_norm_eps == 1e-12


@pytest.mark.parametrize(("name", "iterations"), [("tiny", 6), ("small", 12), ("base", 24)])
def test_sizes_of_the_published_checkpoints(name, iterations):
    config = getattr(aaf.AlbertActConfig, name)()
    expected = {
        "num_hidden_layers": iterations,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "embedding_size": 128,
        "vocab_size": 30000,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "hidden_dropout_prob": 0,
        "attention_probs_dropout_prob": 0,
        "classifier_dropout_prob": 0.1,
        "layer_norm_eps": 1e-12,
        "act_epsilon": 0.01,
        "hidden_act": "gelu",
    }
    assert {key: getattr(config, key) for key in expected} == expected
    overridden = getattr(aaf.AlbertActConfig, name)(hidden_act="gelu_new", num_hidden_layers=3)
    assert (overridden.hidden_act, overridden.num_hidden_layers) == ("gelu_new", 3)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("act_epsilon", 1.0, r"a number in \[0, 1\)"),
        ("act_epsilon", -0.01, r"a number in \[0, 1\)"),
        ("act_epsilon", float("nan"), r"a number in \[0, 1\)"),
        ("act_epsilon", "small", r"a number in \[0, 1\)"),
        ("act_tau", -1.0, "None or a number of at least 0"),
        ("act_tau", "none", "None or a number of at least 0"),
        ("vocab_size", 0, "at least 1"),
        ("num_hidden_layers", 0, "at least 1"),
        ("num_attention_heads", 0, "at least 1"),
        ("hidden_size", 18, "a multiple of num_attention_heads=4"),
        ("position_embedding_type", "rotary", "one of absolute, relative_key, relative_key_query"),
        ("hidden_act", "swishy", r"one of .*gelu, .*relu"),
        ("num_hidden_groups", 2, "1: .*another model"),
        ("inner_group_num", 3, "1: .*another model"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_what_was_expected(field, value, expected):
    message = rf"^{field}: got {re.escape(repr(value))}, expected {expected}"
    with pytest.raises(ValueError, match=message):
        builders.config(**{field: value})
    changed_later = builders.config()
    setattr(changed_later, field, value)
    with pytest.raises(ValueError, match=message):
        aaf.AlbertActModel(changed_later)
    with pytest.raises(ValueError, match=message):
        aaf.AlbertActForMaskedLM(changed_later)


def test_a_whole_number_s_field_takes_no_other():
    # transformers' own check, with an error of its own.
    with pytest.raises(Exception, match=r"'num_hidden_layers' expected int, got float"):
        builders.config(num_hidden_layers=2.5)


def test_an_unknown_implementation_is_refused_at_the_first_call():
    model = builders.model(implementation="fastest")
    with pytest.raises(ValueError, match="got 'fastest', expected one of auto, reference, torch"):
        model(**builders.batch())


@pytest.mark.parametrize("epsilon", [0, 0.01, 0.4, 0.999])
def test_the_threshold_is_rounded_to_float32(epsilon):
    threshold = builders.config(act_epsilon=epsilon).halting_threshold
    assert threshold == float(np.float32(1 - epsilon))


CHANGED = {
    "act_epsilon": 0.2,
    "act_tau": 5e-4,
    "position_embedding_type": "relative_key",
    "implementation": "reference",
    "num_hidden_layers": 11,
    "problem_type": "regression",
    "id2label": {0: "no", 1: "yes", 2: "perhaps"},
}


def through_json(config, path):
    return aaf.AlbertActConfig.from_dict(json.loads(config.to_json_string(use_diff=False)))


def through_file(config, path):
    config.save_pretrained(path)
    return aaf.AlbertActConfig.from_pretrained(path)


def through_dict(config, path):
    return aaf.AlbertActConfig.from_dict(config.to_dict())


def through_pickle(config, path):
    return pickle.loads(pickle.dumps(config))


def through_copy(config, path):
    return copy.deepcopy(config)


@pytest.mark.parametrize(
    "trip", [through_json, through_file, through_dict, through_pickle, through_copy]
)
def test_round_trips_give_an_equal_configuration(trip, tmp_path):
    config = builders.config(**CHANGED)
    again = trip(config, tmp_path)
    assert again is not config
    assert type(again) is aaf.AlbertActConfig
    assert again.to_dict() == config.to_dict()
    assert {key: getattr(again, key) for key in CHANGED} == CHANGED
    assert again != builders.config()


def test_the_file_says_what_it_is_and_keeps_what_differs_from_the_defaults(tmp_path):
    builders.config(**CHANGED).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "albert_act"
    assert written["act_epsilon"] == 0.2
    assert written["act_tau"] == 5e-4


def test_overrides_when_loading(tmp_path):
    builders.config().save_pretrained(tmp_path)
    config = aaf.AlbertActConfig.from_pretrained(tmp_path, act_epsilon=0.3, num_labels=5)
    assert config.act_epsilon == 0.3
    assert config.num_labels == 5
    config, unused = aaf.AlbertActConfig.from_pretrained(
        tmp_path, return_unused_kwargs=True, colour="red"
    )
    assert unused == {"colour": "red"}


@pytest.mark.parametrize("model_type", ["albert_act", "albert", None])
def test_published_configurations_are_read(model_type, tmp_path):
    published = {
        "architectures": ["AlbertActForPreTraining"],
        "act_epsilon": 0.02,
        "gap_size": 0,
        "net_structure_type": 0,
        "num_memory_blocks": 0,
        "down_scale_factor": 1,
        "tau": 1e-3,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "transformers_version": "3.3.1",
    }
    if model_type is not None:
        published["model_type"] = model_type
    (tmp_path / "config.json").write_text(json.dumps(published))
    config = aaf.AlbertActConfig.from_pretrained(tmp_path)
    assert config.model_type == "albert_act"
    assert config.act_epsilon == 0.02
    assert config.hidden_size == 32
    assert config.gap_size == 0
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "albert_act"


def test_a_configuration_of_another_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"says 'bert'; expected one of albert_act, albert\. "):
        aaf.AlbertActConfig.from_pretrained(tmp_path)
