"""examples/depth_study.py: figures on the shipped sentence encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_word_classes(load_example):
    word_class = load_example("depth_study").word_class
    tokens = ["[CLS]", "the", "whale", "##s", "swam", ",", "12", "[SEP]"]
    wanted = "[CLS]|function word|content word|word part|content word|punctuation|number|[SEP]"
    assert "|".join(word_class(token, "[CLS]", "[SEP]") for token in tokens) == wanted


def test_explained_variance(load_example):
    explained = load_example("depth_study").explained
    depths = np.array([2.0, 2.0, 6.0, 6.0])
    assert explained(depths, ["a", "a", "b", "b"]) == 1
    assert explained(depths, ["a", "b", "a", "b"]) == 0
    assert explained(np.full(4, 3.0), ["a", "b", "a", "b"]) == 0


def test_table_of_a_folder_of_texts(load_example, capsys):
    load_example("depth_study").main(["--text", str(FIXTURES / "text")])
    table = capsys.readouterr().out
    assert "of at most 12 iterations" in table
    for row in ("| [CLS] |", "| function word |", "| content word |", "| rarity |"):
        assert row in table


def test_picture(load_example, tmp_path):
    sentences, picture = tmp_path / "sentences.txt", tmp_path / "depths.png"
    sentences.write_text("Call me Ishmael.\n\nThe sea was calm.\n")
    load_example("depth_study").main(["--sentences", str(sentences), "--picture", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_to_do_has_to_be_said(load_example, capsys):
    for arguments in ([], ["--text", "x", "--picture", "y"], ["--picture", "y"]):
        with pytest.raises(SystemExit):
            load_example("depth_study").main(arguments)
        assert "expected --text, or --sentences with --picture" in capsys.readouterr().err
