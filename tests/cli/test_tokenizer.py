"""The tokenizer that ships: literal pieces and ids, pairs, offsets, save and load."""

from __future__ import annotations

import hashlib
import shutil

import pytest
from support.models import random_model

from albert_act_fast.tokenizer import has_tokenizer, load_tokenizer

SENTENCE = "a lump in the middle of the monkeys stirred and then fell quiet ."
PIECES = "▁a ▁lump ▁in ▁the ▁middle ▁of ▁the ▁monkeys ▁stirred ▁and ▁then ▁fell ▁quiet .".split()
IDS = [21, 12667, 19, 14, 772, 16, 14, 19777, 15272, 17, 94, 1139, 2401, 9]
AWKWARD = [SENTENCE, 'He said "no" - at 3.14 (or so).', "Crème BRÛLÉE", "£5 – €6", "日本 x\u200by"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


def test_the_file_is_the_stock_one(stock_tokenizer_file):
    digest = hashlib.sha256(stock_tokenizer_file.read_bytes()).hexdigest()
    assert digest == "fefb02b667a6c5c2fe27602d28e5fb3428f66ab89c7d6f388e7c8d44a02d0336"


def test_pieces_and_ids_of_the_model_card_s_sentence(tokenizer):
    assert tokenizer.tokenize(SENTENCE) == PIECES
    assert tokenizer(SENTENCE)["input_ids"] == [2, *IDS, 3]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Crème BRÛLÉE", "▁cre me ▁bru lee"),
        ("at 3.14 (or so).", "▁at ▁3 . ▁14 ( ▁or ▁so ) ."),
        ("x-y", "▁x - ▁ y"),
    ],
)
def test_case_accents_and_symbols(tokenizer, text, pieces):
    assert tokenizer.tokenize(text) == pieces.split()


def test_special_ids(tokenizer):
    names = ["pad", "unk", "cls", "sep", "mask"]
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == [0, 1, 2, 3, 4]
    assert len(tokenizer) == tokenizer.vocab_size == 30000


def test_length_limit(tokenizer):
    assert tokenizer.model_max_length == 512
    assert len(tokenizer("word " * 600, truncation=True)["input_ids"]) == 512


def test_pair(tokenizer):
    pair = tokenizer("one two", "three .")
    assert pair["input_ids"] == [2, 53, 81, 3, 132, 9, 3]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]
    assert pair["attention_mask"] == [1] * 7


def test_offsets_are_places_in_the_text_as_given(tokenizer):
    text = 'He said "No" - at 3.14.'
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    words = ["", "He", "said", '"', "No", '"', "-", "at", "3", ".", "14", ".", ""]
    assert [text[start:stop].strip() for start, stop in offsets] == words


def test_padding_is_on_the_right(tokenizer):
    batch = tokenizer(["one two", "one"], padding=True)
    assert batch["input_ids"][1] == [2, 53, 3, 0]
    assert batch["attention_mask"][1] == [1, 1, 1, 0]


def test_saved_and_loaded_gives_the_same(tokenizer, tmp_path):
    random_model(0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert dict(again(AWKWARD)) == dict(tokenizer(AWKWARD))
    assert dict(again("a", "b")) == dict(tokenizer("a", "b"))
    assert again.model_max_length == 512


def test_decoding_keeps_symbols_and_drops_special_tokens(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer("so. (it is)")["input_ids"]
    for one in (tokenizer, load_tokenizer(tmp_path)):
        assert one.decode(ids, skip_special_tokens=True).replace(" ", "") == "so.(itis)"


def test_a_model_s_own_tokenizer_comes_first(tokenizer, tmp_path):
    own = load_tokenizer()
    own.add_tokens(["ishmael"])
    random_model(0).save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    assert has_tokenizer(tmp_path)
    assert len(load_tokenizer(tmp_path)) == 30001
    assert len(tokenizer) == 30000


def test_a_folder_with_sentencepiece_alone(tokenizer, stock_tokenizer_file, tmp_path):
    random_model(0).save_pretrained(tmp_path)
    shutil.copy(stock_tokenizer_file, tmp_path)
    assert has_tokenizer(tmp_path)
    assert dict(load_tokenizer(tmp_path)(AWKWARD)) == dict(tokenizer(AWKWARD))


def test_a_model_without_one_gets_the_stock_one(tokenizer, checkpoint):
    assert not has_tokenizer(checkpoint)
    assert load_tokenizer(checkpoint)(SENTENCE)["input_ids"] == tokenizer(SENTENCE)["input_ids"]


def test_a_damaged_one_is_named(tmp_path):
    random_model(0).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=f"the tokenizer in {tmp_path} cannot be read"):
        load_tokenizer(tmp_path)


class TestOtherVocabularies:
    """transformers makes a tokenizer of five tokens where its vocabulary is missing."""

    @pytest.fixture
    def words(self, tmp_path):
        random_model(0).save_pretrained(tmp_path)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]
        (tmp_path / "vocab.txt").write_text("\n".join(words))
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
        return tmp_path

    def test_words(self, words):
        tokenizer = load_tokenizer(words)
        assert tokenizer("hello world")["input_ids"] == [2, 5, 6, 3]
        assert tokenizer.model_max_length == 512

    def test_the_class_is_not_named(self, words):
        (words / "tokenizer_config.json").unlink()
        with pytest.raises(ValueError, match=r"needs spiece.model .* but there is only vocab.txt"):
            load_tokenizer(words)

    def test_the_vocabulary_is_missing(self, words):
        (words / "vocab.txt").unlink()
        message = r"as a BertTokenizer it needs vocab.txt .* only tokenizer_config.json"
        with pytest.raises(ValueError, match=message):
            load_tokenizer(words)

    def test_the_vocabulary_is_cut_short(self, tokenizer, stock_tokenizer_file, tmp_path):
        random_model(0).save_pretrained(tmp_path)
        (tmp_path / "spiece.model").write_bytes(stock_tokenizer_file.read_bytes()[:1000])
        with pytest.raises(ValueError, match="cannot be read") as caught:
            load_tokenizer(tmp_path)
        assert "tiktoken" not in str(caught.value)


def test_an_unreachable_hub_is_not_taken_for_a_model_without_tokenizer(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("no connection")

    def absent(repository, filename):
        raise EntryNotFoundError("404")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(OSError, match="some/model: cannot tell whether it has a tokenizer"):
        load_tokenizer("some/model")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", absent)
    assert load_tokenizer("some/model").tokenize(SENTENCE) == PIECES


def test_a_model_of_far_more_entries_is_refused(error, tmp_path):
    random_model(3, vocab_size=50000).save_pretrained(tmp_path)
    message = error("depth", "so", "--model", tmp_path)
    assert "tokenizer: its vocabulary has 30000 entries, far fewer than the 50000" in message
