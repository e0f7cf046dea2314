"""Bad input: a clear error that names argument, value and expectation, before any work is done."""

from __future__ import annotations

import importlib

import pytest
import torch
from support.compare import run
from support.engines import ON_CPU
from support.models import random_model

from albert_act_fast import AlbertActConfig, AlbertActModel

# The package has a function of that name, too. What an engine does begins with packing.
encoding = importlib.import_module("albert_act_fast.engine.encode")

every_implementation = pytest.mark.parametrize("implementation", [*ON_CPU, "reference"])
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
EMBEDS = torch.zeros(2, 4, 16)


def changed(tensor, place, value):
    tensor = tensor.clone()
    tensor[place] = value
    return tensor


# name: (arguments, error, what its message must say: argument, given, expected)
BAD = {
    "neither ids nor embeddings": (
        {},
        ValueError,
        ["input_ids, inputs_embeds", "got neither", "exactly one"],
    ),
    "both ids and embeddings": (
        {"input_ids": IDS, "inputs_embeds": EMBEDS},
        ValueError,
        ["input_ids, inputs_embeds", "got both", "exactly one"],
    ),
    "empty batch": (
        {"input_ids": IDS[:0]},
        ValueError,
        ["input_ids", "(0, 4)", "at least one sequence"],
    ),
    "empty text": ({"input_ids": IDS[:, :0]}, ValueError, ["input_ids", "(2, 0)", "one token"]),
    "empty embeddings": (
        {"inputs_embeds": EMBEDS[:, :0]},
        ValueError,
        ["inputs_embeds", "(2, 0, 16)", "one token"],
    ),
    "ids without a batch": (
        {"input_ids": IDS[0]},
        ValueError,
        ["input_ids", "(4,)", "[sequences, tokens]"],
    ),
    "too long": (
        {"input_ids": IDS.repeat(1, 17)},
        ValueError,
        ["input_ids", "68 tokens", "max_position_embeddings=64"],
    ),
    "embeddings too long": (
        {"inputs_embeds": torch.zeros(1, 65, 16)},
        ValueError,
        ["inputs_embeds", "65 tokens", "max_position_embeddings=64"],
    ),
    "id above the vocabulary": (
        {"input_ids": changed(IDS, (1, 2), 61)},
        ValueError,
        ["input_ids", "5 to 61", "0 to 60", "vocabulary: 61"],
    ),
    "negative id": (
        {"input_ids": changed(IDS, (1, 2), -1)},
        ValueError,
        ["input_ids", "-1 to 12", "0 to 60"],
    ),
    "id out of range at padding": (
        {"input_ids": changed(IDS, (1, 3), 999), "attention_mask": changed(IDS > 0, (1, 3), False)},
        ValueError,
        ["input_ids", "999", "0 to 60"],
    ),
    "ids that are not integers": (
        {"input_ids": IDS.float()},
        TypeError,
        ["input_ids", "torch.float32", "integer"],
    ),
    "ids that are a mask": (
        {"input_ids": IDS > 6},
        TypeError,
        ["input_ids", "torch.bool", "integer"],
    ),
    "embeddings of the wrong width": (
        {"inputs_embeds": torch.zeros(2, 4, 48)},
        ValueError,
        ["inputs_embeds", "(2, 4, 48)", "embedding_size=16"],
    ),
    "embeddings of another dtype": (
        {"inputs_embeds": EMBEDS.double()},
        ValueError,
        ["inputs_embeds", "torch.float64", "torch.float32"],
    ),
    "mask of another length": (
        {"input_ids": IDS, "attention_mask": torch.ones(2, 3)},
        ValueError,
        ["attention_mask", "(2, 3)", "(2, 4)"],
    ),
    "mask without a batch": (
        {"input_ids": IDS, "attention_mask": torch.ones(4)},
        ValueError,
        ["attention_mask", "(4,)", "(2, 4)"],
    ),
    "additive mask": (
        {"input_ids": IDS, "attention_mask": torch.ones(2, 1, 1, 4)},
        ValueError,
        ["attention_mask", "(2, 1, 1, 4)", "(2, 4)"],
    ),
    "mask with other values": (
        {"input_ids": IDS, "attention_mask": changed(IDS * 0 + 1, (0, 0), 2)},
        ValueError,
        ["attention_mask", "from 1 to 2", "0 (padding) and 1 (token)"],
    ),
    "mask with large negative values": (
        {"input_ids": IDS, "attention_mask": changed(torch.zeros(2, 4), (0, 0), -1e9)},
        ValueError,
        ["attention_mask", "-1000000000.0", "0 (padding) and 1 (token)"],
    ),
    "mask with NaN": (
        {"input_ids": IDS, "attention_mask": changed(torch.ones(2, 4), (0, 0), float("nan"))},
        ValueError,
        ["attention_mask", "nan", "0 (padding) and 1 (token)"],
    ),
    "token types of another shape": (
        {"input_ids": IDS, "token_type_ids": IDS[:1] * 0},
        ValueError,
        ["token_type_ids", "(1, 4)", "(2, 4)"],
    ),
    "token type out of range": (
        {"input_ids": IDS, "token_type_ids": changed(IDS * 0, (0, 1), 2)},
        ValueError,
        ["token_type_ids", "0 to 2", "0 to 1", "token types: 2"],
    ),
    "token types that are not integers": (
        {"input_ids": IDS, "token_type_ids": IDS * 0.0},
        TypeError,
        ["token_type_ids", "torch.float32", "integer"],
    ),
    "positions of another shape": (
        {"input_ids": IDS, "position_ids": torch.arange(5)},
        ValueError,
        ["position_ids", "(5,)", "(2, 4)"],
    ),
    "position out of range": (
        {"input_ids": IDS, "position_ids": torch.tensor([[0, 1, 2, 64]])},
        ValueError,
        ["position_ids", "0 to 64", "0 to 63", "max_position_embeddings: 64"],
    ),
    "negative position": (
        {"input_ids": IDS, "position_ids": torch.tensor([0, 1, -2, 3])},
        ValueError,
        ["position_ids", "-2 to 3", "0 to 63"],
    ),
    "head mask of another shape": (
        {"input_ids": IDS, "head_mask": torch.ones(12)},
        ValueError,
        ["head_mask", "(12,)", "num_attention_heads=4", "num_hidden_layers=12"],
    ),
}


