"""Checkpoints as the published code wrote them, and checkpoints of other architectures."""

import json
import os
import urllib.request

import pytest
import torch
import transformers
from huggingface_hub import constants
from support import models as builders
from support.models import head_output

import albert_act_fast as aaf

LAYER = "encoder.albert_layer"
LINEAR = {
    f"{LAYER}.attention.query": (16, 16),
    f"{LAYER}.attention.key": (16, 16),
    f"{LAYER}.attention.value": (16, 16),
    f"{LAYER}.attention.dense": (16, 16),
    f"{LAYER}.act.dense": (1, 16),
    f"{LAYER}.ffn": (24, 16),
    f"{LAYER}.ffn_output": (16, 24),
    "encoder.embedding_hidden_mapping_in": (16, 8),
    "pooler": (16, 16),
}
NORMS = {"embeddings.LayerNorm": 8, f"{LAYER}.LayerNorm": 16, f"{LAYER}.full_layer_layer_norm": 16}
TABLES = {"word": 40, "position": 20, "token_type": 2}
CONFIG = {
    "act_epsilon": 0.01,
    "embedding_size": 8,
    "gap_size": 0,
    "hidden_act": "gelu",
    "hidden_size": 16,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "net_structure_type": 0,
    "num_attention_heads": 4,
    "num_hidden_layers": 8,
    "transformers_version": "3.3.1",
    "vocab_size": 40,
}


