"""Input embeddings, their replacement by inputs_embeds, resizing, and the weights tied to them."""

import copy

import pytest
import torch
from support import models as builders
from support.models import MODELS, assert_close, base_of, head_output
from torch import nn

import albert_act_fast as aaf

VOCABULARY_MODELS = (aaf.AlbertActForPreTraining, aaf.AlbertActForMaskedLM)


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("implementation", ["reference", "auto"])
@torch.no_grad()
def test_inputs_embeds_equal_input_ids(cls, implementation):
    model, inputs = builders.model(cls), builders.batch(cls)
    expected = model(**inputs, implementation=implementation)
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    output = model(**inputs, inputs_embeds=embeds, implementation=implementation)
    assert torch.equal(head_output(output), head_output(expected))
    assert torch.equal(output.n_updates, expected.n_updates)


def test_gradients_reach_inputs_embeds():
    model, inputs = builders.model(), builders.batch()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    embeds = model.get_input_embeddings()(inputs.pop("input_ids")).requires_grad_()
    model(**inputs, inputs_embeds=embeds).last_hidden_state.pow(2).sum().backward()
    gradient, token = embeds.grad, inputs["attention_mask"].bool()
    assert not gradient[~token].any()
    assert gradient[token].any(-1).all()


@pytest.mark.parametrize("implementation", ["reference", "auto"])
@torch.no_grad()
def test_token_types_and_positions_default_to_zeros_and_columns(implementation):
    model, ids = builders.model(), builders.ids(2, 6)

    def run(**arguments):
        return model(ids, implementation=implementation, **arguments).last_hidden_state

    expected = run()
    columns = torch.arange(6)
    assert torch.equal(run(token_type_ids=torch.zeros(2, 6, dtype=torch.int64)), expected)
    for positions in (columns, columns[None], columns.expand(2, 6), columns.int()):
        assert torch.equal(run(position_ids=positions), expected)
    assert not torch.allclose(run(token_type_ids=torch.ones(2, 6, dtype=torch.int64)), expected)
    assert not torch.allclose(run(position_ids=columns.flip(0)), expected)


@pytest.mark.parametrize("cls", MODELS)
@torch.no_grad()
def test_input_embeddings_can_be_read_and_replaced(cls):
    model, inputs = builders.model(cls), builders.batch(cls)
    before = head_output(model(**inputs))
    replacement = nn.Embedding(40, 8)
    model.set_input_embeddings(replacement)
    assert model.get_input_embeddings() is replacement
    assert base_of(model).embeddings.word_embeddings is replacement
    assert not torch.allclose(head_output(model(**inputs)), before)


@pytest.mark.parametrize("cls", MODELS)
@torch.no_grad()
def test_growing_keeps_what_was_there_and_accepts_the_new_ids(cls):
    model, inputs = builders.model(cls), builders.batch(cls)
    before = model(**inputs)
    old_rows = model.get_input_embeddings().weight.clone()
    embeddings = model.resize_token_embeddings(50)
    assert embeddings is model.get_input_embeddings()
    assert embeddings.weight.shape == (50, 8)
    assert model.config.vocab_size == 50
    assert torch.equal(embeddings.weight[:40], old_rows)
    after = model(**inputs)
    assert torch.equal(after.n_updates, before.n_updates)
    logits = head_output(after)
    if cls in VOCABULARY_MODELS:
        assert logits.size(-1) == 50
        logits = logits[..., :40]
    assert_close(logits, head_output(before))
    with_new = inputs | {"input_ids": inputs["input_ids"].masked_fill(inputs["input_ids"] > 20, 49)}
    for implementation in ("reference", "auto"):
        assert head_output(model(**with_new, implementation=implementation)).isfinite().all()
    with pytest.raises(ValueError, match=r"input_ids: got values from 0 to 50, expected 0 to 49"):
        model(
            **(
                inputs
                | {"input_ids": inputs["input_ids"].masked_fill(inputs["input_ids"] > 20, 50)}
            )
        )


