"""`--tokenization`: the rule that cuts texts, by name, in every command that loads a model."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import pytest
from support.models import random_model

from albert_act_fast import AlbertActTokenizer, TextEncoder
from albert_act_fast.cli.app import app
from albert_act_fast.cli.encode import _digest_of_model
from albert_act_fast.cli.options import Tokenization
from albert_act_fast.text import loading
from albert_act_fast.tokenizer import RULES, STOCK_TOKENIZER, load_tokenizer

TEXT = "In 2005, sales (and prices) fell ."
GLUE = Path(__file__).parents[1] / "fixtures" / "glue"
CALLS = {
    "depth": ["so"],
    "encode": ["TEXTS", "--output", "OUT"],
    "classify": ["TEXTS"],
    "search": ["so", "TEXTS"],
    "serve": [],
    "report": ["TEXTS"],
    "eval": ["--task", "sst-2", "--data", GLUE],
}


def test_the_names_are_the_library_s():
    assert [one.value for one in Tokenization] == list(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_text_is_cut_by_it(command, checkpoint, rule):
    result = command("depth", TEXT, "--model", checkpoint, "--tokenization", rule, "--json")
    found = json.loads(result.stdout)
    assert found["tokenization"] == rule
    expected = load_tokenizer(tokenization=rule)
    assert found["texts"][0]["tokens"] == ["[CLS]", *expected.tokenize(TEXT), "[SEP]"]
    assert expected.tokenize(TEXT) != load_tokenizer(
        tokenization=next(name for name in RULES if name != rule)
    ).tokenize(TEXT)


def test_every_command_that_loads_a_model_hands_it_on(error, checkpoint, monkeypatch, tmp_path):
    with_model = {
        one.name
        for one in app.registered_commands
        if "model" in inspect.signature(one.callback).parameters
    }
    assert with_model == CALLS.keys()

    def load(name, model_class=None, tokenization=None):
        raise ValueError(f"tokenization: got {tokenization!r}")

    monkeypatch.setattr(loading, "load", load)
    texts = tmp_path / "texts.txt"
    texts.write_text("so\n", "utf-8")
    files = {"TEXTS": texts, "OUT": tmp_path / "out.npy"}
    for name, arguments in CALLS.items():
        arguments = [files.get(a, a) if isinstance(a, str) else a for a in arguments]
        message = error(name, *arguments, "--model", checkpoint, "--tokenization", "published")
        assert message.startswith("--tokenization: got 'published'"), (name, message)


def test_a_vocabulary_that_no_such_rule_cuts_by(error):
    message = error("depth", "so", "--model", "sentence", "--tokenization", "published")
    assert message.startswith("--tokenization: got 'published', but ")
    assert "has no spiece.model" in message
    message = error("depth", "so", "--tokenization", "slow")
    assert "'slow' is not one of 'published', 'transformers'" in message


def test_a_run_is_not_resumed_with_a_tokenizer_that_cuts_otherwise(tmp_path):
    model = random_model(3, vocab_size=30000)
    shutil.copytree(STOCK_TOKENIZER, tmp_path / "moved")

    def digest(folder, **settings):
        tokenizer = AlbertActTokenizer.from_pretrained(folder, **settings)
        return _digest_of_model(TextEncoder(model, tokenizer), {})

    first = digest(STOCK_TOKENIZER)
    assert digest(tmp_path / "moved") == first
    assert digest(STOCK_TOKENIZER, keep_accents=True) != first
    assert _digest_of_model(TextEncoder(model, load_tokenizer()), {}) != first
