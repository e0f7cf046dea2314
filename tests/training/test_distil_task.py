"""examples/finetune_teacher.py and distil_task.py end to end on a tiny random teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.teachers import FIXTURES, write_teacher
from support.training_logs import log_of
from transformers import AutoModelForSequenceClassification

from albert_act_fast import AlbertActConfig, AlbertActForSequenceClassification, AlbertActModel
from albert_act_fast.tokenizer import load_tokenizer

COMMON = f"--task sst-2 --data {FIXTURES / 'glue'} --precision fp32 --log-every 2".split()
SIZES = (
    "--steps 6 --warmup 2 --batch-tokens 96 --max-length 24 --depth 3 --halting-lr-factor 1 "
    "--texts-a-source 20 --evaluate-every 0 --other-share 0.5 --altered 0.7 --position-norm 1"
).split()


@pytest.fixture(scope="module")
def tuned(load_example, tmp_path_factory) -> Path:
    """A teacher that has been fine-tuned, all too shortly."""
    folder = tmp_path_factory.mktemp("tuned")
    plain = write_teacher(tmp_path_factory.mktemp("teacher"))
    more = f"--model {plain} --output {folder} --epochs 0.5 --batch-size 8 --max-length 24"
    load_example("finetune_teacher").main([*COMMON, *more.split(), "--evaluate-every", "0"])
    return folder


@pytest.fixture(scope="module")
def begun(tuned, tmp_path_factory) -> Path:
    """The ALBERT-ACT to begin with, of the teacher's tokenizer and width."""
    folder = tmp_path_factory.mktemp("begun")
    tokenizer = load_tokenizer(tuned)
    torch.manual_seed(1)
    config = AlbertActConfig(
        vocab_size=len(tokenizer),
        embedding_size=12,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        num_hidden_layers=6,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    AlbertActModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def distil(load_example, tuned, begun):
    def run(output: Path, *more) -> None:
        given = ("--teacher", tuned, "--model", begun, "--text", FIXTURES / "text")
        arguments = [*COMMON, *given, "--output", output, *SIZES, *more]
        load_example("distil_task").main([*map(str, arguments)])

    return run


@pytest.fixture(scope="module")
def distilled(distil, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("distilled")
    distil(output)
    return output


def test_the_teacher_is_a_classifier_of_the_task(tuned):
    model = AutoModelForSequenceClassification.from_pretrained(tuned)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert set(log_of(tuned)[-1]["held_out"]) == {"accuracy"}


def test_writes_a_classifier_and_a_log(distilled):
    model = AlbertActForSequenceClassification.from_pretrained(distilled)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    log = log_of(distilled)
    assert not {"teacher", "text", "glue", "output"} & set(log[0]["arguments"])
    assert log[0]["texts"]["sst-2"] > 0
    assert log[0]["texts"]["harbour.txt"] > 0
    assert {"answer", "state", "agreed", "tau_per_mille", "depth_all"} <= set(log[1])
    assert {"accuracy", "depth_all", "depth_deviation"} <= set(log[-1]["held_out"])


def test_resumes_exactly(distil, distilled, tmp_path):
    distil(tmp_path, "--stop-after", "3")
    assert "held_out" not in log_of(tmp_path)[-1]
    distil(tmp_path)
    ours, whole = (torch.load(f / "checkpoint.pt")["model"] for f in (tmp_path, distilled))
    assert ours.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0, msg=name)


def test_dev_sentences_are_never_texts(load_example, tuned, begun):
    """Neither as the task's own, nor where GLUE's other sentences stand beside them."""
    example = load_example("distil_task")
    given = [*COMMON, *SIZES, "--teacher", str(tuned), "--model", str(begun), "--output", "."]
    given += ["--glue", str(FIXTURES / "glue"), "--texts-a-source", "100000"]
    args = example.parse_arguments(given)
    task = example.get_task("sst-2")
    texts = example.Texts(args, task, load_tokenizer(begun))
    dev = {e.texts[0].strip().lower() for e in example.read_examples(task, args.data, "dev")}
    train = {e.texts[0].strip().lower() for e in example.read_examples(task, args.data, "train")}
    assert dev
    assert not dev & {text.lower() for text in texts.sources["other"]} - train
    assert any("cola" in source for source in texts.counts)
    assert "sst-2 dev" not in texts.counts


def test_alterations(load_example):
    example = load_example("distil_task")
    texts = ["one two three four", "five six"]
    alter = example.Alterations(texts, "[MASK]", 0.3)
    random = load_example("training").random_for(0)
    words = texts[0].split()
    for _ in range(30):
        assert len(alter._drop(words, random)) < 4
        swapped = alter._swap(words, random)
        assert sorted(swapped) == sorted(words)
        assert "[MASK]" in alter._mask(words, random)
        replaced = alter._replace(words, random)
        assert len(replaced) == 4
        assert set(replaced) <= set(" ".join(texts).split())
        joined = " ".join(alter._join(["seven"], random))
        assert "seven" in joined
        assert any(text in joined for text in texts)
        assert alter("alone", random)
    assert words == texts[0].split()


def test_losses_are_zero_for_the_teacher_itself(load_example):
    losses = load_example("distil_task").distillation_losses
    logits, states = torch.randn(3, 2), torch.randn(9, 16)
    for loss in losses(logits + 1, states, logits, states, 2.0):
        assert abs(loss.item()) < 1e-6
    for loss in losses(-logits, states.flip(0), logits, states, 2.0):
        assert loss > 0.01


def test_positions_that_are_added_have_the_norm_and_differ(load_example, begun):
    example = load_example("distil_task")
    model = AlbertActForSequenceClassification.from_pretrained(begun)
    table = model.albert.embeddings.position_embeddings.weight
    before = table.detach().clone()
    example.Student(model).add_positions(2.0)
    added = table.detach() - before
    torch.testing.assert_close(added.norm(dim=1), torch.full((64,), 2.0))
    assert torch.cdist(added, added).fill_diagonal_(9).min() > 0.1


@pytest.mark.parametrize("task", ["sts-b", "mrpc"])
def test_other_tasks_are_refused(load_example, task):
    with pytest.raises(ValueError, match=f"--task: got {task}"):
        load_example("distil_task").main(
            ["--task", task, "--data", ".", "--teacher", ".", "--model", ".", "--output", "."]
        )
