"""Files that texts are read from: formats, compression, and what is no text."""

from __future__ import annotations

import gzip
import json
import sys

import pytest

from albert_act_fast.cli import split, text_formats
from albert_act_fast.cli.errors import CommandError
from albert_act_fast.cli.texts import texts_of_file

TEXTS = ["Call me Ishmael.", 'He said "no, more", and went.', "naïve café"]


def read(path, **kwargs) -> list[tuple[int, str]]:
    kwargs.setdefault("skip_empty", False)
    return [(t.line, t.text) for t in texts_of_file("FILE", str(path), **kwargs)]


def write(path, kind: str) -> None:
    if kind == "jsonl":
        path.write_text(
            "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(TEXTS))
        )
    elif kind == "csv":
        import csv

        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["id", "text"], *enumerate(TEXTS)])
    elif kind == "tsv":
        path.write_text("id\ttext\n" + "".join(f"{i}\t{t}\n" for i, t in enumerate(TEXTS)))
    elif kind == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        table = pyarrow.table({"id": list(range(len(TEXTS))), "text": TEXTS})
        parquet.write_table(table, path)
    else:
        path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "first"), [("txt", 1), ("jsonl", 1), ("csv", 2), ("tsv", 2), ("parquet", 1)]
)
def test_formats(tmp_path, kind, first):
    path = tmp_path / f"texts.{kind}"
    write(path, kind)
    assert read(path) == list(enumerate(TEXTS, first))


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_packed(tmp_path, kind, packed):
    plain = tmp_path / f"texts.{kind}"
    write(plain, kind)
    path = tmp_path / f"texts.{kind}.{packed}"
    if packed == "gz":
        path.write_bytes(gzip.compress(plain.read_bytes()))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        with pyarrow.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(plain.read_bytes())
    assert read(path) == read(plain)


def test_a_field_by_name(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"body": "so"}\n\n{"body": null}\n{"body": "it"}\n')
    texts = texts_of_file("FILE", str(path), skip_empty=True, field="body")
    assert [(t.line, t.text) for t in texts] == [(1, "so"), (4, "it")]
    assert texts.skipped == 2


def test_lines_in_a_csv_are_counted_as_an_editor_does(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text('text\n"one\ntwo"\nthree\n')
    assert read(path) == [(3, "one\ntwo"), (4, "three")]


def test_begins_without_reading_all(tmp_path):
    """A mistake far down is found when its turn comes; what precedes it comes first."""
    path = tmp_path / "texts.txt"
    path.write_bytes(b"so\n" * 1000 + b"caf\xe9\n")
    found = []
    texts = texts_of_file("FILE", str(path), skip_empty=False)
    with pytest.raises(CommandError, match="line 1001 has the byte 0xe9"):
        found.extend(texts)
    assert len(found) == 1000
    assert texts.total == 3005


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", "so\n".encode("utf-16"), "it begins with the mark of UTF-16"),
        ("x.txt", "so\nit\n".encode("utf-16-le"), "line 1 has a NUL byte"),
        ("x.txt", b"one\rtwo\rthree\r", "line 1 has a carriage return inside"),
        ("x.txt", b"so\n\xff\n", "line 2 has the byte 0xff"),
        ("x.jsonl", b'{"text": "so"}\n{"text": \n', "expected JSON on every line: line 2"),
        ("x.jsonl", b'{"body": "so"}\n', "with the key 'text' on every line: line 1 has body"),
        ("x.jsonl", b'["so"]\n', "line 1 has list"),
        ("x.jsonl", b'{"text": 3}\n', "expected strings: line 1 has int in 'text'"),
        ("x.csv", b"body\nso\n", "expected a column 'text', got body"),
        ("x.csv", b"", "expected a column 'text', got nothing"),
        ("x.csv", b"id,text\n1\n", "expected 2 values on every line, .*: line 2 has 1"),
        ("x.csv", b'text\n"so\n', "expected CSV: line 2: unexpected end of data"),
        ("x.tsv", b"text\n", "which holds no text"),
        ("x.parquet", b"no", "which cannot be read as Parquet"),
        ("x.gz", b"no\n", "which cannot be unpacked"),
        ("x.txt.gz", gzip.compress(b"so\n" * 9, mtime=0)[:-12], "which cannot be unpacked"),
    ],
)
def test_what_is_no_text(error, tmp_path, name, content, message):
    import re

    path = tmp_path / name
    path.write_bytes(content)
    found = error("depth", "--file", path)
    assert re.search(message, found), found
    assert str(path) in found


def test_a_line_without_an_end(monkeypatch, tmp_path):
    monkeypatch.setattr(text_formats, "_LONGEST_LINE", 1000)
    path = tmp_path / "x.txt"
    path.write_bytes(b"so " * 1000)
    with pytest.raises(CommandError, match="line 1 is longer than"):
        read(path)


def test_a_package_that_is_missing_is_named(monkeypatch, tmp_path, error):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").touch()
    found = error("depth", "--file", tmp_path / "x.parquet")
    assert "needs the package pyarrow: pip install 'albert_act_fast[files]'" in found
    (tmp_path / "x.txt").write_text("so\n")
    found = error("encode", tmp_path / "x.txt", "-o", tmp_path / "y.parquet")
    assert "needs the package pyarrow" in found


def test_a_field_of_lines(error, tmp_path):
    (tmp_path / "x.txt").write_text("so\n")
    assert error("depth", "--file", tmp_path / "x.txt", "--field", "a").startswith("--field: got")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('"So," he said. "It was." He went.', ['"So," he said.', '"It was."', "He went."]),
        ("At 3.14 it was e.g. so.", ["At 3.14 it was e.g. so."]),
        ("no end", ["no end"]),
        ("  ", []),
    ],
)
def test_sentences(text, sentences):
    assert split.sentences(text) == sentences


def test_windows_hold_all_words_and_fit(checkpoint):
    from albert_act_fast import TextEncoder

    encoder = TextEncoder.from_pretrained(checkpoint)  # at most 40 tokens
    words = [f"{word}{i}" for i in range(40) for word in ("antidisestablish", "so", "3.14")]
    text = "  ".join(words)
    found = list(split.windows(text, encoder))
    assert len(found) > 5
    assert " ".join(found).split() == words
    lengths = [len(encoder.tokenizer(window)["input_ids"]) for window in found]
    assert max(lengths) <= 40
    assert min(lengths[:-1]) > 20
    # A word longer than a window is cut.
    cut = list(split.windows("antidisestablish" * 60, encoder))
    assert "".join(cut) == "antidisestablish" * 60
    assert encoder.encode(cut).shape[0] == len(cut)
