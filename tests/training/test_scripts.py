"""The scripts in examples/ run end to end on a few invented sentences, and resume exactly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.training_logs import log_of

from albert_act_fast import AlbertActForPreTraining, AlbertActForSequenceClassification
from albert_act_fast.glue import GlueDataError, evaluate
from albert_act_fast.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
PRETRAIN = (
    "--steps 6 --warmup 2 --batch-tokens 128 --max-length 24 --held-out 0.2 --hidden-size 16 "
    "--intermediate-size 32 --heads 2 --embedding-size 8 --iterations 4 --log-every 2 "
    "--evaluate-every 0 --precision fp32"
).split()
FINETUNE = "--steps 6 --batch-size 4 --log-every 2 --precision fp32".split()


def without_times(log: list[dict]) -> list[dict]:
    return [{k: v for k, v in entry.items() if k != "seconds_per_step"} for entry in log]


def assert_same_weights(one, other):
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=0, atol=0, msg=name)


@pytest.fixture(scope="module")
def pretrain(load_example):
    def run(output: Path, *more) -> None:
        data = ("--text", FIXTURES / "text", "--output", output)
        load_example("pretrain").main([*map(str, data), *PRETRAIN, *more])

    return run


@pytest.fixture(scope="module")
def pretrained(pretrain, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("pretrained")
    pretrain(output)
    return output


@pytest.fixture
def finetune(load_example, pretrained):
    def run(output: Path, task: str, *more) -> None:
        data = ("--data", FIXTURES / "glue", "--model", pretrained, "--output", output)
        arguments = [*map(str, data), "--task", task, *FINETUNE, *more]
        load_example("finetune_glue").main(arguments)

    return run


@pytest.mark.parametrize("script", ["pretrain", "finetune_glue"])
def test_help(load_example, script, capsys):
    with pytest.raises(SystemExit) as exit:
        load_example(script).main(["--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert "--tau" in text
    assert "resume" in text


def test_pretraining_writes_model_and_log(pretrained):
    model = AlbertActForPreTraining.from_pretrained(pretrained)
    assert model.config.num_hidden_layers == 4
    log = log_of(pretrained)
    assert log[0]["arguments"]["hidden_size"] == 16
    assert "text" not in log[0]["arguments"]
    assert [entry["step"] for entry in log[1:]] == [2, 4, 6, 6]
    for entry in (log[1], log[-1]["held_out"]):
        wanted = {f"depth_{kind}" for kind in ("all", "mask", "unmasked", "cls", "sep")}
        assert wanted | {"mlm_loss", "mlm_accuracy", "sop_accuracy"} <= set(entry)
    saved = load_tokenizer(pretrained)
    assert saved("A boat.")["input_ids"] == load_tokenizer()("A boat.")["input_ids"]


def test_pretraining_resumes_exactly(pretrain, pretrained, tmp_path):
    pretrain(tmp_path, "--stop-after", "3")
    assert "held_out" not in log_of(tmp_path)[-1]
    pretrain(tmp_path)
    one, other = map(AlbertActForPreTraining.from_pretrained, (pretrained, tmp_path))
    assert_same_weights(one, other)
    assert without_times(log_of(tmp_path))[-1] == without_times(log_of(pretrained))[-1]


def test_arguments_changed_on_resuming_are_logged(pretrain, tmp_path):
    pretrain(tmp_path, "--stop-after", "2")
    pretrain(tmp_path, "--stop-after", "4", "--tau", "0.01")
    changes = [entry for entry in log_of(tmp_path)[1:] if "arguments" in entry]
    assert changes == [{"step": 2, "arguments": {"tau": 0.01}}]


def test_halting_can_be_held_back_and_started_anew(pretrain, pretrained, tmp_path):
    pretrain(
        tmp_path / "1", "--halting-from", "9", "--halting-bias", "-0.9", "--halting-spread", "0"
    )
    depths = {v for entry in log_of(tmp_path / "1")[1:4] for k, v in entry.items() if "depth" in k}
    assert depths == {4.0}  # sigmoid(-0.9) = 0.29, the same for all tokens: four iterations
    more = ("--model", str(pretrained), "--halting-bias", "5", "--steps", "1", "--lr", "0")
    pretrain(tmp_path / "2", *more)
    assert log_of(tmp_path / "2")[1]["depth_all"] == 1.0


@pytest.mark.slow
def test_compiled_layer_trains_the_same(pretrain, pretrained, tmp_path):
    pretrain(tmp_path, "--compile")
    plain, compiled = (log_of(folder)[-2] for folder in (pretrained, tmp_path))
    assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    assert compiled["depth_all"] == pytest.approx(plain["depth_all"], abs=0.05)


@pytest.mark.parametrize("task", ["sst-2", "cola", "sts-b"])
def test_finetuning_gives_a_model_that_evaluate_takes(finetune, tmp_path, task):
    finetune(tmp_path, task, "--save-dtype", "float16")
    model = AlbertActForSequenceClassification.from_pretrained(tmp_path)
    assert model.dtype == torch.float32  # stored as float16
    if task == "sst-2":
        assert model.config.id2label == {0: "negative", 1: "positive"}
    result = evaluate(model, load_tokenizer(tmp_path), task, FIXTURES / "glue")
    assert set(result.metrics) <= set(log_of(tmp_path)[-1]["held_out"])


def test_finetuning_resumes_exactly(finetune, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finetune(whole, "sst-2")
    finetune(stopped, "sst-2", "--stop-after", "4")
    finetune(stopped, "sst-2")
    one, other = map(AlbertActForSequenceClassification.from_pretrained, (whole, stopped))
    assert_same_weights(one, other)


def test_tau_is_weighed_by_the_batch_s_depth(load_example):
    steered = load_example("finetune_glue").steered
    depths = torch.tensor([3, 5])
    assert steered(1e-4, depths, None) == steered(1e-4, depths, 4.0) == 1e-4
    assert steered(1e-4, depths, 2.0) == pytest.approx(256e-4)
    assert steered(1e-4, depths, 8.0) == pytest.approx(1e-4 / 256)


def test_rates_of_the_groups(load_example, pretrained):
    training = load_example("training")
    model = AlbertActForSequenceClassification.from_pretrained(pretrained)
    optimizer = training.make_optimizer(model, 0.01)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {g["name"]: {names[id(p)] for p in g["params"]} for g in optimizer.param_groups}
    tables = ("word", "position", "token_type")
    assert groups["embeddings"] == {f"albert.embeddings.{t}_embeddings.weight" for t in tables}
    assert groups["halting"] == {n for n in names.values() if ".act.dense." in n}
    assert set().union(*groups.values()) == set(names.values())
    training.Schedule(10, 1e-3, 0, 0.1, halting_from=1, embedding_factor=20).apply(optimizer, 0)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx(
        {"matrices": 1e-3, "vectors": 1e-3, "halting": 0, "embeddings": 2e-2}
    )


def test_finetuning_begins_only_with_what_its_end_needs(finetune, tmp_path, monkeypatch):
    data = tmp_path / "glue"
    (data / "SST-2").mkdir(parents=True)
    train = FIXTURES / "glue" / "SST-2" / "train.tsv"
    (data / "SST-2" / "train.tsv").write_bytes(train.read_bytes())
    with pytest.raises(GlueDataError, match=r"no file .*dev\.tsv"):
        finetune(tmp_path / "output", "sst-2", "--data", str(data))
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        finetune(tmp_path / "output", "sst-2")
    assert not (tmp_path / "output").exists()


def test_text_that_is_missing_is_named_by_the_script_itself(tmp_path):
    command = [sys.executable, "examples/pretrain.py", "--text", tmp_path, "--output", tmp_path]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert f"{tmp_path}: no *.txt file in it" in done.stderr
