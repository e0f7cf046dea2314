"""`eval`: reference and engine side by side on GLUE's files."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from support.models import random_model

from albert_act_fast import AlbertActForSequenceClassification, glue, native
from albert_act_fast.cli import loading
from albert_act_fast.glue import evaluate as evaluate_task
from albert_act_fast.glue import get_task
from albert_act_fast.ops import ARGUMENTS, torch_ops
from albert_act_fast.tokenizer import load_tokenizer

GLUE = Path(__file__).parents[1] / "fixtures" / "glue"


def classifier(folder: Path, task: str = "sst-2", **overrides) -> Path:
    labels = dict(enumerate(get_task(task).labels)) or {0: "LABEL_0"}
    names = {"id2label": labels, "label2id": {label: i for i, label in labels.items()}}
    model = random_model(
        4, model_class=AlbertActForSequenceClassification, vocab_size=30000, **names | overrides
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory) -> Path:
    return classifier(tmp_path_factory.mktemp("sst-2"))


def arguments(task: str, model: Path | str, *more: object) -> tuple:
    return ("eval", "--task", task, "--data", GLUE, "--model", model, *more)


def test_the_document_holds_what_the_library_computes(command, sentiment):
    document = json.loads(command(*arguments("sst-2", sentiment, "--json")).stdout)
    (row,) = document["rows"]
    model = AlbertActForSequenceClassification.from_pretrained(sentiment)
    for name in ("reference", "engine"):
        expected = evaluate_task(
            model, load_tokenizer(), "sst-2", GLUE, row[name]["implementation"]
        )
        assert row[name]["metrics"] == pytest.approx(expected.metrics)
        assert row[name]["rows_computed"] == expected.rows_computed
        assert row[name]["mean_depth"] == pytest.approx(expected.mean_depth)
    assert row["reference"]["implementation"] == "reference"
    assert row["engine"]["implementation"] != "reference"
    assert row["engine"]["rows_computed"] < row["reference"]["rows_computed"]
    assert row["differing_predictions"] == []
    assert row["published_albert_act_base"] == {"accuracy": 87.8}
    assert document["not_run"] == {}


@pytest.mark.skipif(native.why_no_cpp is not None, reason=str(native.why_no_cpp))
def test_int8_is_compared_with_full_precision(command, sentiment):
    result = command(*arguments("sst-2", sentiment, "--quantization", "int8", "--json"))
    (row,) = json.loads(result.stdout)["rows"]
    assert (row["dtype"], row["quantization"]) == ("float32", "int8")
    model = AlbertActForSequenceClassification.from_pretrained(sentiment).quantize("int8")
    rounded, full = (
        evaluate_task(model, load_tokenizer(), "sst-2", GLUE, name) for name in ("cpp", "reference")
    )
    difference = (rounded.logits - full.logits).abs().max().item()
    assert row["largest_logit_difference"] == pytest.approx(difference, rel=1e-6)
    assert difference > 1e-5


def test_int8_is_refused_where_it_cannot_be_computed(command, sentiment):
    result = command(
        *arguments("sst-2", sentiment, "--quantization", "int8", "--implementation", "torch")
    )
    assert result.exit_code == 2
    assert "--quantization: got 'int8', which only implementation 'cpp'" in result.stderr


def test_the_table_shows_both_sides(command, sentiment):
    result = command(*arguments("SST2", sentiment, "--implementation", "torch"))
    assert result.exit_code == 0
    for piece in ("sst-2", "accuracy", "87.8", "engine: torch, float32", "of 12", "predictions"):
        assert piece in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 200


def test_all_tasks_in_one_command(command, sentiment, tmp_path):
    classifier(tmp_path / "sts-b", "sts-b")
    classifier(tmp_path / "mnli-m", "mnli-m")
    (tmp_path / "sst-2").symlink_to(sentiment)
    result = command(*arguments("all", tmp_path / "{task}", "--json"))
    document = json.loads(result.stdout)
    assert [row["task"] for row in document["rows"]] == ["sst-2", "sts-b", "mnli-m"]
    assert document["not_run"].keys() == {
        "cola", "mrpc", "qqp", "mnli-mm", "qnli", "rte", "wnli"
    }  # fmt: skip
    assert "does not exist" in document["not_run"]["cola"]


def test_one_model_for_all_tasks_is_scored_on_those_it_fits(command):
    """The sentiment model has as many labels as six other tasks."""
    document = json.loads(command(*arguments("all", "sst2", "--json")).stdout)
    assert [row["task"] for row in document["rows"]] == ["sst-2"]
    assert document["not_run"]["cola"].startswith(
        "labels: the model's are negative, positive; cola expects unacceptable, acceptable."
    )
    assert "wnli expects not_entailment, entailment" in document["not_run"]["wnli"]
    assert len(document["not_run"]) == 9


def test_a_sentence_encoder_is_scored_by_cosine(command, error):
    """`sentence` has no head: of the ten tasks a cosine fits one."""
    result = command(*arguments("sts-b", "sentence"))
    assert "sts-b: scored by the cosine of mean-pooled embeddings" in result.stdout
    document = json.loads(command(*arguments("all", "sentence", "--json")).stdout)
    (row,) = document["rows"]
    assert (row["task"], row["scored_by"]) == ("sts-b", "cosine of mean-pooled embeddings")
    assert row["differing_predictions"] == []
    assert len(document["not_run"]) == 9
    assert "expected sts-b: a model without a head" in error(*arguments("sst-2", "sentence"))


def test_pooling_that_is_not_known_is_refused(error, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    (tmp_path / "1_Pooling").mkdir()
    settings = tmp_path / "1_Pooling" / "config.json"
    settings.write_text('{"pooling_mode_max_tokens": true}')
    assert "pooling_mode_max_tokens" in error(*arguments("sts-b", tmp_path))


def test_labels_can_be_named(command, error, tmp_path):
    """The model says LABEL_0 and LABEL_1."""
    unnamed = classifier(tmp_path, id2label=None, label2id=None, num_labels=2)
    assert "the model's are LABEL_0, LABEL_1" in error(*arguments("sst-2", unnamed))
    accuracies = []
    for labels in ("negative,positive", "positive, negative"):
        result = command(*arguments("sst-2", unnamed, "--labels", labels, "--json"))
        (row,) = json.loads(result.stdout)["rows"]
        accuracies.append(row["engine"]["metrics"]["accuracy"])
    assert sum(accuracies) == pytest.approx(100)
    message = error(*arguments("sst-2", unnamed, "--labels", "positive,neutral"))
    assert "labels: got positive, neutral; sst-2 expects negative, positive" in message


@pytest.mark.parametrize(
    ("missing", "data"), [("sklearn", GLUE), ("scipy", GLUE), ("datasets", "hub")]
)
def test_missing_packages_are_named_before_a_model_is_loaded(error, monkeypatch, missing, data):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(loading, "load_scorable", lambda *_: pytest.fail("a model is loaded"))
    for task in ("sst-2", "all"):
        message = error("eval", "--task", task, "--data", data, "--model", "sst2")
        assert "pip install" in message


def test_nothing_to_run_is_an_error(command, tmp_path):
    result = command("eval", "--task", "all", "--data", tmp_path, "--model", "sst2", "--json")
    assert result.exit_code == 2
    assert len(json.loads(result.stdout)["not_run"]) == 10
    assert "none could be run" in result.stderr


def test_in_half_precision_differences_are_reported(command, sentiment):
    document = json.loads(
        command(*arguments("sst-2", sentiment, "--dtype", "bfloat16", "--json")).stdout
    )
    assert document["rows"][0]["dtype"] == "bfloat16"
    assert 0 <= document["rows"][0]["differing_depths"] <= 1


def test_differing_predictions_fail_loudly(error, sentiment, monkeypatch):
    """An engine that is wrong: its rows come back in another order."""

    def wrong(*values):
        arguments = ARGUMENTS["scatter_rows"](*values)
        torch_ops.scatter_rows(arguments._replace(rows=-arguments.rows))

    library = torch.library.Library("albert_act_fast", "IMPL")
    library.impl("scatter_rows.torch", wrong, "CPU")
    try:
        message = error(*arguments("sst-2", sentiment, "--implementation", "torch"), status=1)
    finally:
        library._destroy()
    assert "predict" in message
    assert "differently" in message


def test_a_task_that_fails_takes_no_other_s_row_away(command, sentiment, tmp_path, monkeypatch):
    classifier(tmp_path / "sts-b", "sts-b")
    (tmp_path / "sst-2").symlink_to(sentiment)
    compare = glue.compare

    def differs_on_sts_b(model, tokenizer, task, *args, **kwargs):
        if task.name == "sts-b":
            raise glue.PredictionsDiffer("sts-b: predicted differently")
        return compare(model, tokenizer, task, *args, **kwargs)

    monkeypatch.setattr(glue, "compare", differs_on_sts_b)
    result = command(*arguments("all", tmp_path / "{task}", "--json"))
    document = json.loads(result.stdout)
    assert [row["task"] for row in document["rows"]] == ["sst-2"]
    assert "predicted differently" in document["not_run"]["sts-b"]
    assert (result.exit_code, "failed: sts-b" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("glue", "got 'glue', expected one of cola, sst-2"),
        ("rte", "rte expects entailment, not_entailment"),
        ("mnli-m", "the model has 2, expected 3"),
    ],
)
def test_task_errors(error, sentiment, task, message):
    assert message in error(*arguments(task, sentiment))
    assert "no file" in error(*arguments("rte", sentiment, "--labels", "entailment,not_entailment"))


def test_model_errors(error, checkpoint, tmp_path):
    assert "classifier.bias" in error(*arguments("sst-2", checkpoint))
    assert "does not exist" in error(*arguments("sst-2", tmp_path / "none"))
    assert "reference" in error(*arguments("sst-2", checkpoint, "--implementation", "fast"))


def test_a_model_that_gives_no_numbers_has_no_score(error, sentiment, tmp_path):
    model = AlbertActForSequenceClassification.from_pretrained(sentiment)
    with torch.no_grad():
        model.albert.encoder.albert_layer.ffn.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path)
    for more in ([], ["--json"]):
        message = error(*arguments("sst-2", tmp_path, *more), status=1)
        assert "gives values that are not finite for" in message


def test_max_length_beyond_the_model_s(error, sentiment):
    message = error(*arguments("sst-2", sentiment, "--max-length", 65))
    assert message.startswith("--max-length: got 65, expected at most 64")


@pytest.mark.parametrize("width", [80, 400])
def test_no_column_is_lost_in_a_narrow_terminal(sentiment, width, capsys):
    from rich.console import Console

    from albert_act_fast.cli import evaluate
    from albert_act_fast.cli.output import print_table
    from albert_act_fast.glue import TASKS, compare

    model = AlbertActForSequenceClassification.from_pretrained(sentiment)
    result = compare(model, load_tokenizer(), "sst-2", GLUE, max_length=64)
    console = Console(width=width)
    print_table(console, evaluate._COLUMNS, evaluate._cells(TASKS["sst-2"], result))
    printed = capsys.readouterr().out
    for name in evaluate._COLUMNS:
        assert name in printed
    for cell in evaluate._cells(TASKS["sst-2"], result)[0]:
        assert cell in printed