@every_implementation
@pytest.mark.parametrize(("arguments", "error", "said"), BAD.values(), ids=list(BAD))
def test_arguments(arguments, error, said, implementation, monkeypatch):
    model = random_model(0)
    if "head_mask" in arguments:
        implementation = "auto"
    worked = []
    monkeypatch.setattr(encoding, "pack", lambda *_: worked.append(1))
    monkeypatch.setattr(type(model), "_run_reference", lambda *_: worked.append(1))
    with pytest.raises(error) as caught:
        run(model, implementation, **arguments)
    for part in said:
        assert part in str(caught.value)
    assert "expected" in str(caught.value)
    assert worked == []


@every_implementation
def test_what_is_at_the_limits_is_accepted(implementation):
    model = random_model(0)
    ids = torch.full((1, 64), 60)
    ids[0, 0] = 0
    for mask in (None, ids * 0 + 1, ids > -1, (ids * 0 + 1).float(), (ids * 0 + 1).to(torch.uint8)):
        for dtype in (torch.int64, torch.int32, torch.int16):
            arguments = {
                "input_ids": ids.to(dtype),
                "attention_mask": mask,
                "token_type_ids": torch.ones_like(ids, dtype=dtype),
                "position_ids": torch.arange(64, dtype=dtype),
            }
            output = run(model, implementation, **arguments)
            assert output.last_hidden_state.isfinite().all()


CONFIG = {
    "act_epsilon 1": ({"act_epsilon": 1}, ["act_epsilon", "got 1", "[0, 1)"]),
    "act_epsilon negative": ({"act_epsilon": -0.01}, ["act_epsilon", "-0.01", "[0, 1)"]),
    "act_epsilon NaN": ({"act_epsilon": float("nan")}, ["act_epsilon", "nan", "[0, 1)"]),
    "act_tau negative": ({"act_tau": -1.0}, ["act_tau", "-1.0", "at least 0"]),
    "heads": (
        {"hidden_size": 50, "num_attention_heads": 4},
        ["hidden_size", "50", "num_attention_heads=4"],
    ),
    "no iterations": ({"num_hidden_layers": 0}, ["num_hidden_layers", "got 0", "at least 1"]),
    "no heads": ({"num_attention_heads": 0}, ["num_attention_heads", "got 0", "at least 1"]),
    "positions": (
        {"position_embedding_type": "rotary"},
        ["position_embedding_type", "'rotary'", "absolute, relative_key, relative_key_query"],
    ),
    "several groups": ({"num_hidden_groups": 2}, ["num_hidden_groups", "got 2", "another model"]),
    "several layers": ({"inner_group_num": 3}, ["inner_group_num", "got 3", "another model"]),
}


@pytest.mark.parametrize(("fields", "said"), CONFIG.values(), ids=list(CONFIG))
def test_configuration(fields, said):
    with pytest.raises(ValueError, match=r"got .*, expected ") as caught:
        AlbertActConfig(**fields)
    for part in said:
        assert part in str(caught.value)


def test_unknown_implementation_in_the_configuration():
    model = AlbertActModel(random_model(0).config).eval()
    model.config.implementation = "fpga"
    with torch.no_grad(), pytest.raises(ValueError, match="implementation: got 'fpga', expected"):
        model(IDS)


@pytest.mark.parametrize("model_type", ["bert", "albert_xl"])
def test_checkpoint_of_another_architecture(tmp_path, model_type):
    model = random_model(0)
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"albert_act"', f'"{model_type}"'))
    with pytest.raises(ValueError, match=f"model_type.*'{model_type}'.*albert_act, albert"):
        AlbertActModel.from_pretrained(tmp_path)


def test_checkpoint_without_the_layer(tmp_path):
    model = random_model(0)
    weights = {k: v for k, v in model.state_dict().items() if ".attention." not in k}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"missing: encoder\.albert_layer\.attention\.dense\.bias"):
        AlbertActModel.from_pretrained(tmp_path)
