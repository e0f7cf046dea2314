"""`depth`: the pictures it writes, and probabilities in what it prints."""

from __future__ import annotations

import json

import pytest

TEXTS = ["Call me Ishmael.", "It was the best of times."]


def test_page_beside_what_is_printed(command, checkpoint, tmp_path):
    args = ["depth", "--model", checkpoint, *TEXTS]
    page = tmp_path / "page.html"
    result = command(*args, "--html", page)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == command(*args).stdout
    written = page.read_text(encoding="utf-8")
    assert written.count("<section") == 2
    assert written.endswith("</html>\n")
    assert "polyline" not in written
    command(*args, "--html", page, "--probabilities", "--jsonl")
    assert "polyline" in page.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_probabilities(command, checkpoint):
    args = ["depth", "--json", "--model", checkpoint, *TEXTS]
    plain = json.loads(command(*args).stdout)["texts"]
    found = json.loads(command(*args, "--probabilities").stdout)["texts"]
    for text, other in zip(found, plain, strict=True):
        assert "probabilities" not in other
        assert text["n_updates"] == other["n_updates"]
        for name in ("probabilities", "accumulated"):
            assert [len(row) for row in text[name]] == text["n_updates"]


@pytest.mark.parametrize("kind", ["heat-map", "histograms", "curves"])
def test_pictures(command, checkpoint, kind, tmp_path):
    texts = TEXTS[:1] if kind == "curves" else TEXTS
    path = tmp_path / "out.png"
    args = ["depth", "--model", checkpoint, "--summary", "--plot", path, "--plot-kind", kind]
    assert command(*args, *texts).exit_code == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_inline(command, checkpoint):
    result = command("depth", "--model", checkpoint, "--inline", TEXTS[0])
    line = result.stdout.splitlines()[2]
    assert line.startswith("[CLS]")
    assert "Ish" not in line  # the stock vocabulary splits it, with a number in between
    assert "█" not in result.stdout


def test_what_cannot_be_is_said_before_the_work(error, checkpoint, tmp_path, monkeypatch):
    args = ["depth", "--model", checkpoint, *TEXTS]
    assert "ends in .png, .svg or .pdf" in error(*args, "--plot", tmp_path / "out.jpg")
    assert "a folder; expected" in error(*args, "--html", tmp_path)
    assert "there is no folder" in error(*args, "--html", tmp_path / "no" / "page.html")
    assert error(*args, "--plot-kind", "curves").startswith("--plot-kind: got 'curves' without")
    several = error(*args, "--plot", tmp_path / "a.png", "--plot-kind", "curves", "--json")
    assert "expected one text for curves" in several
    assert error(*args, "--inline", "--json").startswith("--inline: got it with --json")
    assert not list(tmp_path.iterdir())


def test_a_text_that_fails_leaves_no_page(error, checkpoint, tmp_path):
    page = tmp_path / "page.html"
    message = error("depth", "--model", checkpoint, "so", "日本語", "--html", page, "--json")
    assert message.startswith("TEXT 2")
    assert not list(tmp_path.iterdir())
