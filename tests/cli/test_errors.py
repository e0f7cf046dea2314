"""Every mistake of the caller's: one line on stderr that names it, status 2, nothing on stdout."""

from __future__ import annotations

import json
import os
import re

import pytest
import torch
from support.models import random_model

from albert_act_fast.text import loading


@pytest.fixture
def no_model(monkeypatch):
    """Fails the test when a model is loaded: the mistake has to be found before that."""
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("the model was loaded"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "^COMMAND: got none, expected depth, encode"),
        (["deep"], "No such command 'deep'"),
        (["depth", "so", "--deep"], "No such option: --deep"),
        (["depth", "so", "--dtype", "int8"], "'--dtype': .*'int8' is not one of 'float32'"),
        (["depth", "so", "--device", "tpu"], "'--device': .*'tpu' is not one of 'cpu'"),
        (["depth", "so", "--batch-size", "0"], "'--batch-size'"),
        (["depth", "so", "", "x"], "^TEXT 2: got '', expected a text that is not empty"),
        (["depth", " \n"], r"^TEXT 1: got ' \\n'"),
        (["depth", "bad\udcff"], r"^TEXT 1: got 'bad\\udcff', expected text in UTF-8"),
        (["depth", "so", "--file", "x"], "^TEXT, --file: got both"),
        (["depth", "--file", "no.txt"], "^--file: got 'no.txt', .*: No such file or directory"),
        (["depth", "--file", "."], "^--file: got '.', which cannot be read: Is a directory"),
        (
            ["depth", "so", "--implementation", "fast"],
            "^--implementation: got 'fast', expected one",
        ),
        (["encode", "texts.txt"], "Missing option '--output'"),
        (["encode", "texts.txt", "-o", "x.csv"], "^--output: got 'x.csv', .*.npy, .safetensors"),
        (["encode", "texts.txt", "-o", "no/x.npy"], "^--output: got 'no/x.npy', .*No such file"),
        (["encode", "no.txt", "-o", "x.npy"], "^INPUT_FILE: got 'no.txt', .*No such file"),
        (["encode", "texts.txt", "-o", "x.npy", "--pooling", "max"], "'--pooling': .*'max'"),
    ],
)
def test_caller_s_mistakes(error, no_model, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("so\n")
    found = error(*args)
    assert re.search(message, found), found
    assert os.listdir(tmp_path) == ["texts.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "which holds no text"),
        (b"so\n\nx\n", "line 2 of {file} is empty, expected a text on every line (--skip-empty"),
        (b"so\n \t\n", "line 2 of {file} is empty"),
        (b"so\ncaf\xe9\n", "expected UTF-8: line 2 has the byte 0xe9"),
    ],
)
@pytest.mark.parametrize("way", ["depth", "encode", "stdin"])
def test_files_that_are_no_texts(error, no_model, tmp_path, content, message, way):
    file = tmp_path / "texts.txt"
    file.write_bytes(content)
    args, name, stdin = {
        "depth": (["depth", "--file", file], file, None),
        "encode": (["encode", file, "-o", tmp_path / "x.npy"], file, None),
        "stdin": (["depth"], "standard input", content),
    }[way]
    assert message.format(file=name) in error(*args, stdin=stdin)
    assert os.listdir(tmp_path) == ["texts.txt"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda(error, no_model):
    assert error("depth", "so", "--device", "cuda").startswith("--device: got 'cuda'")


def test_implementation_that_is_not_available(error, no_model, command):
    report = json.loads(command("info", "--json").stdout)["implementations"]["cpu"]
    for name, reason in report.items():
        if reason is not None:
            found = error("depth", "so", "--implementation", name)
            assert found.startswith(f"--implementation: got '{name}', but {reason}")


def test_too_long_text_is_named(error, checkpoint, tmp_path):
    long = "word " * 50
    found = error("depth", "so", long, "--model", checkpoint)
    assert found.startswith("TEXT 2: got 52 tokens, expected at most 40")
    assert "--truncate" in found
    file = tmp_path / "texts.txt"
    file.write_text(f"so\nso\n{long}\n")
    found = error("encode", file, "-o", tmp_path / "x.npy", "--model", checkpoint)
    assert found.startswith(f"line 3 of {file}: got 52 tokens")
    assert not (tmp_path / "x.npy").exists()


def test_text_without_a_token(error):
    found = error("depth", "so", "\u0301")
    assert found.startswith("TEXT 2: ")
    assert "finds no token" in found


class TestModel:
    def test_does_not_exist(self, error):
        found = error("depth", "so", "--model", "./no")
        assert found == "--model: got './no', which does not exist; expected a folder"

    def test_is_a_file(self, error, tmp_path):
        file = tmp_path / "model.safetensors"
        file.touch()
        assert "a file; expected a folder or a hub name" in error("depth", "x", "--model", file)

    def test_folder_is_empty(self, error, tmp_path):
        assert "a folder without config.json" in error("depth", "x", "--model", tmp_path)

    def test_is_of_another_architecture(self, error, tmp_path):
        from transformers import BertConfig, BertModel

        sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
        BertModel(BertConfig(vocab_size=9, num_hidden_layers=1, **sizes)).save_pretrained(tmp_path)
        found = error("depth", "x", "--model", tmp_path)
        assert found.startswith(f"--model: got '{tmp_path}' (a folder), which cannot be loaded")
        assert "another architecture" in found

    def test_weights_are_damaged(self, error, checkpoint, tmp_path):
        (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
        (tmp_path / "model.safetensors").write_bytes(b"damaged")
        assert "which cannot be loaded" in error("depth", "x", "--model", tmp_path)

    def test_weights_have_another_shape(self, error, checkpoint, tmp_path):
        for file in checkpoint.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        config = json.loads((tmp_path / "config.json").read_text()) | {"vocab_size": 30005}
        (tmp_path / "config.json").write_text(json.dumps(config))
        found = error("depth", "x", "--model", tmp_path)
        assert "embeddings.word_embeddings.weight: (30000, 16), but its config.json says" in found

    def test_vocabulary_is_smaller_than_the_tokenizer_s(self, error, tmp_path):
        random_model(0).save_pretrained(tmp_path)
        found = error("depth", "x", "--model", tmp_path)
        assert "whose vocabulary has 61 entries, expected at least the 30000" in found

    def test_tokenizer_is_damaged(self, error, checkpoint, tmp_path):
        for file in checkpoint.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "tokenizer.json").write_text("{")
        assert "cannot be read" in error("depth", "x", "--model", tmp_path)
