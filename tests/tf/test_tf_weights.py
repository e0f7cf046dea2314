"""Weights that TensorFlow wrote, read without TensorFlow: every name of the published code."""

from __future__ import annotations

import importlib.util
import json
import re

import numpy as np
import pytest
import torch
from support import models

import albert_act_fast as aaf
from albert_act_fast import tf_names, tf_weights
from tests.model.test_published_checkpoints import CONFIG, encoder_weights
from tests.tf import names

h5py = pytest.importorskip("h5py", reason="h5py is not installed (requirements/dev.txt)")


def write_h5(path, variables: dict[str, np.ndarray], scope: str) -> None:
    """As Keras' `save_weights` lays it out."""
    with h5py.File(path, "w") as file:
        layers: dict[str, list[str]] = {}
        for name in variables:
            own = name.split("/")[0] in ("predictions", "sop_classifier", "classifier")
            layer = name.split("/")[0] if own else "albert"
            layers.setdefault(layer, []).append(name)
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, own in layers.items():
            group = file.create_group(layer)
            for name in own:
                inner = "albert/" if layer == "albert" else ""
                group.create_dataset(f"{scope}/{inner}{name}:0", data=variables[name])


def folder(path, variables, scope="tf_albert_act_model", **config):
    write_h5(path / "tf_model.h5", variables, scope)
    (path / "config.json").write_text(json.dumps(CONFIG | {"model_type": "albert_act"} | config))
    return path


def test_the_table_has_every_weight_of_ours_and_of_theirs():
    ours = {row.ours for row in tf_names.ENCODER}
    assert ours == set(encoder_weights())
    assert {row.keras for row in tf_names.ENCODER} == set(names.keras_variables())
    assert {row.pretraining for row in tf_names.TABLE if row.pretraining} == {
        *names.PRETRAINING,
        "output_weights",
        "output_bias",
    }
    for column in ("ours", "keras"):
        told = [getattr(row, column) for row in tf_names.TABLE]
        assert len(told) == len(set(told))


