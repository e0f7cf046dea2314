"""GLUE's files: every task's format, quotes, byte order marks, and what is wrong where."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from albert_act_fast.glue import TASKS, GlueDataError, get_task, read_examples

FIXTURES = Path(__file__).parents[1] / "fixtures" / "glue"


def write(folder: Path, task: str, text: str, name: str = "dev.tsv") -> Path:
    target = folder / get_task(task).folder / name
    target.parent.mkdir(exist_ok=True)
    target.write_text(text, encoding="utf-8", newline="")
    return folder


def test_all_ten_rows_of_the_model_card():
    published = {
        (task.name, metric): f for task in TASKS.values() for metric, f in task.published.items()
    }
    assert len(TASKS) == 10
    assert published == {
        ("cola", "matthews"): 36.7,
        ("sst-2", "accuracy"): 87.8,
        ("mrpc", "accuracy"): 81.4,
        ("mrpc", "f1"): 86.5,
        ("sts-b", "spearman"): 83.0,
        ("sts-b", "pearson"): 84.2,
        ("qqp", "f1"): 68.5,
        ("qqp", "accuracy"): 87.7,
        ("mnli-m", "accuracy"): 79.9,
        ("mnli-mm", "accuracy"): 79.2,
        ("qnli", "accuracy"): 89.0,
        ("rte", "accuracy"): 63.0,
        ("wnli", "accuracy"): 65.1,
    }
    for task in TASKS.values():
        assert set(task.published) == set(task.metrics)
        assert len(task.labels) == len(task.values)


@pytest.mark.parametrize("name", ["SST-2", "sst2", "sst-2", "SST_2"])
def test_names_of_tasks_are_read_leniently(name):
    assert get_task(name) is TASKS["sst-2"]


def test_unknown_task_lists_the_known_ones():
    with pytest.raises(ValueError, match="got 'imdb', expected one of cola, sst-2, mrpc"):
        get_task("imdb")


def test_single_sentences():
    examples = read_examples(TASKS["sst-2"], FIXTURES)
    assert len(examples) == 6
    assert examples[0] == (("a clever and honest picture",), 1)


def test_an_unpaired_quote_is_a_character_like_any_other():
    examples = read_examples(TASKS["sst-2"], FIXTURES)
    assert examples[1].texts == ('a warm "story',)
    assert examples[2].label == 0


def test_cola_has_no_header():
    examples = read_examples(TASKS["cola"], FIXTURES)
    assert [e.label for e in examples] == [1, 0, 1, 0]
    assert examples[0].texts == ("The girl read the book.",)


def test_scores_are_floats():
    examples = read_examples(TASKS["sts-b"], FIXTURES)
    assert examples[0] == (("A girl is reading.", "A girl reads."), 4.8)


@pytest.mark.parametrize("name", ["mnli-m", "mnli-mm"])
def test_mnli_with_sixteen_columns_and_with_four(name):
    examples = read_examples(TASKS[name], FIXTURES)
    assert [e.label for e in examples] == [0, 1, 2]
    assert examples[1].texts == ("The boat is old.", "The boat is blue.")


def test_byte_order_mark_and_windows_line_ends():
    examples = read_examples(TASKS["mrpc"], FIXTURES)
    assert examples[0] == (("The shop opened in May.", "In May, the shop was opened."), 1)
    assert examples[1].label == 0


def test_the_task_s_own_folder_will_do():
    assert read_examples(TASKS["cola"], FIXTURES / "CoLA") == read_examples(TASKS["cola"], FIXTURES)


def test_other_line_ends_inside_a_text_end_no_row(tmp_path):
    write(tmp_path, "sst-2", "sentence\tlabel\none\u2028two\x85three\rfour\t1\n")
    assert read_examples(TASKS["sst-2"], tmp_path)[0].texts == ("one\u2028two\x85three\rfour",)


def test_malformed_line_is_named_with_what_was_expected():
    with pytest.raises(GlueDataError, match=r"dev\.tsv, line 3: 4 columns, expected 6 \(id, qid1"):
        read_examples(TASKS["qqp"], FIXTURES)


def test_malformed_lines_can_be_skipped():
    examples = read_examples(TASKS["qqp"], FIXTURES, skip_malformed=True)
    assert [e.label for e in examples] == [1, 0]


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("sst-2", "sentence\tlabel\nfine\tgood\n", r"line 2: column 'label': got 'good', expected"),
        ("sst-2", "sentence\tlabel\n \t1\n", r"line 2: column 'sentence' is empty"),
        ("sst-2", "sentence\tlabel\nfine\t1\n\n", r"line 3: 1 columns, expected 2"),
        ("sst-2", "text\tlabel\nfine\t1\n", r"line 1: no column 'sentence' in the header"),
        ("sst-2", "sentence\tlabel\n", r"dev\.tsv: no rows"),
        ("sst-2", "", r"line 1: no column 'sentence', 'label'"),
        ("cola", "a\t2\t\tText.\n", r"line 1: column 'label': got '2', expected one of 0, 1"),
        ("sts-b", "sentence1\tsentence2\tscore\na\tb\tx\n", r"got 'x', expected a number"),
    ],
)
def test_what_is_wrong_and_where(tmp_path, task, text, message):
    write(tmp_path, task, text)
    with pytest.raises(GlueDataError, match=message):
        read_examples(TASKS[task], tmp_path)


def test_missing_file_names_the_place_looked_at(tmp_path):
    with pytest.raises(GlueDataError, match=r"rte, split dev: no file .*RTE.dev\.tsv"):
        read_examples(TASKS["rte"], tmp_path)


def test_another_task_s_folder_is_not_read(tmp_path):
    write(tmp_path, "sst-2", "sentence\tlabel\nfine\t1\n")
    with pytest.raises(GlueDataError, match="no file"):
        read_examples(TASKS["cola"], tmp_path / "SST-2")


def test_unknown_split():
    with pytest.raises(ValueError, match="split: got 'test', expected one of train, dev"):
        read_examples(TASKS["sst-2"], FIXTURES, "test")


def test_hub_without_datasets_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        read_examples(TASKS["sst-2"], "hub")


def test_hub_columns_and_splits(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((*args, kwargs["split"]))
        return [{"premise": "It rains.", "hypothesis": "It is dry.", "label": 2, "idx": 0}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    examples = read_examples(TASKS["mnli-mm"], "hub")
    assert asked == [("nyu-mll/glue", "mnli", "validation_mismatched")]
    assert examples == [(("It rains.", "It is dry."), 2)]
