"""transformers' Trainer on the models: an epoch, and an evaluation of ragged lengths."""

import numpy as np
import pytest
import torch
from support import models as builders
from transformers import Trainer, TrainingArguments

import albert_act_fast as aaf

# Batches of 4 differ in their longest sequence, so what is per token cannot be stacked.
LENGTHS = (9, 3, 5, 2, 7, 7, 1, 4, 12, 3, 6, 6, 2, 4, 3, 5)


def samples() -> list[dict]:
    return [
        {
            "input_ids": builders.ids(length, seed=row).tolist(),
            "attention_mask": [1] * length,
            "labels": row % 2,
        }
        for row, length in enumerate(LENGTHS)
    ]


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    return {
        "labels": torch.tensor([row["labels"] for row in rows]),
        **{
            name: torch.tensor([row[name] + [0] * (width - len(row[name])) for row in rows])
            for name in ("input_ids", "attention_mask")
        },
    }


def make_trainer(model, path, **arguments) -> Trainer:
    settings = {
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(path), **(settings | arguments)),
        train_dataset=samples(),
        eval_dataset=samples(),
        data_collator=collate,
        compute_metrics=lambda result: {
            "accuracy": float((result.predictions.argmax(-1) == result.label_ids).mean())
        },
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_an_epoch_trains_every_weight(checkpointing, tmp_path):
    model = builders.model(aaf.AlbertActForSequenceClassification, act_tau=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = make_trainer(model, tmp_path, gradient_checkpointing=checkpointing)
    result = trainer.train()
    assert result.global_step == 4
    assert np.isfinite(result.training_loss)
    for name, parameter in model.named_parameters():
        if not name.endswith("key.bias"):  # its gradient is 0: a softmax is blind to it
            assert not torch.equal(parameter, before[name]), name


def test_evaluation_of_ragged_lengths_gathers_logits_alone(tmp_path):
    model = builders.model(aaf.AlbertActForSequenceClassification)
    trainer = make_trainer(model, tmp_path)
    metrics = trainer.evaluate()
    predicted = trainer.predict(samples())
    assert isinstance(predicted.predictions, np.ndarray)
    assert predicted.predictions.shape == (16, 2)
    with torch.no_grad():
        for row, sample in enumerate(samples()):
            logits = model(torch.tensor([sample["input_ids"]])).logits
            np.testing.assert_allclose(predicted.predictions[row], logits[0], atol=1e-5)
    right = predicted.predictions.argmax(-1) == [sample["labels"] for sample in samples()]
    assert metrics["eval_accuracy"] == pytest.approx(right.mean())
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(predicted.predictions), torch.tensor([s["labels"] for s in samples()])
    )
    assert metrics["eval_loss"] == pytest.approx(expected.item(), abs=1e-5)


def test_everything_per_token_is_ignored_at_inference():
    model, inputs = builders.model(aaf.AlbertActForSequenceClassification), builders.batch()
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    kept = set(output) - set(model.config.keys_to_ignore_at_inference)
    assert kept == {"logits"}


@pytest.mark.parametrize("full", [False, True], ids=["autocast", "cast"])
def test_training_in_bfloat16(full, tmp_path):
    model = builders.model(aaf.AlbertActForSequenceClassification)
    trainer = make_trainer(model, tmp_path, bf16=True, bf16_full_eval=full)
    assert np.isfinite(trainer.train().training_loss)
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_a_checkpoint_of_the_trainer_loads_again(tmp_path):
    model = builders.model(aaf.AlbertActForSequenceClassification)
    trainer = make_trainer(model, tmp_path, save_strategy="epoch")
    trainer.train()
    loaded = aaf.AlbertActForSequenceClassification.from_pretrained(tmp_path / "checkpoint-4")
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True)
    )
    resumed = make_trainer(
        builders.model(aaf.AlbertActForSequenceClassification), tmp_path, num_train_epochs=2
    )
    assert resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4")).global_step == 8
