"""examples/distil.py end to end on a tiny random teacher: what it learns, resumes, refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.teachers import make_tokenizer, write_teacher
from support.training_logs import log_of
from transformers import BertModel

from albert_act_fast import AlbertActModel
from albert_act_fast.tokenizer import load_tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
SIZES = (
    "--steps 8 --warmup 2 --batch-tokens 96 --max-length 24 --held-out 0.1 --intermediate-size 32 "
    "--embedding-size 12 --heads 2 --iterations 6 --depth 3 --halting-from 4 --log-every 2 "
    "--evaluate-every 0 --precision fp32 --teacher-tokens 200 --texts-a-source 20 "
    "--halting-spread 0.5"
).split()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"), "mean_tokens")


@pytest.fixture(scope="module")
def distil(load_example, teacher):
    def run(output: Path, *more, teacher=teacher) -> None:
        given = ("--teacher", teacher, "--text", FIXTURES / "text", "--glue", FIXTURES / "glue")
        arguments = [*given, "--output", output, *SIZES, *more]
        load_example("distil").main([*map(str, arguments)])

    return run


@pytest.fixture(scope="module")
def distilled(distil, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("distilled")
    distil(output)
    return output


def test_help(load_example, capsys):
    distilling = ("distil", "finetune_teacher", "distil_task")
    for script in (*distilling, "finetune_sentence", "wordnet_text", "depth_study"):
        with pytest.raises(SystemExit) as exit:
            load_example(script).main(["--help"])
        assert exit.value.code == 0
        assert f"examples/{script}.py" in capsys.readouterr().out


def test_writes_a_model_its_pooling_and_a_log(distilled, teacher):
    model = AlbertActModel.from_pretrained(distilled)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (16, 6)
    assert model.config.implementation == "auto"
    saved, theirs = load_tokenizer(distilled), load_tokenizer(teacher)
    assert saved("A boat in the sea .")["input_ids"] == theirs("A boat in the sea .")["input_ids"]
    pooling = json.loads((distilled / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] is True
    assert pooling["word_embedding_dimension"] == 16
    log = log_of(distilled)
    assert not {"teacher", "text", "glue", "output"} & set(log[0]["arguments"])
    assert log[0]["texts"]["sts-b train"] > 0
    assert [entry["step"] for entry in log[1:]] == [2, 4, 6, 8, 8]
    assert {"token", "sentence", "similarity", "sts_spearman"} <= set(log[-1]["held_out"])


def test_depth_is_constant_before_the_halting_unit_learns_and_varies_after(distilled):
    log = log_of(distilled)
    assert [entry["depth_deviation"] for entry in log[1:3]] == [0, 0]
    assert [entry["depth_all"] for entry in log[1:3]] == [3, 3]
    assert log[4]["depth_deviation"] > 0
    assert "tau_per_mille" not in log[2]
    assert "tau_per_mille" in log[4]


def test_resumes_exactly(distil, distilled, tmp_path):
    distil(tmp_path, "--stop-after", "5")
    assert "held_out" not in log_of(tmp_path)[-1]
    distil(tmp_path)
    ours, whole = (torch.load(f / "checkpoint.pt")["model"] for f in (tmp_path, distilled))
    assert ours.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0, msg=name)


def test_teacher_s_pass_resumes_exactly(load_example, distilled, teacher, tmp_path, monkeypatch):
    data = load_example("distil_data")
    monkeypatch.setattr(data, "BLOCK", 10)
    args = load_example("distil").parse_arguments(
        [
            *("--teacher", str(teacher), "--text", str(FIXTURES / "text"), "--output", "."),
            *("--glue", str(FIXTURES / "glue"), *SIZES),
        ]
    )
    real, calls = data._states_of, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(data, "_states_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.prepare(args, tmp_path)
    monkeypatch.setattr(data, "_states_of", real)
    data.prepare(args, tmp_path)
    ours, whole = data.TeacherStates(tmp_path), data.TeacherStates(distilled / "teacher")
    assert np.array_equal(ours.ids, whole.ids)
    assert np.array_equal(ours.counts, whole.counts)
    np.testing.assert_allclose(ours.states, whole.states, atol=2e-3)


def test_states_are_those_of_the_teacher(load_example, distilled, teacher):
    data = load_example("distil_data").TeacherStates(distilled / "teacher")
    model = BertModel.from_pretrained(teacher, add_pooling_layer=False).eval()
    for chosen in (0, len(data) // 2, len(data) - 1):
        (row,), states = data.batch([chosen])
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([row])).last_hidden_state[0]
        torch.testing.assert_close(states, expected, atol=2e-3, rtol=2e-3)  # float16 on disk


def test_student_starts_from_what_a_token_says_alone(load_example, distilled):
    """With an embedding as wide as the teacher nothing is lost but the scale."""
    example, student_module = load_example("distil"), load_example("distil_student")
    data = load_example("distil_data").TeacherStates(distilled / "teacher")
    args = example.parse_arguments(
        ["--teacher", ".", "--output", ".", *SIZES, "--embedding-size", "16", "--depth", "2"]
    )
    student = student_module.make_student(args, len(data.static), 16, make_tokenizer())
    explained = student_module.initialise(student, data.static, data.counts, args)
    assert explained > 0.9
    student.eval()
    ids = torch.arange(5, 45).unsqueeze(0)
    with torch.no_grad():
        states = student.encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
    cosine = torch.cosine_similarity(states.last_hidden_state[0], data.static[5:45])
    assert cosine.mean() > 0.9
    assert (states.n_updates == 2).all()


def test_a_narrower_student_gets_a_projection(distil, tmp_path):
    distil(tmp_path, "--hidden-size", "8")
    model = AlbertActModel.from_pretrained(tmp_path)
    assert model.config.hidden_size == 8
    weights = torch.load(tmp_path / "checkpoint.pt")["model"]
    assert weights["projection.weight"].shape == (16, 8)


def test_losses_are_zero_for_the_teacher_itself(load_example):
    states = torch.randn(9, 16)
    lengths = torch.tensor([2, 4, 3])
    for pooling in ("mean", "cls"):
        for loss in load_example("distil").losses(states, states, lengths, pooling, 0.05):
            assert abs(loss.item()) < 1e-5
    worse = load_example("distil").losses(states.flip(0), states, lengths, "mean", 0.05)
    assert all(loss > 0.01 for loss in worse)


def test_tau_rises_while_tokens_go_too_deep(load_example, distilled):
    student_module = load_example("distil_student")
    model = AlbertActModel.from_pretrained(distilled)
    student = student_module.Student(model, 16)
    taus = [student.tau.steer(6.0, 4.0, 1e-4, 1e-5) for _ in range(5)]
    assert taus == sorted(taus)
    assert taus[0] > 1e-4
    for _ in range(100):
        low = student.tau.steer(2.0, 4.0, 1e-4, 1e-5)
    assert low < taus[-1]


def test_other_modules_and_pooling_are_refused(distil, tmp_path):
    dense = write_teacher(tmp_path / "dense", "mean_tokens", ("Dense",))
    with pytest.raises(ValueError, match="Dense is not supported"):
        distil(tmp_path / "out", teacher=dense)
    largest = write_teacher(tmp_path / "max", "max_tokens")
    with pytest.raises(ValueError, match="expected mean or CLS pooling"):
        distil(tmp_path / "out", teacher=largest)


def test_no_text_is_an_error(load_example, teacher, tmp_path):
    main = load_example("distil").main
    with pytest.raises(ValueError, match="--text, --glue: no text found"):
        main(["--teacher", str(teacher), "--output", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match=r"no \*.txt file in it"):
        main(["--teacher", str(teacher), "--output", str(tmp_path), "--text", str(tmp_path / "x")])


def test_glue_labels_are_not_read(load_example, monkeypatch):
    """Whatever the labels say, the texts are the same."""
    data, example = load_example("distil_data"), load_example("distil")
    arguments = ["--teacher", ".", "--output", ".", "--glue", str(FIXTURES / "glue"), *SIZES]
    args = example.parse_arguments(arguments)
    texts = data.read_texts(args)
    real = data.read_examples
    monkeypatch.setattr(
        data,
        "read_examples",
        lambda *a, **k: [example._replace(label=None) for example in real(*a, **k)],
    )
    assert data.read_texts(args) == texts


def test_finetuning_on_scored_pairs(load_example, distilled, tmp_path):
    finetune = load_example("finetune_sentence")
    arguments = ["--data", FIXTURES / "glue", "--model", distilled, "--output", tmp_path]
    arguments += "--steps 4 --batch-size 4 --log-every 2 --precision fp32".split()
    finetune.main([*map(str, arguments)])
    assert "sts_spearman" in log_of(tmp_path)[-1]["held_out"]
    AlbertActModel.from_pretrained(tmp_path)
    assert (tmp_path / "1_Pooling" / "config.json").is_file()


def test_cosent_loss_counts_pairs_in_the_wrong_order(load_example):
    loss = load_example("finetune_sentence").cosent_loss
    scores = torch.tensor([0.0, 2.5, 5.0])
    right = loss(torch.tensor([0.0, 0.5, 1.0]), scores, 20)
    wrong = loss(torch.tensor([1.0, 0.5, 0.0]), scores, 20)
    assert right < 0.01
    assert wrong > 20
