"""`classify`: a line a text, in its order."""

from __future__ import annotations

import json

import pytest

from albert_act_fast import TextEncoder

TEXTS = ["A warm, funny and honest film.", "awful", "It was a mess.", "so good"]


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    return file


def test_lines(command, file):
    expected = TextEncoder.from_pretrained("sst2").classify(TEXTS)
    result = command("classify", file)
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert rows == [[str(i), one.label, f"{one.score:.4f}"] for i, one in enumerate(expected, 1)]


def test_json(command, file):
    document = json.loads(command("classify", file, "--json", "--max-iterations", 3).stdout)
    assert document["rule"] == {"max_iterations": 3, "act_epsilon": 0.01}
    lines = command("classify", file, "--jsonl", "--max-iterations", 3).stdout.splitlines()
    assert [json.loads(line) for line in lines] == document["texts"]
    assert [text["text"] for text in document["texts"]] == TEXTS
    for text in document["texts"]:
        assert set(text["scores"]) == {"negative", "positive"}
        assert text["score"] == max(text["scores"].values())
        assert text["mean_iterations"] <= 3


def test_empty_lines(command, error, tmp_path):
    file = tmp_path / "gaps.txt"
    file.write_text("so\n\n日本語\nbad\n")
    assert f"line 2 of {file} is empty" in error("classify", file)
    result = command("classify", file, "--skip-empty")
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["1", "4"]
    assert result.stderr == "albert-act-fast: 2 empty texts left out\n"


def test_errors(error, file, checkpoint):
    assert "expected a AlbertActForSequenceClassification" in error(
        "classify", file, "--model", checkpoint
    )
    assert error("classify", file, "--max-iterations", 99).startswith("--max-iterations: got 99")
    assert error("classify", file, "--act-epsilon", 2).startswith("--act-epsilon: got 2")
    assert error("classify", file, "--json", "--jsonl").startswith("--json, --jsonl: got both")