def test_a_bare_model_of_the_published_class(tmp_path):
    variables = names.values(names.keras_variables())
    model, info = aaf.AlbertActModel.from_pretrained(
        folder(tmp_path, variables), from_tf=True, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not model.training
    state = model.state_dict()
    for row in tf_names.ENCODER:
        given = torch.from_numpy(variables[row.keras])
        assert torch.equal(state[row.ours], given.T if row.transposed else given), row.ours
    # A square kernel that was not transposed would show here alone.
    kernel = variables["pooler/kernel"]
    hidden = torch.randn(3, 16)
    expected = hidden.numpy() @ kernel + variables["pooler/bias"]
    np.testing.assert_allclose(model.pooler(hidden).detach(), expected, rtol=1e-4, atol=1e-5)


def test_pre_training_heads_take_the_bias_that_keras_adds(tmp_path):
    variables = names.values(names.keras_variables() | names.HEADS)
    folder(tmp_path, variables, "tf_albert_act_for_pre_training")
    model = aaf.AlbertActForPreTraining.from_pretrained(tmp_path, from_tf=True)
    bias = torch.from_numpy(variables["predictions/decoder/bias"])
    assert torch.equal(model.predictions.bias, bias)
    assert torch.equal(model.predictions.decoder.bias, bias)
    words = torch.from_numpy(variables["embeddings/word_embeddings/weight"])
    assert torch.equal(model.predictions.decoder.weight, words)
    bare = aaf.AlbertActModel.from_pretrained(tmp_path, from_tf=True)
    assert torch.equal(bare.embeddings.word_embeddings.weight, words)


@pytest.mark.parametrize("cls", [aaf.AlbertActModel, *models.TASKS])
def test_there_and_back(cls, tmp_path):
    model = models.model(cls)
    tf_weights.write_h5(model, tmp_path / "tf_model.h5")
    model.config.save_pretrained(tmp_path)
    again, info = cls.from_pretrained(tmp_path, from_tf=True, output_loading_info=True)
    assert not info["missing_keys"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_what_is_missing_and_what_is_too_much_is_named(tmp_path, caplog):
    variables = names.values(names.keras_variables() | {"encoder/albert_layer/act/more": (3,)})
    folder(tmp_path, variables)
    with caplog.at_level("WARNING"):
        found = tf_weights.read(tmp_path)
    assert [name.split("/")[-1] for name in found.unknown] == ["more:0"]
    del variables["encoder/albert_layer/act/dense/kernel"]
    folder(tmp_path, variables)
    with pytest.raises(ValueError, match=r"encoder\.albert_layer\.act\.dense\.weight"):
        aaf.AlbertActModel.from_pretrained(tmp_path, from_tf=True)


def test_a_name_that_ends_like_a_known_one_is_not_taken_for_it():
    for variable in (
        "tf_model/albert/encoder/other_layer/classifier/kernel",
        "tf_model/albert/transformer/pooler/kernel",
        "bert/encoder/transformer/attention_2/self/query/kernel",
        "bert/encoder/transformer/group_1/inner_group_0/ffn_1/intermediate/dense/kernel",
    ):
        assert tf_names.find(variable) is None, variable


def test_spellings_of_the_pre_training_code():
    for variable in (
        "bert/encoder/transformer/LayerNorm_1/gamma",
        "transformer/layer_normalization_1/gamma:0",
        "bert/encoder/transformer/group_0/inner_group_0/LayerNorm_1/gamma",
    ):
        row, transposed = tf_names.find(variable)
        assert row.ours == "encoder.albert_layer.full_layer_layer_norm.weight"
        assert not transposed
    row, transposed = tf_names.find(
        "bert/encoder/transformer/sigmoid_activation_for_pondering/dense/kernel"
    )
    assert (row.ours, transposed) == ("encoder.albert_layer.act.dense.weight", True)
    row, _ = tf_names.find("tf_albert_act_model/albert/encoder/while/albert_layer/ffn/kernel:0")
    assert row.ours == "encoder.albert_layer.ffn.weight"
    for variable in names.BESIDE:
        assert tf_names.is_no_weight(variable)
    for variable in names.PRETRAINING:
        assert not tf_names.is_no_weight(variable)
        assert tf_names.find(variable)[0].pretraining == variable
    assert tf_names.find("cls/seq_relationship/output_weights")[1] is False
    assert tf_names.find("sop_classifier/classifier/kernel")[1] is True


def test_two_variables_of_one_weight(tmp_path):
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        for scope in ("one", "two"):
            file.create_dataset(f"{scope}/albert/pooler/bias:0", data=np.zeros(3))
    with pytest.raises(ValueError, match=r"are both pooler\.bias, expected one"):
        tf_weights.read(tmp_path)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    folder(tmp_path, names.values(names.keras_variables()))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"albert_act_fast\[h5\]"):
        aaf.AlbertActModel.from_pretrained(tmp_path, from_tf=True)


def test_without_tensorflow_the_class_can_be_imported_and_not_used():
    pytest.importorskip  # noqa: B018
    spec = importlib.util.find_spec("tensorflow")
    if spec is not None and spec.origin is not None:
        pytest.skip("TensorFlow is installed here: tests/tf/test_tf_model.py uses it")
    from albert_act_fast import TFAlbertActModel

    for use in (
        lambda: TFAlbertActModel(aaf.AlbertActConfig()),
        lambda: TFAlbertActModel.from_pretrained("folder"),
    ):
        with pytest.raises(ImportError, match=r"albert_act_fast\[tensorflow\]"):
            use()
    assert "TFAlbertActModel" in dir(aaf)
    assert "TFAlbertActModel" not in aaf.__all__


class TestConvert:
    @pytest.fixture
    def run(self):
        from typer.testing import CliRunner

        from albert_act_fast.cli.app import app

        return lambda *args: CliRunner().invoke(app, ["convert", *map(str, args)])

    def test_a_folder(self, run, tmp_path):
        (tmp_path / "in").mkdir()
        variables = names.values(names.keras_variables() | names.HEADS | {"albert/odd": (2,)})
        folder(tmp_path / "in", variables, "tf_albert_act_for_pre_training")
        (tmp_path / "in" / "spiece.model").write_bytes(b"as it is")
        result = run(tmp_path / "in", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert "AlbertActForPreTraining" in result.stdout
        assert re.search(r"left out: .*odd", result.stderr)
        assert (tmp_path / "out" / "spiece.model").read_bytes() == b"as it is"
        model = aaf.AlbertActForPreTraining.from_pretrained(tmp_path / "out")
        direct = aaf.AlbertActForPreTraining.from_pretrained(tmp_path / "in", from_tf=True)
        for name, tensor in direct.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
        assert (
            "which is there; expected a new folder" in run(tmp_path / "in", tmp_path / "out").stderr
        )

    def test_both_ways(self, run, tmp_path):
        model = models.model(aaf.AlbertActForSequenceClassification, num_labels=3)
        model.save_pretrained(tmp_path / "a")
        assert run(tmp_path / "a", tmp_path / "tf", "--to-tf").exit_code == 0
        assert run(tmp_path / "tf", tmp_path / "b").exit_code == 0
        again = aaf.AlbertActForSequenceClassification.from_pretrained(tmp_path / "b")
        assert again.config.num_labels == 3
        for name, tensor in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name

    def test_mistakes_are_one_line(self, run, tmp_path):
        result = run(tmp_path / "nothing", tmp_path / "out")
        assert result.exit_code == 2
        assert "there is no" in result.stderr
        write_h5(tmp_path / "tf_model.h5", names.values(names.keras_variables()), "scope")
        assert "--config:" in run(tmp_path, tmp_path / "out").stderr
        folder(tmp_path, names.values(names.keras_variables()), vocab_size=41)
        shapes = run(tmp_path, tmp_path / "out").stderr
        assert "word_embeddings.weight has shape (40, 8), expected (41, 8)" in shapes
        assert not (tmp_path / "out").exists()
