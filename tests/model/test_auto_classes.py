"""The models under transformers' Auto classes."""

import json

import pytest
import torch
import transformers
from support import models as builders
from support.models import head_output

import albert_act_fast as aaf

AUTO = {
    transformers.AutoModel: aaf.AlbertActModel,
    transformers.AutoModelForPreTraining: aaf.AlbertActForPreTraining,
    transformers.AutoModelForMaskedLM: aaf.AlbertActForMaskedLM,
    transformers.AutoModelForSequenceClassification: aaf.AlbertActForSequenceClassification,
    transformers.AutoModelForTokenClassification: aaf.AlbertActForTokenClassification,
    transformers.AutoModelForQuestionAnswering: aaf.AlbertActForQuestionAnswering,
    transformers.AutoModelForMultipleChoice: aaf.AlbertActForMultipleChoice,
}


@pytest.mark.parametrize(("auto", "cls"), AUTO.items())
def test_from_config(auto, cls):
    model = auto.from_config(builders.config(), dtype=torch.bfloat16)
    assert type(model) is cls
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize(("auto", "cls"), AUTO.items())
@torch.no_grad()
def test_from_pretrained(auto, cls, tmp_path):
    model, inputs = builders.model(cls), builders.batch(cls)
    model.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path)
    assert type(loaded) is cls
    assert torch.equal(head_output(loaded(**inputs)), head_output(model(**inputs)))


def test_auto_config(tmp_path):
    config = builders.config(act_epsilon=0.3)
    config.save_pretrained(tmp_path)
    loaded = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is aaf.AlbertActConfig
    assert loaded.act_epsilon == 0.3
    assert type(transformers.AutoConfig.for_model("albert_act")) is aaf.AlbertActConfig


def test_albert_itself_is_left_alone(tmp_path):
    config = transformers.AlbertConfig(
        vocab_size=40, embedding_size=8, hidden_size=16, num_attention_heads=4, intermediate_size=24
    )
    transformers.AlbertModel(config).save_pretrained(tmp_path)
    assert type(transformers.AutoConfig.from_pretrained(tmp_path)) is transformers.AlbertConfig
    assert type(transformers.AutoModel.from_pretrained(tmp_path)) is transformers.AlbertModel


def test_a_directory_names_the_class_that_wrote_it(tmp_path):
    builders.model(aaf.AlbertActForMaskedLM).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == ["AlbertActForMaskedLM"]
    assert hasattr(aaf, written["architectures"][0])
