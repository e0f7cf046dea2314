"""Texts cut as the published checkpoints were trained, against what transformers 4.23.1 gave for
the stock vocabulary (tests/fixtures/tokenizer)."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
from support.models import random_model
from transformers import AlbertTokenizer, AutoTokenizer

from albert_act_fast import AlbertActTokenizer, TextEncoder
from albert_act_fast.shipped import shipped_model
from albert_act_fast.tokenizer import STOCK_TOKENIZER, check_vocabulary, load_tokenizer

RECORDED = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "tokenizer" / "pieces_4x.json").read_text("utf-8")
)
SENTENCE = "In 2005, sales (and prices) fell ."


@pytest.fixture(scope="module")
def tokenizer() -> AlbertActTokenizer:
    return load_tokenizer(tokenization="published")


def test_pieces_and_ids_of_transformers_4():
    for one in RECORDED["settings"]:
        tokenizer = AlbertActTokenizer.from_pretrained(STOCK_TOKENIZER, **one["settings"])
        for text in one["texts"]:
            assert tokenizer.tokenize(text["text"]) == text["pieces"]
            assert tokenizer(text["text"])["input_ids"] == text["ids"]
    pair = RECORDED["pair"]
    tokenizer = AlbertActTokenizer.from_pretrained(STOCK_TOKENIZER)
    found = tokenizer(*pair["texts"])
    assert (found["input_ids"], found["token_type_ids"]) == (pair["ids"], pair["types"])
    assert len(tokenizer) == RECORDED["length"]


def test_it_is_not_the_rule_of_transformers_5(tokenizer):
    """Else there were no need for it."""
    newer = AlbertTokenizer.from_pretrained(STOCK_TOKENIZER)
    texts = [text["text"] for text in RECORDED["settings"][0]["texts"]]
    differ = [text for text in texts if newer.tokenize(text) != tokenizer.tokenize(text)]
    assert "2005," in differ
    assert "a lump in the middle of the monkeys stirred and then fell quiet ." in differ


def test_offsets_say_where_each_piece_came_from(tokenizer):
    for text in (one["text"] for one in RECORDED["settings"][0]["texts"]):
        pieces = tokenizer.pieces(text)
        assert [p.text for p in pieces] == tokenizer.tokenize(text)
        starts = [p.start for p in pieces]
        assert starts == sorted(starts)
        for piece in pieces:
            shown = text[piece.start : piece.end]
            assert shown == shown.strip()
            bare = piece.text.replace("▁", "")
            if bare.isascii() and bare.isalnum() and shown.isascii():
                assert shown.lower() == bare.lower()
    (one_half,) = {(p.start, p.end) for p in tokenizer.pieces("a ½")[1:]}
    assert one_half == (2, 3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_offsets_in_a_call(tokenizer, side):
    tokenizer = pickle.loads(pickle.dumps(tokenizer))
    tokenizer.truncation_side = tokenizer.padding_side = side
    texts = ["Call me [MASK], in 1851,", "so"]
    found = tokenizer(
        texts, padding=True, truncation=True, max_length=7, return_offsets_mapping=True
    )
    assert "special_tokens_mask" not in found
    for text, ids, offsets, mask in zip(
        texts, found["input_ids"], found["offset_mapping"], found["attention_mask"], strict=True
    ):
        whole = tokenizer.pieces(text)
        own = [i for i in range(7) if mask[i]][1:-1]
        kept = whole[-len(own) :] if side == "left" else whole[: len(own)]
        assert [offsets[i] for i in own] == [(p.start, p.end) for p in kept]
        assert tokenizer.convert_ids_to_tokens([ids[i] for i in own]) == [p.text for p in kept]
        assert all(offsets[i] == (0, 0) for i in range(7) if i not in own)
    pair = tokenizer("so it", "was.", return_offsets_mapping=True, return_tensors="pt")
    assert pair["offset_mapping"].tolist() == [
        [[0, 0], [0, 2], [3, 5], [0, 0], [0, 3], [3, 4], [0, 0]]
    ]
    with pytest.raises(NotImplementedError, match="return_offsets_mapping: got it with"):
        tokenizer("so", return_offsets_mapping=True, return_overflowing_tokens=True)


def test_saved_and_found_again(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for found in (AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)):
        assert type(found) is AlbertActTokenizer
        assert found.tokenize(SENTENCE) == tokenizer.tokenize(SENTENCE)
    assert load_tokenizer(tmp_path, tokenization="transformers").is_fast


def folder(tmp_path, *, config: dict | None = None, tokenizer: dict | None = None) -> Path:
    shutil.copy(STOCK_TOKENIZER / "spiece.model", tmp_path)
    random_model(3, vocab_size=30000).config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text()) | (config or {})
    path.write_text(json.dumps({k: v for k, v in written.items() if v is not None}))
    if tokenizer is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return tmp_path


@pytest.mark.parametrize(
    ("config", "tokenizer", "published"),
    [
        ({"transformers_version": "4.23.1"}, None, True),
        ({"transformers_version": "3.3.1"}, {"do_lower_case": True}, True),
        ({"transformers_version": None}, None, True),
        ({"transformers_version": "4.23.1", "model_type": "albert"}, None, True),
        ({"transformers_version": "4.2.0"}, {"tokenizer_class": "AlbertTokenizer"}, True),
        ({"transformers_version": "4.2.0"}, {"tokenization": "transformers"}, False),
        ({}, None, False),
        ({}, {"tokenizer_class": "AlbertTokenizer"}, False),
        ({}, {"tokenization": "published"}, True),
    ],
)
def test_a_folder_says_its_rule_or_its_age_does(config, tokenizer, published, tmp_path):
    found = load_tokenizer(folder(tmp_path, config=config, tokenizer=tokenizer))
    assert isinstance(found, AlbertActTokenizer) is published
    assert found.model_max_length == 512
    for rule in ("published", "transformers"):
        asked = load_tokenizer(tmp_path, tokenization=rule)
        assert isinstance(asked, AlbertActTokenizer) is (rule == "published")


def test_auto_tokenizer_where_no_class_is_named(tmp_path):
    old = folder(tmp_path, config={"transformers_version": "4.2.0"})
    assert type(AutoTokenizer.from_pretrained(old)) is AlbertActTokenizer


def test_shipped_models_keep_their_own():
    said = json.loads((shipped_model("sst2") / "tokenizer_config.json").read_text())
    assert said["tokenization"] == "transformers"
    assert isinstance(load_tokenizer(shipped_model("sst2")), AlbertTokenizer)


def test_rules_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="tokenization: got 'x', expected one of published"):
        load_tokenizer(tokenization="x")
    with pytest.raises(ValueError, match=r"sentence has no spiece\.model"):
        load_tokenizer(shipped_model("sentence"), tokenization="published")
    broken = folder(tmp_path, tokenizer={"tokenization": "mine"})
    with pytest.raises(ValueError, match="tokenization is 'mine', expected one of"):
        load_tokenizer(broken)


def test_an_encoder_keeps_offsets(model, tokenizer):
    encoder = TextEncoder(model, tokenizer)
    depth = encoder.depth(SENTENCE)
    assert depth.input_ids == tokenizer(SENTENCE)["input_ids"]
    assert [SENTENCE[a:b] for a, b in depth.offsets][1:4] == ["In", "2005", ","]
    again = pickle.loads(pickle.dumps(encoder))
    assert again.depth(SENTENCE).iterations == depth.iterations
    long = encoder.depth("in 2005, " * 40, truncation=True)
    assert long.offsets[-2][1] <= len("in 2005, " * 40)


def test_an_encoder_takes_the_rule_by_name():
    found = TextEncoder.from_pretrained("sst2", tokenization="published")
    assert isinstance(found.tokenizer, AlbertActTokenizer)


class Counted:
    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count


def test_a_vocabulary_that_is_another_model_s():
    for known, entries in ((30000, 30000), (30000, 30720), (50, 300), (900, 1100)):
        check_vocabulary(Counted(known), entries)
    with pytest.raises(ValueError, match="30001 entries, expected at most the 30000"):
        check_vocabulary(Counted(30001), 30000)
    with pytest.raises(ValueError, match="20000 entries, far fewer than the 30000"):
        check_vocabulary(Counted(20000), 30000)


def test_an_encoder_refuses_a_far_smaller_vocabulary(tokenizer):
    with pytest.raises(ValueError, match=r"tokenizer: .* far fewer than the 50000"):
        TextEncoder(random_model(3, vocab_size=50000), tokenizer)
