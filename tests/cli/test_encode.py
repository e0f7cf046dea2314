"""`encode`: three formats, order, equality with the model called directly, files."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from support.models import random_config

from albert_act_fast import AlbertActForTokenClassification, AlbertActModel
from albert_act_fast.text import encoder as text_encoder
from albert_act_fast.tokenizer import load_tokenizer

# Not in the order of their lengths, the longest neither first nor last.
LINES = [
    "Call me Ishmael.",
    "so",
    "It was the best of times, it was the worst of times.",
    "a lump in the middle of the monkeys stirred",
    "quiet .",
    "He said no more, and went.",
]


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def encode(command, checkpoint):
    def run(*args):
        result = command("encode", "--model", checkpoint, *args)
        assert result.exit_code == 0, result.output
        return result

    return run


def directly(folder, pooling: str) -> np.ndarray:
    """Each line alone through the reference loop."""
    tokenizer = load_tokenizer()
    model = AlbertActModel.from_pretrained(folder).eval()
    rows = []
    for line in LINES:
        with torch.no_grad():
            out = model(**tokenizer(line, return_tensors="pt"), implementation="reference")
        rows.append(
            {
                "cls": out.last_hidden_state[0, 0],
                "mean": out.last_hidden_state[0].mean(0),
                "pooler": out.pooler_output[0],
            }[pooling].numpy()
        )
    return np.stack(rows)


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_rows_are_those_of_each_line_alone(encode, checkpoint, texts, pooling, batch_size):
    output = texts.with_suffix(".npy")
    encode(texts, "--output", output, "--pooling", pooling, "--batch-size", batch_size)
    found = np.load(output)
    assert (found.shape, found.dtype) == ((6, 48), np.float32)
    np.testing.assert_allclose(found, directly(checkpoint, pooling), atol=2e-5)
    # The lines differ by much more than that, so no two were exchanged.
    assert np.abs(found[:, None] - found[None]).max(-1)[~np.eye(6, dtype=bool)].min() > 1e-2


def test_formats_hold_the_same(encode, checkpoint, texts, tmp_path):
    outputs = [tmp_path / name for name in ("x.npy", "x.safetensors", "x.jsonl")]
    for output in outputs:
        encode(texts, "--output", output)
    array = np.load(outputs[0])
    with safe_open(outputs[1], "np") as file:
        assert set(file.keys()) == {"embeddings", "lines"}
        np.testing.assert_array_equal(file.get_tensor("embeddings"), array)
        assert file.get_tensor("lines").tolist() == [1, 2, 3, 4, 5, 6]
        made_with = json.loads(file.metadata()["made_with"])
    assert made_with["model"]["name"] == str(checkpoint)
    assert made_with["pooling"] == "mean"
    records = [json.loads(line) for line in outputs[2].read_text("utf-8").splitlines()]
    assert [(r["line"], r["text"]) for r in records] == list(enumerate(LINES, 1))
    embeddings = np.array([r["embedding"] for r in records], dtype=np.float32)
    np.testing.assert_array_equal(embeddings, array)


def test_only_the_output_is_left(encode, texts, tmp_path):
    encode(texts, "--output", tmp_path / "x.npy")
    assert sorted(os.listdir(tmp_path)) == ["texts.txt", "x.npy"]


def test_result_and_notices(encode, command, checkpoint, texts, tmp_path):
    result = encode(texts, "--output", tmp_path / "x.npy", "--json")
    assert f"wrote {tmp_path / 'x.npy'}: 6 x 48, mean pooling" in result.stderr
    summary = json.loads(result.stdout)
    assert summary["output"] == str(tmp_path / "x.npy")
    assert summary["totals"]["texts"] == 6
    assert 1 <= summary["totals"]["mean_iterations"] <= 12
    result = command("encode", texts, "--output", tmp_path / "y.npy")
    assert (
        f"wrote {tmp_path / 'y.npy'}: 6 x 384, mean pooling" in result.stderr
    )  # the shipped model
    assert result.stdout == ""


def test_skip_empty(encode, tmp_path):
    file = tmp_path / "gaps.txt"
    file.write_text("so\n\nquiet .\n")
    encode(file, "--output", tmp_path / "x.jsonl", "--skip-empty")
    records = map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())
    assert [(r["line"], r["text"]) for r in records] == [(1, "so"), (3, "quiet .")]


def test_truncate(encode, tmp_path):
    file = tmp_path / "long.txt"
    file.write_text("word " * 100)
    result = encode(file, "--output", tmp_path / "x.npy", "--truncate")
    assert "1 texts cut" in result.stderr


def test_existing_output_is_kept(encode, error, checkpoint, texts, tmp_path):
    output = tmp_path / "x.npy"
    output.write_bytes(b"precious")
    message = error("encode", texts, "--output", output, "--model", checkpoint)
    assert message.startswith(f"--output: got '{output}', which exists")
    assert output.read_bytes() == b"precious"
    encode(texts, "--output", output, "--force")
    assert np.load(output).shape == (6, 48)


def test_output_that_appears_meanwhile_is_kept(
    command, error, checkpoint, texts, tmp_path, monkeypatch
):
    output = tmp_path / "x.npy"
    compute = text_encoder.encode_packed

    def and_someone_else_writes(*args, **kwargs):
        output.write_bytes(b"precious")
        return compute(*args, **kwargs)

    monkeypatch.setattr(text_encoder, "encode_packed", and_someone_else_writes)
    args = ["encode", texts, "--output", output, "--model", checkpoint]
    message = error(*args)
    assert "which exists" in message
    assert output.read_bytes() == b"precious"
    # Nor is what was computed lost.
    kept = f"6 texts are done and kept in {output}.part: the same command with --resume goes on"
    assert message.endswith(kept)
    monkeypatch.undo()
    assert command(*args, "--resume", "--force").exit_code == 0
    assert np.load(output).shape == (6, 48)
    assert sorted(os.listdir(tmp_path)) == ["texts.txt", "x.npy"]


def test_input_is_never_overwritten(error, checkpoint, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text("so\n")
    args = ["encode", file, "--output", file, "--force", "--model", checkpoint]
    assert "which is INPUT_FILE itself" in error(*args)
    assert file.read_text() == "so\n"


def test_link_stays_a_link(encode, texts, tmp_path):
    (tmp_path / "real.npy").write_bytes(b"old")
    (tmp_path / "link.npy").symlink_to("real.npy")
    encode(texts, "--output", tmp_path / "link.npy", "--force")
    assert (tmp_path / "link.npy").is_symlink()
    assert np.load(tmp_path / "real.npy").shape == (6, 48)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
def test_failure_leaves_nothing_half_written(
    command, checkpoint, texts, tmp_path, monkeypatch, failure
):
    calls = []
    compute = text_encoder.encode_packed

    def fail_second(*args, **kwargs):
        calls.append(args)
        if len(calls) > 1:
            assert "x.npy.part" in os.listdir(tmp_path), "it is made before the work"
            raise failure
        return compute(*args, **kwargs)

    monkeypatch.setattr(text_encoder, "encode_packed", fail_second)
    output = tmp_path / "x.npy"
    args = ["--output", output, "--batch-size", 2, "--model", checkpoint]
    result = command("encode", texts, *args)
    assert result.exit_code == {KeyboardInterrupt: 130, MemoryError: 1}[failure]
    if failure is MemoryError:
        assert re.search(r"line \d of .*: out of memory with this one text", result.stderr)
        assert "--batch-size" in result.stderr
    assert os.listdir(tmp_path) == ["texts.txt"]


def test_values_that_are_not_finite_are_refused(error, checkpoint, texts, tmp_path):
    model = AlbertActModel.from_pretrained(checkpoint)
    with torch.no_grad():
        # Only the token "so", which stands in line 2 alone.
        (so,) = load_tokenizer()("so", add_special_tokens=False)["input_ids"]
        model.embeddings.word_embeddings.weight[so] = float("nan")
    model.save_pretrained(tmp_path / "model")
    args = ["--output", tmp_path / "x.npy", "--model", tmp_path / "model"]
    message = error("encode", texts, *args, status=1)
    assert message.startswith(f"line 2 of {texts}: the model gives values that are not finite")
    assert not (tmp_path / "x.npy").exists()


def test_pooler_of_a_model_without_one(error, texts, tmp_path):
    config = random_config(vocab_size=30000)
    AlbertActForTokenClassification(config).save_pretrained(tmp_path / "model")
    args = ["--output", tmp_path / "x.npy", "--model", tmp_path / "model", "--pooling", "pooler"]
    message = error("encode", texts, *args)
    assert message.startswith("--pooling: got 'pooler', expected 'mean' or 'cls'")
