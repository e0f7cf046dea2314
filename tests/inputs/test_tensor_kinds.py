"""What a tensor argument may be: any integer dtype for ids, any strides; a tensor, and no list."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.compare import run
from support.engines import ON_CPU
from support.models import mask_of, random_batch, random_model

from albert_act_fast import AlbertActForMaskedLM, AlbertActForMultipleChoice

every_implementation = pytest.mark.parametrize("implementation", [*ON_CPU, "reference"])
INTEGERS = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.uint32,
    torch.int64,
    torch.uint64,
)
IDS = ("input_ids", "token_type_ids", "position_ids")


@pytest.fixture(scope="module")
def model():
    return random_model(1)


@pytest.fixture(scope="module")
def batch(model):
    batch = random_batch(2, model.config, mask_of([5, 9, 2], padding="left"))
    return batch | {"position_ids": torch.arange(9).flip(0).expand(3, 9)}


@pytest.fixture(scope="module")
def embedded(model, batch):
    """The same batch, as embeddings."""
    embeds = model.embeddings.word_embeddings(batch["input_ids"]).detach()
    return {name: x for name, x in batch.items() if name != "input_ids"} | {"inputs_embeds": embeds}


def assert_same(result, expected):
    for name in expected:
        torch.testing.assert_close(result[name], expected[name], rtol=0, atol=0, msg=name)


@every_implementation
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_ids_of_any_integer_dtype(model, batch, implementation, dtype):
    given = batch | {name: batch[name].to(dtype) for name in IDS}
    assert_same(run(model, implementation, **given), run(model, implementation, **batch))


@every_implementation
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_ids_out_of_range_in_any_integer_dtype(model, batch, implementation, dtype):
    """61 is one beyond the vocabulary; the range is named whatever the dtype."""
    given = batch | {"input_ids": torch.full((3, 9), 61).to(dtype)}
    with pytest.raises(ValueError, match="input_ids: got values from 61 to 61, expected 0 to 60"):
        run(model, implementation, **given)


@every_implementation
def test_the_largest_unsigned_id_is_out_of_range(model, batch, implementation):
    """As int64 it would be -1."""
    ids = torch.full((3, 9), 2**64 - 1, dtype=torch.uint64)
    with pytest.raises(ValueError, match="input_ids"):
        run(model, implementation, **batch | {"input_ids": ids})


@every_implementation
@pytest.mark.parametrize("dtype", [*INTEGERS, torch.bool, torch.float32, torch.bfloat16], ids=str)
def test_masks_of_any_dtype(model, batch, implementation, dtype):
    given = batch | {"attention_mask": batch["attention_mask"].to(dtype)}
    assert_same(run(model, implementation, **given), run(model, implementation, **batch))


STRIDES = {
    "columns first": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "middle last": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "every other column": lambda x: torch.stack([x, x + 1], -1).flatten(-2)[..., ::2],
    "every third row": lambda x: x.repeat_interleave(3, 0)[::3],
    "inside a larger tensor": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1))[..., 3:-1, 1:-2],
    "one after an odd place": lambda x: torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape),
}


@every_implementation
@pytest.mark.parametrize("strides", STRIDES)
def test_any_strides(model, batch, embedded, implementation, strides):
    for inputs in (batch, embedded):
        expected = run(model, implementation, **inputs)
        for name, tensor in inputs.items():
            given = STRIDES[strides](tensor)
            assert torch.equal(given, tensor)
            assert_same(run(model, implementation, **inputs | {name: given}), expected)


@every_implementation
def test_one_value_for_a_whole_dimension(model, embedded, implementation):
    """Strides of 0, in every dimension."""
    embeds = embedded["inputs_embeds"]
    for one in (embeds[:1], embeds[:, :1], embeds[..., :1]):
        given = one.expand_as(embeds)
        expected = run(model, implementation, **embedded | {"inputs_embeds": given.contiguous()})
        result = run(model, implementation, **embedded | {"inputs_embeds": given})
        assert_same(result, expected)


KINDS = {"list": lambda x: x.tolist(), "ndarray": np.asarray, "tuple": lambda x: tuple(x.tolist())}


@every_implementation
@pytest.mark.parametrize("kind", KINDS)
def test_lists_and_arrays_are_refused_in_words(model, batch, embedded, implementation, kind):
    for inputs in (batch, embedded):
        for name, tensor in inputs.items():
            given = inputs | {name: KINDS[kind](tensor)}
            message = f"{name}: got a {kind}, expected a torch.Tensor"
            with pytest.raises(TypeError, match=message):
                run(model, implementation, **given)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", [AlbertActForMaskedLM, AlbertActForMultipleChoice])
def test_heads_refuse_them_too(batch, cls, kind):
    model = random_model(1, model_class=cls)
    ids = batch["input_ids"]
    if cls is AlbertActForMultipleChoice:
        ids = ids[None]
    for name in ("input_ids", "attention_mask"):
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        given[name] = KINDS[kind](given[name])
        with pytest.raises(TypeError, match=f"{name}: got a {kind}, expected a torch.Tensor"):
            model(**given)
