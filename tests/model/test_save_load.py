"""Saving and loading in transformers' own layouts."""

import json

import pytest
import torch
from safetensors.torch import load_file
from support import models as builders
from support.models import MODELS, TASKS, head_output

import albert_act_fast as aaf


def assert_same_weights(actual, expected) -> None:
    given, wanted = actual.state_dict(), expected.state_dict()
    assert given.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(given[name], tensor), name


@pytest.mark.parametrize("cls", MODELS)
@torch.no_grad()
def test_there_and_back(cls, tmp_path):
    model, inputs = builders.model(cls, act_epsilon=0.2), builders.batch(cls)
    model.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert not loaded.training
    assert loaded.config.act_epsilon == 0.2
    assert loaded.config.architectures == [cls.__name__]
    assert_same_weights(loaded, model)
    assert torch.equal(head_output(loaded(**inputs)), head_output(model(**inputs)))
    second = tmp_path / "again"
    loaded.save_pretrained(second)
    first_file, second_file = (load_file(path / "model.safetensors") for path in (tmp_path, second))
    assert first_file.keys() == second_file.keys()
    assert all(torch.equal(first_file[name], second_file[name]) for name in first_file)


@pytest.mark.parametrize("cls", MODELS)
def test_sharded(cls, tmp_path):
    model = builders.model(cls)
    model.save_pretrained(tmp_path, max_shard_size="3KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert_same_weights(cls.from_pretrained(tmp_path), model)


@pytest.mark.parametrize("cls", TASKS)
def test_the_bare_model_loads_from_a_task_model(cls, tmp_path):
    model = builders.model(cls)
    model.save_pretrained(tmp_path)
    loaded, info = aaf.AlbertActModel.from_pretrained(tmp_path, output_loading_info=True)
    expected = model.albert.state_dict()
    given = loaded.state_dict()
    assert all(torch.equal(given[name], tensor) for name, tensor in expected.items())
    assert (loaded.pooler is None) == (model.albert.pooler is None)
    assert not info["missing_keys"]


def test_a_bare_model_without_a_pooler_is_complete_without(tmp_path):
    config = builders.config()
    model = aaf.AlbertActModel(config, add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    assert config.add_pooling_layer  # of the next model made from it
    assert aaf.AlbertActModel(config).pooler is not None
    loaded, info = aaf.AlbertActModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())  # so that transformers reports nothing
    assert loaded.pooler is None
    assert aaf.AlbertActModel(loaded.config).pooler is None
    asked, info = aaf.AlbertActModel.from_pretrained(
        tmp_path, add_pooling_layer=True, output_loading_info=True
    )
    assert asked.pooler is not None
    assert info["missing_keys"] == {"pooler.weight", "pooler.bias"}


def test_a_head_that_needs_a_pooler_has_one_whatever_the_bare_model_had(tmp_path):
    aaf.AlbertActModel(builders.config(), add_pooling_layer=False).save_pretrained(tmp_path)
    model = aaf.AlbertActForSequenceClassification.from_pretrained(tmp_path)
    assert model.albert.pooler is not None
    model.save_pretrained(tmp_path / "trained")
    bare, info = aaf.AlbertActModel.from_pretrained(tmp_path / "trained", output_loading_info=True)
    assert torch.equal(bare.pooler.weight, model.albert.pooler.weight)
    assert not info["missing_keys"]


@pytest.mark.parametrize("cls", TASKS)
def test_a_task_model_loads_the_bare_model_and_gets_a_fresh_head(cls, tmp_path):
    model = builders.model()
    model.save_pretrained(tmp_path)
    loaded, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    given = loaded.albert.state_dict()
    expected = model.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in given.items())
    missing = set(info["missing_keys"])
    assert missing
    assert not any(name.startswith("albert.") for name in missing)
    for name in missing:
        parameter = loaded.get_parameter(name)
        assert parameter.device.type == "cpu"
        assert parameter.isfinite().all()
    assert head_output(loaded(**builders.batch(cls))).isfinite().all()


def test_a_head_of_another_size_needs_to_be_asked_for(tmp_path):
    cls = aaf.AlbertActForSequenceClassification
    builders.model(cls).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        cls.from_pretrained(tmp_path, num_labels=5)
    model = cls.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert model(**builders.batch()).logits.shape == (4, 5)


def test_settings_of_this_package_may_be_given_when_loading(tmp_path):
    builders.model().save_pretrained(tmp_path)
    model = aaf.AlbertActModel.from_pretrained(
        tmp_path, implementation="reference", act_epsilon=0.9
    )
    assert model.config.implementation == "reference"
    deeper = aaf.AlbertActModel.from_pretrained(tmp_path)
    inputs = builders.batch()
    with torch.no_grad():
        assert model(**inputs).n_updates.sum() < deeper(**inputs).n_updates.sum()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, "float16"])
@pytest.mark.parametrize("cls", MODELS)
def test_dtype_when_loading(cls, dtype, tmp_path):
    model = builders.model(cls)
    model.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path, dtype=dtype)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {p.dtype for p in loaded.parameters()} == {wanted}
    assert loaded.dtype == wanted
    assert_same_weights(loaded, model.to(wanted))
    with torch.no_grad():
        assert head_output(loaded(**builders.batch(cls))).dtype == wanted


def test_a_half_model_is_saved_and_loaded_as_one(tmp_path):
    model = builders.model().bfloat16()
    model.save_pretrained(tmp_path)
    assert aaf.AlbertActModel.from_pretrained(tmp_path).dtype == torch.bfloat16
    upcast = aaf.AlbertActModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert_same_weights(upcast, model.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_config(dtype):
    model = aaf.AlbertActForMaskedLM._from_config(builders.config(), dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.config.vocab_size == 40


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
@torch.no_grad()
def test_relative_positions_are_saved_too(kind, tmp_path):
    model, inputs = builders.model(position_embedding_type=kind), builders.batch()
    model.save_pretrained(tmp_path)
    loaded = aaf.AlbertActModel.from_pretrained(tmp_path)
    assert loaded.config.position_embedding_type == kind
    assert torch.equal(loaded(**inputs).last_hidden_state, model(**inputs).last_hidden_state)


def test_loading_uses_the_given_state_dict():
    model = builders.model()
    loaded = aaf.AlbertActModel.from_pretrained(
        None, config=model.config, state_dict=model.state_dict()
    )
    assert_same_weights(loaded, model)


def test_the_loading_info_is_left_out_unless_asked_for(tmp_path):
    builders.model().save_pretrained(tmp_path)
    assert isinstance(aaf.AlbertActModel.from_pretrained(tmp_path), aaf.AlbertActModel)


def test_nothing_to_load_is_an_error_that_names_the_place(tmp_path):
    with pytest.raises(OSError, match=str(tmp_path)):
        aaf.AlbertActModel.from_pretrained(tmp_path)
