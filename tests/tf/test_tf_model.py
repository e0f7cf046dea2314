"""`TFAlbertActModel` in TensorFlow itself: `make test-tensorflow` sets up an environment for it."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest
import torch
from support import models

import albert_act_fast as aaf
from tests.tf import names

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip(
        "TensorFlow is not installed (make test-tensorflow has it)", allow_module_level=True
    )

import tensorflow as tf

from albert_act_fast import TFAlbertActModel, tf_weights

FIELDS = ("last_hidden_state", "pooler_output", "updates", "n_updates", "remainders", "ponder_cost")


@pytest.fixture(scope="module")
def model() -> TFAlbertActModel:
    return TFAlbertActModel(models.model())


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in models.batch().items()}


@pytest.fixture(scope="module")
def expected(model, batch) -> dict[str, np.ndarray]:
    with torch.no_grad():
        out = model.model(**{n: torch.from_numpy(a) for n, a in batch.items()})
    return {name: out[name].numpy() for name in FIELDS}


def assert_same(output, expected) -> None:
    for name in FIELDS:
        assert isinstance(output[name], tf.Tensor)
        np.testing.assert_array_equal(output[name].numpy(), expected[name])


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_calls_of_the_published_class(model, batch, expected, dtype):
    tensors = {name: tf.constant(a, dtype) for name, a in batch.items()}
    assert_same(model(**tensors), expected)
    assert_same(model(tensors, training=False), expected)
    assert_same(
        model([tensors["input_ids"], tensors["attention_mask"], tensors["token_type_ids"]]),
        expected,
    )
    assert_same(model(**batch), expected)
    first, *rest = model(tensors, return_dict=False)
    np.testing.assert_array_equal(first.numpy(), expected["last_hidden_state"])
    assert len(rest) == 5
    ids = tf.constant([[2, 7, 9, 3]], dtype)
    alone = model(ids)
    assert alone.updates.shape == (1, 1, 1, 4)
    mask = tf.cast(tensors["attention_mask"], tf.bool)
    assert_same(model({**tensors, "attention_mask": mask}), expected)


def test_attentions_and_states_in_eager_mode(model, batch):
    out = model(**batch, output_attentions=True, output_hidden_states=True)
    assert len(out.hidden_states) == len(out.attentions) + 1
    assert all(isinstance(one, tf.Tensor) for one in (*out.hidden_states, *out.attentions))


def test_inside_a_graph(model, batch, expected):
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64)] * 3)
    def run(input_ids, attention_mask, token_type_ids):
        out = model(input_ids, attention_mask, token_type_ids)
        assert out.last_hidden_state.shape.as_list() == [None, None, 16]
        return dict(out)

    arguments = [batch[n] for n in ("input_ids", "attention_mask", "token_type_ids")]
    assert_same(run(*arguments), expected)
    shorter = run(*(a[:1, :4] for a in arguments))
    assert shorter["n_updates"].shape == (1, 4)

    @tf.function
    def fixed(input_ids):
        out = model(input_ids)
        assert out.updates.shape.as_list() == [2, 1, 1, 5]
        return out.n_updates

    fixed(tf.constant([[2, 7, 9, 8, 3]] * 2))

    @tf.function
    def attentions(input_ids):
        return model(input_ids, output_attentions=True).attentions

    with pytest.raises(ValueError, match="output_attentions: got True inside"):
        attentions(tf.constant([[2, 3]]))


def test_keras_inputs(model, batch, expected):
    inputs = {name: tf.keras.Input([None], dtype="int64", name=name) for name in batch}
    whole = tf.keras.Model(inputs, model(inputs)["pooler_output"])
    found = whole(batch)
    np.testing.assert_array_equal(found.numpy(), expected["pooler_output"])


def test_what_is_not_offered_is_said(model, batch):
    with pytest.raises(ValueError, match="training: got True, expected False"):
        model(**batch, training=True)
    with pytest.raises(TypeError, match="labels: TFAlbertActModel has no such argument"):
        model({**batch, "labels": batch["input_ids"]})
    with pytest.raises(ValueError, match="input_ids: got values from"):
        model(tf.constant([[2, 999]]))


def test_saved_and_loaded(model, batch, expected, tmp_path):
    model.save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "tf_model.h5"]
    assert_same(TFAlbertActModel.from_pretrained(tmp_path)(**batch), expected)
    model.model.save_pretrained(tmp_path / "pt")
    assert_same(TFAlbertActModel.from_pretrained(tmp_path / "pt")(**batch), expected)


def test_keras_reads_what_is_written_as_it_wrote_it(model, tmp_path):
    """The layout is Keras' own: its Dense layer takes the pooler's weights."""
    tf_weights.write_h5(model.model, tmp_path / "tf_model.h5")
    import h5py

    with h5py.File(tmp_path / "tf_model.h5") as file:
        (layer,) = file.attrs["layer_names"]
        group = file[layer]
        weight_names = [
            n if isinstance(n, str) else n.decode() for n in group.attrs["weight_names"]
        ]
        values = {name.split(":")[0]: group[name][()] for name in weight_names}
    dense = tf.keras.layers.Dense(16)
    dense.build([None, 16])
    scope = "tf_albert_act_model/albert/pooler"
    dense.set_weights([values[f"{scope}/kernel"], values[f"{scope}/bias"]])
    hidden = torch.randn(2, 16)
    with torch.no_grad():
        ours = model.model.pooler(hidden).numpy()
    np.testing.assert_allclose(dense(hidden.numpy()).numpy(), ours, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_pre_training(tmp_path):
    variables = names.values(names.PRETRAINING | names.BESIDE)
    graph = tf.Graph()
    with graph.as_default():
        made = [tf.compat.v1.Variable(v, name=n) for n, v in variables.items()]
        saver = tf.compat.v1.train.Saver(made)
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            saver.save(session, str(tmp_path / "model.ckpt"), global_step=7)
    found = tf_weights.read(tmp_path / "model.ckpt-7")
    assert not found.unknown
    assert found.model_class() == "AlbertActForPreTraining"
    assert len(found.weights) == len(names.PRETRAINING)
    query = variables["bert/encoder/transformer/attention_1/self/query/kernel"]
    weights = found.weights["encoder.albert_layer.attention.query.weight"]
    np.testing.assert_array_equal(weights.numpy(), query.T)
    sop = found.weights["sop_classifier.classifier.weight"].numpy()
    np.testing.assert_array_equal(sop, variables["cls/seq_relationship/output_weights"])


def test_convert_a_checkpoint(tmp_path):
    import json

    from typer.testing import CliRunner

    from albert_act_fast.cli.app import app
    from tests.model.test_published_checkpoints import CONFIG

    test_a_checkpoint_of_pre_training(tmp_path)
    (tmp_path / "albert_config.json").write_text(json.dumps(CONFIG))
    command = ["convert", str(tmp_path / "model.ckpt-7"), str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "gelu_new" in result.stderr
    model = aaf.AlbertActForPreTraining.from_pretrained(tmp_path / "out")
    assert model.config.hidden_act == "gelu_new"
