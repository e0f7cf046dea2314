"""`depth`: what it prints, its JSON document, its numbers."""

from __future__ import annotations

import json

import pytest
import torch

from albert_act_fast import AlbertActModel
from albert_act_fast.cli.output import bar
from albert_act_fast.shipped import shipped_model
from albert_act_fast.tokenizer import load_tokenizer

TEXTS = ["Call me Ishmael.", "so", "It was the best of times, it was the worst of times."]


def directly(folder, text: str):
    """The reference loop on one text alone."""
    tokenizer = load_tokenizer()
    model = AlbertActModel.from_pretrained(folder).eval()
    batch = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        return batch["input_ids"][0].tolist(), model(**batch, implementation="reference")


@pytest.fixture
def document(command, checkpoint):
    def run(*args, **kwargs) -> dict:
        result = command("depth", "--json", "--model", checkpoint, *args, **kwargs)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return json.loads(result.stdout)

    return run


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("implementation", ["torch", "reference", "auto"])
def test_numbers_are_those_of_each_text_alone(document, checkpoint, batch_size, implementation):
    options = ["--batch-size", batch_size, "--implementation", implementation]
    texts = document(*TEXTS, *options)["texts"]
    assert [t["text"] for t in texts] == TEXTS
    for text in texts:
        ids, out = directly(checkpoint, text["text"])
        assert text["input_ids"] == ids
        assert text["n_updates"] == out.n_updates[0].tolist()
        torch.testing.assert_close(torch.tensor(text["remainders"]), out.remainders[0])


def test_model_halts_at_several_depths(document):
    """Else the tests here would say little."""
    assert len({n for t in document(*TEXTS)["texts"] for n in t["n_updates"]}) > 5


def test_json_document(document, checkpoint):
    found = document(TEXTS[0], "--implementation", "torch")
    assert set(found) == {
        "model",
        "rule",
        "implementation",
        "device",
        "dtype",
        "quantization",
        "tokenization",
        "versions",
        "batch_size",
        "texts",
        "totals",
    }
    assert found["model"] == {
        "name": str(checkpoint),
        "shipped": False,
        "hidden_size": 48,
        "iteration_limit": 12,
        "act_epsilon": 0.01,
    }
    assert found["implementation"] == {"name": "torch", "reason": "asked for"}
    assert (found["dtype"], found["batch_size"]) == ("float32", 8)
    assert found["versions"]["torch"] == torch.__version__
    assert {"albert_act_fast", "transformers", "python"} <= set(found["versions"])
    (text,) = found["texts"]
    assert text["tokens"] == ["[CLS]", "▁call", "▁me", "▁is", "hma", "el", ".", "[SEP]"]
    assert [TEXTS[0][a:b] for a, b in text["offsets"]][1:3] == ["Call", "me"]
    assert (text["line"], text["truncated"]) == (None, False)
    assert all(isinstance(n, int) and 1 <= n <= 12 for n in text["n_updates"])
    total = sum(text["n_updates"])
    assert text["totals"] == {
        "tokens": 8,
        "mean_iterations": total / 8,
        "max_iterations": max(text["n_updates"]),
        "updates": total,
    }


def test_rows_against_the_dense_loop(document):
    # The longest first: the second batch is shallower than the first.
    found = document(*reversed(TEXTS), "--batch-size", 2, "--implementation", "torch")
    depths = [t["n_updates"] for t in found["texts"]]
    assert max(depths[2]) < max(map(max, depths[:2]))
    dense = sum(
        len(batch) * max(map(len, batch)) * max(map(max, batch))
        for batch in (depths[:2], depths[2:])
    )
    computed = sum(map(sum, depths))
    assert computed < dense
    tokens = sum(map(len, depths))
    classes = found["totals"].pop("classes")
    assert set(classes) == {"[CLS]", "[SEP]", "text"}
    assert sum(one["tokens"] for one in classes.values()) == tokens
    assert found["totals"] == {
        "texts": 3,
        "skipped": 0,
        "tokens": tokens,
        "mean_iterations": computed / tokens,
        "max_iterations": max(map(max, depths)),
        "rows_computed": computed,
        "rows_dense": dense,
        "rows_ratio": computed / dense,
    }


def test_the_reference_computes_every_row(document):
    totals = document(*TEXTS, "--implementation", "reference")["totals"]
    assert totals["rows_computed"] == totals["rows_dense"]


def test_sources_agree(document, tmp_path):
    file = tmp_path / "texts.txt"
    # A byte order mark, both line endings, none at the end.
    file.write_bytes(b"\xef\xbb\xbf" + f"{TEXTS[0]}\r\n{TEXTS[1]}\n{TEXTS[2]}".encode())
    wanted = [{**t, "line": None} for t in document(*TEXTS)["texts"]]
    for args, stdin in (
        (["--file", file], None),
        ([], file.read_bytes()),
        (["--file", "-"], "\n".join(TEXTS) + "\n"),
    ):
        found = document(*args, stdin=stdin)["texts"]
        assert [t["line"] for t in found] == [1, 2, 3]
        assert [{**t, "line": None} for t in found] == wanted


def test_skip_empty_keeps_line_numbers(document):
    found = document("--skip-empty", stdin="one\n\n  \nfour\n")["texts"]
    assert [(t["line"], t["text"]) for t in found] == [(1, "one"), (4, "four")]