def encoder_weights() -> dict[str, torch.Tensor]:
    """Every key of the published bare model, written out."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return 0.3 * torch.randn(shape, generator=generator)

    weights = {f"embeddings.{name}_embeddings.weight": random(n, 8) for name, n in TABLES.items()}
    for name, shape in LINEAR.items():
        weights |= {f"{name}.weight": random(*shape), f"{name}.bias": random(shape[0])}
    for name, width in NORMS.items():
        weights |= {f"{name}.weight": 1 + random(width), f"{name}.bias": random(width)}
    return weights


def head_weights(words: torch.Tensor) -> dict[str, torch.Tensor]:
    """The published pre-training heads."""
    bias = torch.randn(40)
    return {
        "predictions.bias": bias,
        "predictions.LayerNorm.weight": torch.rand(8) + 0.5,
        "predictions.LayerNorm.bias": torch.randn(8),
        "predictions.dense.weight": torch.randn(8, 16),
        "predictions.dense.bias": torch.randn(8),
        "predictions.decoder.weight": words,
        "predictions.decoder.bias": bias,
        "sop_classifier.classifier.weight": torch.randn(2, 16),
        "sop_classifier.classifier.bias": torch.randn(2),
    }


def write(path, weights, model_type: str | None = "albert_act", **config) -> None:
    torch.save(weights, path / "pytorch_model.bin")
    written = CONFIG | config | ({} if model_type is None else {"model_type": model_type})
    (path / "config.json").write_text(json.dumps(written))


def prefixed(weights: dict, prefix: str = "albert.") -> dict:
    return {prefix + name: tensor for name, tensor in weights.items()}


OLD_KEYS = {"embeddings.position_ids": torch.arange(20)[None]}


@pytest.mark.parametrize("prefix", ["", "albert."])
@pytest.mark.parametrize("extra", [{}, OLD_KEYS], ids=["plain", "position_ids"])
@pytest.mark.parametrize("model_type", ["albert_act", "albert", None])
def test_the_bare_model(prefix, extra, model_type, tmp_path):
    weights = encoder_weights()
    write(tmp_path, prefixed(weights | extra, prefix), model_type)
    model, info = aaf.AlbertActModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert model.state_dict().keys() == weights.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert torch.equal(model.embeddings.position_ids, torch.arange(20)[None])


@pytest.mark.parametrize("prefix", ["", "albert."])
@pytest.mark.parametrize("extra", [{}, OLD_KEYS], ids=["plain", "position_ids"])
@pytest.mark.parametrize("cls", builders.TASKS)
def test_task_models(cls, prefix, extra, tmp_path):
    weights = encoder_weights()
    write(tmp_path, prefixed(weights | extra, prefix))
    model, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    for name, tensor in model.albert.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert not any(name.startswith("albert.") for name in info["missing_keys"])
    assert head_output(model(**builders.batch(cls))).isfinite().all()


@pytest.mark.parametrize("cls", [aaf.AlbertActForPreTraining, aaf.AlbertActForMaskedLM])
@pytest.mark.parametrize("without", [(), ("decoder.bias",), ("decoder.weight",), ("bias",)])
def test_pre_training_heads(cls, without, tmp_path):
    weights = encoder_weights()
    heads = head_weights(weights["embeddings.word_embeddings.weight"])
    written = {k: v for k, v in heads.items() if k.removeprefix("predictions.") not in without}
    write(tmp_path, prefixed(weights | OLD_KEYS) | written)
    model, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.predictions.decoder.weight is model.get_input_embeddings().weight
    assert model.predictions.decoder.bias is model.predictions.bias
    state = model.state_dict()
    for name, tensor in heads.items():
        if name in state:
            assert torch.equal(state[name], tensor), name


def test_a_file_written_in_the_old_layout_holds_exactly_our_keys(tmp_path):
    model = builders.model(aaf.AlbertActForPreTraining)
    words = torch.zeros(40, 8)
    assert model.state_dict().keys() == (
        prefixed(encoder_weights()).keys() | head_weights(words).keys()
    )


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_distance_embeddings(kind, tmp_path):
    distance = f"{LAYER}.attention.distance_embedding.weight"
    weights = encoder_weights() | {distance: torch.randn(39, 4)}
    write(tmp_path, weights, position_embedding_type=kind)
    model, info = aaf.AlbertActModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(model.get_parameter(distance), weights[distance])


def test_unknown_keys_are_told_and_tolerated(tmp_path):
    unknown = {"encoder.steps": torch.zeros(3), "sop.weight": torch.ones(2, 2)}
    write(tmp_path, encoder_weights() | unknown)
    model, info = aaf.AlbertActModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["unexpected_keys"]) == set(unknown)
    assert model(**builders.batch()).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("cls", builders.MODELS)
def test_missing_weights_of_the_encoder_are_named(cls, tmp_path):
    weights = encoder_weights()
    lost = [f"{LAYER}.act.dense.weight", "embeddings.word_embeddings.weight"]
    for name in lost:
        del weights[name]
    write(tmp_path, prefixed(weights))
    with pytest.raises(ValueError, match="2 weights of the embeddings and the encoder") as error:
        cls.from_pretrained(tmp_path)
    assert all(name in str(error.value) for name in lost)
    assert str(tmp_path) in str(error.value)


def test_a_missing_pooler_is_told_and_tolerated(tmp_path):
    weights = {k: v for k, v in encoder_weights().items() if not k.startswith("pooler")}
    write(tmp_path, weights)
    model, info = aaf.AlbertActModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"pooler.weight", "pooler.bias"}
    assert model(**builders.batch()).pooler_output.isfinite().all()


def test_files_that_would_run_code_are_not_opened(tmp_path):
    marker = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    write(tmp_path, encoder_weights() | {"attack": Attack()})
    with pytest.raises(Exception, match=r"(?i)weights.?only"):
        aaf.AlbertActModel.from_pretrained(tmp_path)
    assert not marker.exists()


SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
}


@pytest.mark.parametrize("cls", builders.MODELS)
def test_a_checkpoint_of_albert_is_refused(cls, tmp_path):
    config = transformers.AlbertConfig(**SMALL, embedding_size=8)
    transformers.AlbertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not an ALBERT-ACT checkpoint") as error:
        cls.from_pretrained(tmp_path)
    assert "encoder.albert_layer.act.dense.weight" in str(error.value)
    assert "albert_layer_groups" in str(error.value)


@pytest.mark.parametrize("cls", builders.MODELS)
def test_a_checkpoint_of_bert_is_refused(cls, tmp_path):
    transformers.BertModel(transformers.BertConfig(**SMALL)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'bert'.*checkpoint of another architecture"):
        cls.from_pretrained(tmp_path)


@pytest.fixture(scope="module")
def published_model() -> aaf.AlbertActModel:
    name = "asi/albert-act-base"
    try:
        return aaf.AlbertActModel.from_pretrained(name, local_files_only=True)
    except OSError:
        pass  # not in the cache
    try:
        if constants.is_offline_mode():
            pytest.skip(f"{name} is not in the cache, and HF_HUB_OFFLINE is set")
        # The hub's client would repeat a failing request for half a minute.
        urllib.request.urlopen(f"{constants.ENDPOINT}/{name}", timeout=3).close()
        return aaf.AlbertActModel.from_pretrained(name)
    except OSError as error:
        pytest.skip(f"the weights of {name} cannot be loaded here: {error}")


@pytest.mark.parametrize("implementation", ["reference", "auto"])
def test_the_published_example(published_model, implementation):
    input_ids = "2 17 11900 14 8 772 11 8 20797 14527 12 95 1096 2365 76 3"
    with torch.no_grad():
        output = published_model(
            torch.tensor([[int(i) for i in input_ids.split()]]), implementation=implementation
        )
    expected = [15, 9, 10, 7, 3, 8, 5, 7, 12, 10, 6, 8, 8, 9, 5, 8]
    assert output.updates.tolist() == [[[expected]]]