@pytest.mark.parametrize("cls", MODELS)
@torch.no_grad()
def test_shrinking_drops_the_last_ids(cls):
    model, inputs = builders.model(cls), builders.batch(cls)
    inputs["input_ids"] = inputs["input_ids"] % 30
    before = head_output(model(**inputs))
    model.resize_token_embeddings(30)
    after = head_output(model(**inputs))
    if cls in VOCABULARY_MODELS:
        assert after.size(-1) == 30
        before = before[..., :30]
    assert_close(after, before)
    with pytest.raises(ValueError, match="expected 0 to 29"):
        model(**(inputs | {"input_ids": inputs["input_ids"].clamp_min(30)}))


@pytest.mark.parametrize("cls", VOCABULARY_MODELS)
def test_a_resized_model_trains_on_the_new_ids(cls):
    model, inputs = builders.model(cls), builders.batch(cls, labels=True)
    model.resize_token_embeddings(64, pad_to_multiple_of=32)
    inputs["labels"] = inputs["labels"].masked_fill(inputs["labels"] >= 0, 63)
    model(**inputs).loss.backward()
    assert model.predictions.bias.grad.shape == (64,)
    assert model.get_input_embeddings().weight.grad[63].any()


def assert_tied(model) -> None:
    decoder = model.predictions.decoder
    assert decoder.weight is model.albert.embeddings.word_embeddings.weight
    assert decoder.bias is model.predictions.bias
    assert decoder is model.get_output_embeddings()
    rows = model.config.vocab_size
    assert decoder.weight.shape == (rows, 8)
    assert decoder.bias.shape == (rows,)
    assert decoder.out_features == rows


@pytest.mark.parametrize("cls", VOCABULARY_MODELS)
@pytest.mark.parametrize("state", ["made", "grown", "shrunk", "copied", "cast", "loaded", "read"])
def test_the_decoder_stays_tied_to_the_word_embeddings(cls, state, tmp_path):
    model = builders.model(cls)
    if state == "grown":
        model.resize_token_embeddings(50)
    elif state == "shrunk":
        model.resize_token_embeddings(30)
    elif state == "copied":
        model = copy.deepcopy(model)
    elif state == "cast":
        model = model.to(torch.bfloat16)
    elif state == "loaded":
        model.save_pretrained(tmp_path)
        model = cls.from_pretrained(tmp_path)
    elif state == "read":
        other = cls(builders.config())
        other.load_state_dict(model.state_dict())
        model = other
    assert_tied(model)
    names = [name for name, _ in model.named_parameters()]
    assert "predictions.decoder.weight" not in names
    assert "predictions.decoder.bias" not in names


@pytest.mark.parametrize("cls", VOCABULARY_MODELS)
def test_output_embeddings_can_be_replaced_and_tied_again(cls):
    model = builders.model(cls)
    replacement = nn.Linear(8, 40)
    model.set_output_embeddings(replacement)
    assert model.get_output_embeddings() is replacement
    assert model.predictions.bias is replacement.bias
    model.tie_weights()
    assert_tied(model)


@pytest.mark.parametrize("cls", VOCABULARY_MODELS)
def test_untied_where_the_configuration_says_so(cls):
    model = builders.model(cls, tie_word_embeddings=False)
    assert model.predictions.decoder.weight is not model.get_input_embeddings().weight
    assert model.predictions.decoder.bias is model.predictions.bias
    model(**builders.batch(cls, labels=True)).loss.backward()
    assert model.predictions.decoder.weight.grad.any()
    assert model.predictions.bias.grad.any()


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("cls", VOCABULARY_MODELS)
@torch.no_grad()
def test_resized_models_load_again(cls, tie, tmp_path):
    model = builders.model(cls, tie_word_embeddings=tie)
    model.resize_token_embeddings(50)
    model.predictions.decoder.bias.normal_()
    model.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    inputs = builders.batch(cls)
    assert torch.equal(head_output(loaded(**inputs)), head_output(model(**inputs)))


@torch.no_grad()
def test_relative_positions_take_the_place_of_position_embeddings():
    model = builders.model(position_embedding_type="relative_key_query")
    inputs = builders.batch()
    expected = model(**inputs).last_hidden_state
    model.embeddings.position_embeddings.weight.normal_()
    assert torch.equal(model(**inputs).last_hidden_state, expected)
    model.encoder.albert_layer.attention.distance_embedding.weight.normal_()
    assert not torch.allclose(model(**inputs).last_hidden_state, expected)