def test_truncate(document):
    long = "word " * 100
    text, short = document("--truncate", long, "so")["texts"]
    assert (text["truncated"], len(text["input_ids"])) == (True, 40)
    assert text["tokens"][0] == "[CLS]"
    assert text["tokens"][-1] == "[SEP]"
    assert not short["truncated"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(document, dtype):
    found = document(*TEXTS, "--dtype", dtype)
    assert found["dtype"] == dtype
    assert all(n >= 1 for t in found["texts"] for n in t["n_updates"])


def test_bars(command, checkpoint, document):
    result = command("depth", "--model", checkpoint, *TEXTS)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert "at most 12 iterations" in lines[0]
    (n_updates, *_) = (t["n_updates"] for t in document(*TEXTS)["texts"])
    start = lines.index(TEXTS[0])
    for line, token, n in zip(
        lines[start + 1 :], "[CLS] ▁call ▁me ▁is hma el . [SEP]".split(), n_updates, strict=False
    ):
        # 24 columns for the limit of 12.
        assert line.split() == [token, str(n), "█" * (2 * n)]
    assert f"max {max(n_updates)}" in lines[start + 9]
    assert "3 texts" in result.stdout
    assert "of the dense loop's" in lines[-1]


def test_nothing_is_cut_coloured_or_taken_for_markup(command, checkpoint, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = "[bold]some words[/bold] " + "again and " * 8
    result = command("depth", "--model", checkpoint, text)
    assert text.strip() in result.stdout.splitlines()
    assert "\x1b" not in result.stdout


def test_bar_is_fine_grained_and_falls_back():
    class Stream:
        def __init__(self, encoding):
            self.encoding = encoding

    assert bar(2.5, Stream("utf-8")) == "██▌"
    assert bar(3, Stream("utf-8")) == "███"
    assert bar(2.9, Stream("latin-1")) == "###"


def test_without_a_model_the_shipped_one_runs(command):
    result = command("depth", "so")
    assert result.stdout.startswith("model  sentence (ships with the package); at most 12 iter")
    found = json.loads(command("depth", "--json", "so").stdout)
    assert (found["model"]["name"], found["model"]["shipped"]) == ("sentence", True)
    folder = shipped_model("sentence")
    by_path = json.loads(command("depth", "--json", "so", "--model", folder).stdout)
    assert by_path["texts"] == found["texts"]
    assert by_path["model"]["shipped"] is False
    assert json.loads(command("depth", "--json", "so", "--model", "sst2").stdout)["texts"]


def test_values_that_are_not_finite_are_refused(error, checkpoint, tmp_path):
    model = AlbertActModel.from_pretrained(checkpoint)
    with torch.no_grad():
        (so,) = load_tokenizer()("so", add_special_tokens=False)["input_ids"]
        model.embeddings.word_embeddings.weight[so] = float("nan")
    model.save_pretrained(tmp_path)
    args = ["--model", tmp_path, "--batch-size", 2]
    found = error("depth", "Call me Ishmael.", "quiet", "quiet", "so", *args, "--json", status=1)
    assert found.startswith("TEXT 4: the model gives values that are not finite in float32")


def test_jsonl_is_the_document_s_texts_as_they_come(command, document, checkpoint):
    result = command("depth", "--jsonl", "--model", checkpoint, *TEXTS)
    assert [json.loads(line) for line in result.stdout.splitlines()] == document(*TEXTS)["texts"]


def test_summary(command, document, checkpoint):
    whole = document(*TEXTS)
    found = document(*TEXTS, "--summary")
    assert "texts" not in found
    assert found["totals"] == whole["totals"]
    classes = found["totals"]["classes"]
    for name, ids in (("[CLS]", {2}), ("[SEP]", {3})):
        depths = [
            n
            for text in whole["texts"]
            for token, n in zip(text["input_ids"], text["n_updates"], strict=True)
            if token in ids
        ]
        assert classes[name] == {
            "tokens": len(depths),
            "mean_iterations": sum(depths) / len(depths),
            "max_iterations": max(depths),
        }
    printed = command("depth", "--summary", "--model", checkpoint, *TEXTS).stdout
    assert "[CLS]" in printed
    assert TEXTS[0] not in printed


def test_split(document, checkpoint):
    book = "One so. Two it was.\n\n" + "word " * 100 + "end.\n日本語\n"
    found = document("--split", stdin=book)
    assert [(t["line"], t["text"]) for t in found["texts"][:2]] == [
        (1, "One so."),
        (1, "Two it was."),
    ]
    rest = [t for t in found["texts"] if t["line"] == 3]
    assert len(rest) == 3
    assert " ".join(t["text"] for t in rest).split() == ["word"] * 100 + ["end."]
    assert all(len(t["tokens"]) <= 40 for t in rest)
    assert found["totals"]["skipped"] == 2


def test_another_rule(document):
    deep, found = document(*TEXTS), document(*TEXTS, "--max-iterations", 2)
    assert found["rule"] == {"max_iterations": 2, "act_epsilon": 0.01}
    for one, other in zip(found["texts"], deep["texts"], strict=True):
        assert one["n_updates"] == [min(n, 2) for n in other["n_updates"]]
    earlier = document(*TEXTS, "--act-epsilon", 0.5)["totals"]
    assert earlier["mean_iterations"] < deep["totals"]["mean_iterations"]


def test_options_that_exclude_each_other(error):
    assert error("depth", "so", "--jsonl", "--summary").startswith("--jsonl: got it with")
    assert error("depth", "so", "--split", "--truncate").startswith("--split, --truncate: got both")


def test_texts_of_unknown_pieces_alone_are_refused(error, document, checkpoint):
    found = error("depth", "so", "日本語", "--model", checkpoint)
    assert found.startswith("TEXT 2: got '日本語', of which the tokenizer's vocabulary knows no")
    # Beside known ones they stand.
    assert document("so 日本語")["texts"][0]["tokens"][1] == "▁so"


def test_threads(document):
    before = torch.get_num_threads()
    try:
        document("so", "--threads", 1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
