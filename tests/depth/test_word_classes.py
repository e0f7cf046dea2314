"""Depth by word class: which word a token belongs to, and what spaCy says of it."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from support.models import random_model
from typer.testing import CliRunner

from albert_act_fast import TextEncoder
from albert_act_fast.cli.app import app
from albert_act_fast.depth import word_classes
from albert_act_fast.depth.report import depth_report
from albert_act_fast.depth.word_classes import NO_CLASS, WordClasses, load_pipeline
from albert_act_fast.tokenizer import load_tokenizer

spacy = pytest.importorskip("spacy", reason="spaCy is not installed (requirements/dev.txt)")

WORDS = {
    "NOUN": ["keeper", "daughter", "oranges", "whale"],
    "VERB": ["sold", "call"],
    "DET": ["the", "a"],
    "PUNCT": [".", ","],
}
TEXTS = ["The keeper's daughter sold oranges.", "Call me unsentimental, whale!", "so"] * 4


@pytest.fixture(scope="module")
def pipeline():
    """Rules in a tagger's place, which no registry of packages has."""
    found = spacy.blank("en")
    rules = found.add_pipe("attribute_ruler")
    for name, words in WORDS.items():
        rules.add(patterns=[[{"LOWER": {"IN": words}}]], attrs={"POS": name})
    return found


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    pipeline.to_disk(path := tmp_path_factory.mktemp("spacy") / "rules")
    return path


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    model = random_model(3, halting_bias=-0.2, vocab_size=30000, max_position_embeddings=20)
    return TextEncoder(model, load_tokenizer())


def class_of(word: str) -> str:
    return next((name for name, words in WORDS.items() if word.lower() in words), NO_CLASS)


def test_a_token_has_the_class_of_the_word_in_which_it_begins(pipeline):
    text = "The  whale\n sold12 oranges."
    tokens = {  # [CLS], The, wh|ale, sold|12, or|anges, ., [SEP]
        (0, 0): NO_CLASS,
        (0, 3): "DET",
        (4, 7): "NOUN",  # with the space before it
        (7, 10): "NOUN",
        (12, 16): NO_CLASS,
        (16, 18): NO_CLASS,
        (18, 21): "NOUN",
        (21, 26): "NOUN",
        (26, 27): "PUNCT",
        (27, 27): NO_CLASS,
    }
    (found,) = WordClasses(pipeline).of(text, [list(tokens)])
    assert found == list(tokens.values())


def test_long_texts_are_tagged_in_pieces_that_end_between_words(pipeline, monkeypatch):
    text = "The keeper sold a whale. " * 5 + "x" * 50 + " oranges"
    whole = WordClasses(pipeline)._tag(text)
    monkeypatch.setattr(word_classes, "_CHARACTERS", 13)
    assert "".join(part for _, part in word_classes._parts(text)) == text
    parts = [place for place, _ in word_classes._parts(text)]
    assert len(parts) > 10
    starts, classes = WordClasses(pipeline)._tag(text)
    for start, name in zip(*whole, strict=True):
        if name != NO_CLASS:
            assert classes[starts.index(start)] == name


def test_the_table_counts_the_tokens_that_were_not_chosen(encoder, pipeline):
    texts = [*TEXTS, "the daughter sold a whale. " * 8]  # the last one goes in windows
    found = depth_report(encoder, texts, mask_share=0, spacy_model=pipeline)
    assert found.word_classes_by == "en_pipeline 0.0.0"
    groups = {group.name: group for group in found.tables["word class"]}
    assert list(groups) == ["NOUN", "VERB", "DET", "PUNCT", NO_CLASS]
    plain = sum(group.tokens for group in found.tables["class of token"])
    assert sum(group.tokens for group in groups.values()) == plain
    depths = []
    for one in encoder.depth(texts[:-1]):
        for (start, end), n in zip(one.offsets, one.iterations, strict=True):
            word = one.text[start:end].strip()
            depths += [n] if class_of(word) == "VERB" else []
    short = depth_report(encoder, texts[:-1], mask_share=0, spacy_model=pipeline)
    (verbs,) = [group for group in short.tables["word class"] if group.name == "VERB"]
    assert (verbs.tokens, verbs.mean) == (len(depths), pytest.approx(np.mean(depths)))
    assert verbs.low < verbs.mean < verbs.high
    masked = depth_report(encoder, texts, mask_share=0.5, spacy_model=pipeline)
    assert sum(group.tokens for group in masked.tables["word class"]) < plain
    assert "word class" not in depth_report(encoder, texts).tables


class TestWhatCannotBe:
    def test_no_spacy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "spacy", None)
        with pytest.raises(ImportError, match=r"spacy_model: .*albert_act_fast\[spacy\]"):
            load_pipeline("en_core_web_sm")

    def test_no_such_pipeline(self, tmp_path):
        with pytest.raises(ValueError, match=r"spacy_model: got 'en_no_such'.* spacy download"):
            WordClasses("en_no_such")
        with pytest.raises(ValueError, match=r"spacy_model: got .*which spaCy cannot load"):
            WordClasses(tmp_path)

    def test_a_pipeline_that_tells_no_classes(self, encoder):
        with pytest.raises(ValueError, match=r"'en_pipeline 0\.0\.0', which has no components"):
            WordClasses(spacy.blank("en"))
        other = spacy.blank("en")
        other.add_pipe("sentencizer")
        with pytest.raises(ValueError, match="gave no word a class; expected a pipeline with a ta"):
            depth_report(encoder, TEXTS, spacy_model=other)
        with pytest.raises(ValueError, match="gave no word a class"):
            WordClasses(other).of("word " * 1000, [])

    def test_a_tokenizer_without_offsets(self, pipeline):
        with pytest.raises(ValueError, match="the tokenizer gives no character offsets"):
            WordClasses(pipeline).of("so", [None])


def test_the_command(folder, tmp_path):
    texts, page = tmp_path / "texts.txt", tmp_path / "report.html"
    texts.write_text("\n".join(TEXTS), "utf-8")
    call = ["report", str(texts), "--spacy-model"]
    result = CliRunner().invoke(app, [*call, str(folder), "--html", str(page), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["word_classes_by"] == "en_pipeline 0.0.0"
    assert [group["name"] for group in found["tables"]["word class"]][:2] == ["NOUN", "VERB"]
    html = page.read_text("utf-8")
    assert "<h2>Iterations by word class</h2>" in html
    assert "those of spaCy&#x27;s en_pipeline" in html or "those of spaCy's en_pipeline" in html
    result = CliRunner().invoke(app, [*call, "en_no_such"])
    assert result.exit_code == 2
    assert "--spacy-model: got 'en_no_such'" in result.stderr
